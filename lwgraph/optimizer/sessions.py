"""Sessions of large models, each of which may hold a copy of all weights, within the room that there is for them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakSet

from lwgraph import heap, ir
from lwgraph.executor import Array, Executor, Feeds, Run
from lwgraph.optimizer.memory import weights

SMALL = 1 / 8  # of the room: sessions that take less come and go as they are


@dataclass(eq=False)
class Sessions:
    """Of sessions that do not fit together, those that ran longest ago are let go, and made anew when they run again.

    Attributes:
        room: bytes of weights that sessions may hold together; one alone may hold more.
    """

    room: float = math.inf
    _large: WeakSet[LargeRun] = field(default_factory=WeakSet, repr=False)

    def prepare(self, executor: Executor, model: ir.Model, outputs: Sequence[str] | None) -> Run:
        """See `Executor.prepare`."""
        size = weights(model)
        if size < SMALL * self.room:
            return executor.prepare(model, outputs)
        run = LargeRun(self, executor, ir.clone(model), outputs, size)
        self._large.add(run)
        run.ready()
        return run

    def make_room(self, size: int) -> None:
        """Let go of sessions until there is room for one more of so many bytes."""
        held = sorted((run for run in self._large if run.held), key=lambda run: run.last)
        excess = sum(run.bytes for run in held) + size - self.room
        for run in held:
            if excess <= 0:
                break
            run.let_go()
            excess -= run.bytes
            heap.trim()


_turns = itertools.count()


class LargeRun:
    """A run whose session is made anew where it was let go.

    Attributes:
        bytes: of weights.
        last: rises with each run.
    """

    def __init__(
        self, sessions: Sessions, executor: Executor, model: ir.Model, outputs: Sequence[str] | None, size: int
    ) -> None:
        self.bytes, self.last = size, 0
        self._sessions, self._made = sessions, (executor, model, outputs)
        self._run: Run | None = None

    @property
    def room(self) -> float:
        """Bytes that sessions may hold together."""
        return self._sessions.room

    @property
    def held(self) -> bool:
        """Whether the session is there."""
        return self._run is not None

    def ready(self) -> Run:
        """The session's run, made where it is not there."""
        self.last = next(_turns)
        if self._run is None:
            self._sessions.make_room(self.bytes)
            executor, model, outputs = self._made
            self._run = executor.prepare(model, outputs)
        return self._run

    def let_go(self) -> None:
        """Free the session."""
        self._run = None

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        """Run once."""
        return self.ready()(feeds)


__all__ = ["LargeRun", "Sessions"]
