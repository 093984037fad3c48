"""Looks at the judged metric along the front, from the fastest plan on, until the promises hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lwgraph import ir
from lwgraph.errors import LwgraphError
from lwgraph.optimizer.goal import Goal
from lwgraph.optimizer.judge import Judge
from lwgraph.plan.plan import Plan
from lwgraph.plan.search.front import Candidate, Front, worth
from lwgraph.plan.search.planner import Planner

Milliseconds = Callable[[ir.Model], float] | None
Key = tuple[tuple[int, ...], tuple[str, ...]]
LOOKS = 8  # at the judged data, at most
STEP = 1.03  # plans on the front that differ by less than this factor are one to look at
DOUBT = 1.1  # a plan that is predicted to take this many times what is measured of a good one is not looked at


@dataclass(frozen=True, eq=False)
class Outcome:
    """The plan that stands, and what is known of all others.

    Attributes:
        model: with the plan carried out; the clean model when no plan keeps the promises.
        plan: empty then.
        candidate: None then.
        front: with what was judged and timed filled in.
    """

    model: ir.Model
    plan: Plan
    candidate: Candidate | None
    front: Front


@dataclass(frozen=True, eq=False)
class _Made:
    candidate: Candidate
    model: ir.Model


class _Bench:
    """Makes candidates as they would be delivered, times and judges them, each once."""

    def __init__(
        self, planner: Planner, judge: Judge, floor: float | None, milliseconds: Milliseconds
    ) -> None:
        self.planner, self.judge, self.floor, self.milliseconds = planner, judge, floor, milliseconds
        self.made: dict[Key, _Made | None] = {}

    def look(self, candidate: Candidate) -> bool:
        """Whether the candidate keeps the promise on the metric."""
        if candidate.key not in self.made:
            self.made[candidate.key] = self._make(candidate)
        found = self.made[candidate.key]
        return found is not None and bool(found.candidate.accepted)

    def _make(self, candidate: Candidate) -> _Made | None:
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
        predicted = (planner_base(planner), candidate.predicted_ms)
        plan = candidate.plan if candidate.stated else None
        plan = replace(plan or planner.plan(chosen), ms=predicted, error=candidate.loss or 0.0)
        measured = None if self.milliseconds is None else self.milliseconds(model)
        return _Made(replace(candidate, plan=plan, judged=score, accepted=accepted, measured_ms=measured), model)

    def all(self) -> list[_Made]:
        """What was looked at."""
        return [made for made in self.made.values() if made is not None]

    def good(self) -> list[Candidate]:
        """Of those, what keeps the promise on the metric."""
        return [made.candidate for made in self.all() if made.candidate.accepted]


def planner_base(planner: Planner) -> float:
    """Predicted milliseconds of the network as it was."""
    return planner.predicted((0,) * len(planner.items), "latency")


def back_off(
    front: Front, planner: Planner, judge: Judge, goal: Goal, milliseconds: Milliseconds,
    obvious: Sequence[Candidate] = (), resorts: Sequence[Candidate] = (),
) -> Outcome:
    """The best candidate that keeps the promises.

    Plans on the front lose less the slower they are, so the fastest good one is found by bisection: about log2 of
    their number looks at the judged data. Of those that were looked at and kept the promises, the one that is measured
    best stands. The obvious plans are looked at first, and searched ones only where they are predicted not to be worse
    than the best of those (by more than DOUBT): no search ends with less. Where the user promised speed or size but
    not accuracy, it is the plan of least loss that keeps those.

    Args:
        front: of a search that did not see the judged data.
        planner: makes the plans.
        judge: of the metric.
        goal: the promises.
        milliseconds: of one run of a model, measured; None where that cannot be done: predictions count then.
        obvious: plans that need no search; see `obvious_plans`.
        resorts: more of them, which are looked at one after the other while nothing good is known.
    """
    everything = front.best()
    base_ms = planner_base(planner)
    within = [c for c in everything if goal.allows(c.predicted_ms, base_ms, c.bytes, c.macs)]
    floor = None if goal.limited and not judge.stated else judge.floor
    bench = _Bench(planner, judge, floor, milliseconds)
    for candidate in obvious:
        bench.look(candidate)
    for candidate in resorts:
        if not bench.good():
            bench.look(candidate)
    known = [_objective(c, front.objective) for c in bench.good() if _meets(c, goal, base_ms)]
    if known and floor is not None:
        within = [c for c in within if c.amount(front.objective) <= DOUBT * min(known)]
    if goal.limited and floor is None:
        _least_loss(within or everything[:1], bench, goal, base_ms)
    else:
        _bisect(apart(within, front.objective), bench)
        if goal.limited and not bench.good():
            # The goal is out of reach: the nearest plan that keeps the accuracy.
            _bisect(apart(everything, front.objective), bench)
    good = [made for made in bench.all() if made.candidate.accepted]
    front = _filled(front, [made.candidate for made in bench.all()])
    if not good:
        return Outcome(planner.model, Plan(target=planner.oracle.target), None, front)
    meeting = [made for made in good if _meets(made.candidate, goal, base_ms)]
    if floor is None and meeting:
        best = min(meeting, key=lambda made: -(made.candidate.judged or 0.0))
    else:
        best = min(meeting or good, key=lambda made: _objective(made.candidate, front.objective))
    assert best.candidate.plan is not None
    return Outcome(best.model, best.candidate.plan, best.candidate, front)


def apart(ladder: Sequence[Candidate], objective: str) -> list[Candidate]:
    """Those of a ladder, smallest first, that are STEP apart; of several that are not, the one that loses least."""
    kept: list[Candidate] = []
    for candidate in reversed(ladder):
        if not kept or candidate.amount(objective) * STEP <= kept[-1].amount(objective):
            kept.append(candidate)
    return kept[::-1]


def _bisect(ladder: Sequence[Candidate], bench: _Bench) -> None:
    """Look for the first good one of a ladder whose losses fall."""
    low, high, looks = 0, len(ladder), 0
    while low < high and looks < LOOKS:
        middle = (low + high) // 2
        looks += 1
        low, high = (low, middle) if bench.look(ladder[middle]) else (middle + 1, high)


def _least_loss(ladder: Sequence[Candidate], bench: _Bench, goal: Goal, base_ms: float) -> None:
    """From the plan of least loss to faster ones, until one keeps the limits as measured."""
    for looks, candidate in enumerate(reversed(ladder)):
        if looks >= LOOKS:
            return
        bench.look(candidate)
        made = bench.made[candidate.key]
        if made is not None and _meets(made.candidate, goal, base_ms):
            return


def _meets(candidate: Candidate, goal: Goal, base_ms: float) -> bool:
    """Whether a candidate keeps the limits, by what is known of it by now."""
    return goal.allows(_taken(candidate), base_ms, candidate.bytes, candidate.macs)


def _taken(candidate: Candidate) -> float:
    """Milliseconds: measured where they are known."""
    return candidate.predicted_ms if candidate.measured_ms is None else candidate.measured_ms


def _objective(candidate: Candidate, objective: str) -> float:
    if objective == "latency" and candidate.measured_ms is not None:
        return candidate.measured_ms
    return candidate.amount(objective)


def _filled(front: Front, known: Sequence[Candidate]) -> Front:
    """The front with what is known of its candidates by now, and those that it did not have."""
    found = {candidate.key: candidate for candidate in front.candidates} | {c.key: c for c in known}
    return replace(front, candidates=sorted(found.values(), key=lambda c: (c.amount(front.objective), worth(c), c.key)))


__all__ = ["LOOKS", "Outcome", "apart", "back_off"]
