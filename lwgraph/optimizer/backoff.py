"""Looks at the judged metric along the front, from the fastest plan on, until the promises hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lwgraph import ir
from lwgraph.optimizer.bench import Bench
from lwgraph.plan.plan import Plan
from lwgraph.plan.search.front import Candidate, Front, worth

LOOKS = 8  # at the judged data, at most
STEP = 1.03  # plans on the front that differ by less than this factor are one to look at


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


def back_off(front: Front, bench: Bench, clean: ir.Model) -> Outcome:
    """The best candidate that keeps the promises.

    Plans on the front lose less the slower they are, so the fastest good one is found by bisection: about log2 of
    their number looks at the judged data. Of all that were looked at and kept the promises, the one that is measured
    best stands (`Bench.least`); plans that the bench looked at before count, too, and searched ones are only looked at
    where they are predicted not to be worse than these (by more than DOUBT). Where the user promised speed or size but
    not accuracy, it is the plan of least loss that keeps those.

    Args:
        front: of a search that did not see the judged data.
        bench: with the goal and the judge, and what it looked at before.
        clean: the model that stands where no plan does.
    """
    goal, objective = bench.goal, front.objective
    everything = front.best()
    within = [c for c in everything if goal.allows(c.predicted_ms, bench.base_ms, c.bytes, c.macs)]
    most = bench.most
    if goal.limited and bench.floor is None:
        _least_loss(within or everything[:1], bench)
    else:
        _bisect(apart([c for c in within if c.amount(objective) <= most], objective), bench)
        if goal.limited and not bench.good():
            _bisect(apart(everything, objective), bench)  # out of reach: the nearest plan that keeps the accuracy
    good = bench.good()
    front = _filled(front, [made.candidate for made in bench.all()])
    if not good:
        return Outcome(clean, Plan(), None, front)
    meeting = [made for made in good if bench.meets(made.candidate)]
    if bench.floor is None and meeting:
        best = min(meeting, key=lambda made: -(made.candidate.judged or 0.0))
    else:
        best = bench.least(meeting or good)
    assert best.candidate.plan is not None
    return Outcome(best.model, best.candidate.plan, best.candidate, front)


def apart(ladder: Sequence[Candidate], objective: str) -> list[Candidate]:
    """Those of a ladder, smallest first, that are STEP apart; of several that are not, the one that loses least."""
    kept: list[Candidate] = []
    for candidate in reversed(ladder):
        if not kept or candidate.amount(objective) * STEP <= kept[-1].amount(objective):
            kept.append(candidate)
    return kept[::-1]


def _bisect(ladder: Sequence[Candidate], bench: Bench) -> None:
    """Look for the first good one of a ladder whose losses fall."""
    low, high, looks = 0, len(ladder), 0
    while low < high and looks < LOOKS:
        middle = (low + high) // 2
        looks += 1
        low, high = (low, middle) if bench.look(ladder[middle]) else (middle + 1, high)


def _least_loss(ladder: Sequence[Candidate], bench: Bench) -> None:
    """From the plan of least loss to faster ones, until one keeps the limits as measured."""
    for looks, candidate in enumerate(reversed(ladder)):
        if looks >= LOOKS:
            return
        made = bench.made(candidate)
        if made is not None and bench.meets(made.candidate):
            return


def _filled(front: Front, known: Sequence[Candidate]) -> Front:
    """The front with what is known of its candidates by now, and those that it did not have."""
    found = {candidate.key: candidate for candidate in front.candidates} | {c.key: c for c in known}
    return replace(front, candidates=sorted(found.values(), key=lambda c: (c.amount(front.objective), worth(c), c.key)))


__all__ = ["LOOKS", "STEP", "Outcome", "apart", "back_off"]
