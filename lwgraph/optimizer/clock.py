"""The time of a run: how much is left, and what ends when none is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from lwgraph.alarm import OutOfTime, alarm

Progress = Callable[[str, int, int], None]
GRACE, GRACE_SHARE = 3.0, 0.05  # seconds, or share of the budget, after which work that does not ask is ended


@dataclass
class Clock:
    """The budget of a run.

    Work is asked to end by `check`, which everything calls that reports progress or runs a model, so it overruns by one
    step of work at most. Work that does not ask, such as a plug-in that never ends, is ended a grace later.

    Attributes:
        budget: seconds of the whole run; None: no limit.
        reserve: seconds that are kept for what has to follow.
        horizon: seconds of the run after which no more is searched; inf outside of a search that is limited.
        now: a monotone clock in seconds.
    """

    budget: float | None = None
    reserve: float = 0.0
    now: Callable[[], float] = time.monotonic
    start: float = field(init=False)
    horizon: float = field(init=False, default=math.inf)
    _ends: list[float] = field(init=False, default_factory=list)  # of the work under way, in seconds of the run

    def __post_init__(self) -> None:
        self.start = self.now()

    def restart(self, budget: float | None) -> None:
        """Begin anew, with another budget, or none."""
        self.start, self.budget = self.now(), budget

    @property
    def spent(self) -> float:
        """Seconds since the run began."""
        return self.now() - self.start

    @property
    def left(self) -> float:
        """Seconds that work may still take, what follows it left out; inf where nothing limits it."""
        end = self.horizon if self.budget is None else min(self.horizon, self.budget - self.reserve)
        return max(0.0, end - self.spent)

    def check(self) -> None:
        """Raise OutOfTime when the time of the work under way is over."""
        if self._ends and self.spent > min(self._ends):
            raise OutOfTime

    @contextmanager
    def searching(self, until: float) -> Iterator[None]:
        """Within: what is left ends when the run is so many seconds old, too."""
        before, self.horizon = self.horizon, until
        try:
            yield
        finally:
            self.horizon = before

    @contextmanager
    def limit(self, seconds: float = math.inf) -> Iterator[None]:
        """Within: work ends after so many seconds, and in any case when the budget does."""
        seconds = min(seconds, self.left)
        self._ends.append(self.spent + seconds)
        try:
            with alarm(seconds + max(GRACE, GRACE_SHARE * (self.budget or 0.0))):
                yield
        finally:
            self._ends.pop()

    def watching(self, progress: Progress) -> Progress:
        """The progress callback that checks the time as well."""

        def watched(what: str, done: int, total: int) -> None:
            self.check()
            progress(what, done, total)

        return watched


__all__ = ["Clock", "OutOfTime", "Progress"]
