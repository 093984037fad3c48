"""Makes plans as they would be delivered, and finds out what they are: judged by the metric, and timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lwgraph import ir
from lwgraph.errors import LwgraphError
from lwgraph.optimizer.goal import Goal
from lwgraph.optimizer.judge import Judge
from lwgraph.plan.search.front import Candidate
from lwgraph.rewrite.base import Context

Key = tuple[tuple[int, ...], tuple[str, ...]]
Milliseconds = Callable[[ir.Model], float] | None
Race = Callable[[Sequence[ir.Model]], Sequence[float]] | None
CLOSE = 1.3  # plans that were timed within this factor of the fastest are raced against each other
DOUBT = 1.1  # a plan that is predicted to take this many times what is measured of a good one is not looked at


@dataclass(frozen=True, eq=False)
class Made:
    """A candidate with its plan and what was found out of it, its model, and what passes told the report of it."""

    candidate: Candidate
    model: ir.Model
    details: Mapping[str, Any] = field(default_factory=dict)


Maker = Callable[[Candidate], Made]


class Bench:
    """Looks at candidates, at each once.

    Args:
        make: carries a candidate out as it would be delivered: the model, and the candidate with its plan and what is
            known of it then; LwgraphError where that cannot be done.
        judge: of the metric.
        goal: the promises.
        milliseconds: of one run of a model, measured; None where that cannot be done: predictions count then.
        race: of several models, timed in turn; None: what `milliseconds` says decides.
        base_ms: milliseconds of the network as it was, on the clock of the candidates' predictions.
        context: gets warnings and progress.

    Attributes:
        floor: the least score that keeps the promise on the metric; None where other promises count alone: the user
            stated speed or size, but no accuracy.
    """

    def __init__(
        self,
        make: Maker,
        judge: Judge,
        goal: Goal,
        milliseconds: Milliseconds,
        race: Race = None,
        *,
        base_ms: float,
        context: Context,
    ) -> None:
        self.make, self.judge, self.goal, self.context = make, judge, goal, context
        self.milliseconds, self.race, self.base_ms = milliseconds, race, base_ms
        self.floor = None if goal.limited and not judge.stated else judge.floor
        self._made: dict[Key, Made | None] = {}

    def look(self, candidate: Candidate) -> bool:
        """Whether the candidate keeps the promise on the metric."""
        found = self.made(candidate)
        return found is not None and bool(found.candidate.accepted)

    def made(self, candidate: Candidate) -> Made | None:
        """What became of a candidate; None when it could not be made or run."""
        if candidate.key not in self._made:
            self._made[candidate.key] = self._make(candidate)
        return self._made[candidate.key]

    def known(self, candidate: Candidate) -> Candidate:
        """The candidate with what is known of it by now."""
        made = self._made.get(candidate.key)
        return candidate if made is None else made.candidate

    def look_first(self, obvious: Sequence[Candidate], resorts: Sequence[Candidate]) -> None:
        """Look at plans that need no search.

        Args:
            obvious: all of these.
            resorts: one after the other, while nothing good is known.
        """
        for candidate in obvious:
            self.look(candidate)
        for candidate in resorts:
            if not self.good():
                self.look(candidate)

    def all(self) -> list[Made]:
        """What was looked at."""
        return [made for made in self._made.values() if made is not None]

    def good(self) -> list[Made]:
        """Of those, what keeps the promise on the metric."""
        return [made for made in self.all() if made.candidate.accepted]

    def meets(self, candidate: Candidate) -> bool:
        """Whether a candidate keeps the limits, by what is known of it by now."""
        taken = candidate.predicted_ms if candidate.measured_ms is None else candidate.measured_ms
        return self.goal.allows(taken, self.base_ms, candidate.bytes, candidate.macs)

    def amount(self, candidate: Candidate) -> float:
        """What is to be little, measured where that is known."""
        if self.goal.objective == "latency" and candidate.measured_ms is not None:
            return candidate.measured_ms
        return candidate.amount(self.goal.objective)

    def least(self, among: Sequence[Made]) -> Made:
        """The one that takes least of the objective; of those that are CLOSE in time, the one that wins a race."""
        best = min(among, key=lambda made: self.amount(made.candidate))
        if self.race is None or self.goal.objective != "latency":
            return best
        close = [made for made in among if self.amount(made.candidate) <= CLOSE * self.amount(best.candidate)]
        if len(close) < 2:
            return best
        times = self.race([made.model for made in close])
        return close[min(range(len(close)), key=lambda index: times[index])]

    @property
    def most(self) -> float:
        """What a plan may be predicted to take to be worth a look, given those that keep all promises; inf: anything.

        Where the plan of least loss is sought, none is ruled out.
        """
        known = [self.amount(made.candidate) for made in self.good() if self.meets(made.candidate)]
        return DOUBT * min(known) if known and self.floor is not None else math.inf

    def _make(self, candidate: Candidate) -> Made | None:
        self.context.progress(f"judging plans ({self.judge.looks} looked at)", 0, 0)
        try:
            made = self.make(candidate)
            score = self.judge.value(made.model)
        except LwgraphError as error:
            self.context.warn(f"a plan could not be judged and was left out: {error}")
            return None
        known = made.candidate
        assert known.plan is not None
        return replace(
            made,
            candidate=replace(
                known,
                plan=replace(known.plan, ms=(self.base_ms, known.predicted_ms), error=known.loss or 0.0),
                judged=score,
                accepted=self.floor is None or score >= self.floor,
                measured_ms=None if self.milliseconds is None else self.milliseconds(made.model),
            ),
        )


__all__ = ["CLOSE", "DOUBT", "Bench", "Made", "Maker", "Milliseconds", "Race"]
