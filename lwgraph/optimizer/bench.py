"""Makes plans as they would be delivered, and finds out what they are: judged by the metric, and timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lwgraph import ir
from lwgraph.errors import LwgraphError
from lwgraph.optimizer.goal import Goal
from lwgraph.optimizer.judge import Judge
from lwgraph.plan.search.front import Candidate
from lwgraph.plan.search.planner import Planner

Key = tuple[tuple[int, ...], tuple[str, ...]]
Milliseconds = Callable[[ir.Model], float] | None
Race = Callable[[Sequence[ir.Model]], Sequence[float]] | None
CLOSE = 1.3  # plans that were timed within this factor of the fastest are raced against each other
DOUBT = 1.1  # a plan that is predicted to take this many times what is measured of a good one is not looked at


@dataclass(frozen=True, eq=False)
class Made:
    """A candidate with what was found out of it, and its model."""

    candidate: Candidate
    model: ir.Model


class Bench:
    """Looks at candidates, at each once.

    Args:
        planner: makes the plans.
        judge: of the metric.
        goal: the promises.
        milliseconds: of one run of a model, measured; None where that cannot be done: predictions count then.
        race: of several models, timed in turn; None: what `milliseconds` says decides.

    Attributes:
        floor: the least score that keeps the promise on the metric; None where other promises count alone: the user
            stated speed or size, but no accuracy.
        base_ms: predicted milliseconds of the network as it was.
    """

    def __init__(
        self, planner: Planner, judge: Judge, goal: Goal, milliseconds: Milliseconds, race: Race = None
    ) -> None:
        self.planner, self.judge, self.goal = planner, judge, goal
        self.milliseconds, self.race = milliseconds, race
        self.floor = None if goal.limited and not judge.stated else judge.floor
        self.base_ms = planner.predicted((0,) * len(planner.items), "latency")
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
        planner = self.planner
        planner.context.progress(f"judging plans ({self.judge.looks} looked at)", 0, 0)
        chosen = planner.chosen(candidate.choice)
        try:
            if candidate.stated:
                assert candidate.plan is not None
                model, _ = planner.carry_out(candidate.plan)
            else:
                model, _ = planner.apply(chosen)
            score = self.judge.value(model)
        except LwgraphError as error:
            planner.context.warn(f"a plan could not be judged and was left out: {error}")
            return None
        accepted = self.floor is None or score >= self.floor
        plan = candidate.plan if candidate.stated else None
        plan = replace(plan or planner.plan(chosen), ms=(self.base_ms, candidate.predicted_ms),
                       error=candidate.loss or 0.0)  # fmt: skip
        measured = None if self.milliseconds is None else self.milliseconds(model)
        return Made(replace(candidate, plan=plan, judged=score, accepted=accepted, measured_ms=measured), model)


__all__ = ["CLOSE", "DOUBT", "Bench", "Made", "Milliseconds", "Race"]
