"""Looks at candidates along a front, from the fastest on, until the promises hold."""

from __future__ import annotations

from collections.abc import Sequence

from lwgraph.optimizer.bracket import Bracket
from lwgraph.optimizer.candidates import Candidates, Make
from lwgraph.plan.search.front import Candidate, Front, worth

LOOKS = 8  # at the judged data, at most
STEP = 1.03  # plans on the front that differ by less than this factor are one to look at
WORTH = 1.05  # times faster than what is known to be good a plan may be, or a look is not worth its time


def back_off(front: Front, candidates: Candidates, make: Make) -> None:
    """Look at those of a front that may be the best that keeps the promises.

    Plans on the front lose less the slower they are, so the fastest good one is found in few looks at the judged data,
    mostly less than log2 of their number: see `Bracket`. Searched ones are only looked at where they are predicted not
    to be worse than what is known to be good (`Candidates.most`). Where the user promised speed or size but not
    accuracy, it is the plan of least loss that keeps those.

    Args:
        front: of a search that did not see the judged data.
        candidates: with the promises, and what was looked at before.
        make: carries out a candidate of the front.
    """
    request, objective, base_ms = candidates.request, front.objective, candidates.base_ms
    everything = front.best()
    within = [c for c in everything if request.allows(c.predicted_ms, base_ms, c.bytes, c.macs)]
    most = candidates.most
    if request.limited and candidates.floor is None:
        least_loss(within or everything[:1], candidates, make)
        return
    _narrow(apart([c for c in within if c.amount(objective) <= most], objective), candidates, make)
    if request.limited and not candidates.good():
        _narrow(
            apart(everything, objective), candidates, make
        )  # out of reach: the nearest plan that keeps the accuracy


def apart(ladder: Sequence[Candidate], objective: str) -> list[Candidate]:
    """Those of a ladder, smallest first, that are STEP apart; of several that are not, the one that loses least."""
    kept: list[Candidate] = []
    for candidate in reversed(ladder):
        if not kept or candidate.amount(objective) * STEP <= kept[-1].amount(objective):
            kept.append(candidate)
    return kept[::-1]


def _narrow(ladder: Sequence[Candidate], candidates: Candidates, make: Make) -> None:
    """Look for the first good one of a ladder whose losses fall, until what could still be gained is hardly a STEP."""
    objective, bracket, looks = (
        str(candidates.request.objective),
        Bracket([worth(c) for c in ladder], candidates.allowed),
        0,
    )
    while bracket and looks < LOOKS:
        fastest = ladder[bracket.low].amount(objective)
        if bracket.high < len(ladder) and ladder[bracket.high].amount(objective) < WORTH * fastest:
            return
        number, looks = bracket.pick(), looks + 1
        good = candidates.look(ladder[number], make)
        bracket.learn(number, good, candidates.lost(ladder[number]))


def least_loss(ladder: Sequence[Candidate], candidates: Candidates, make: Make | None = None) -> None:
    """From the plan of least loss to faster ones, until one keeps the limits as measured."""
    for looks, candidate in enumerate(reversed(ladder)):
        if looks >= LOOKS:
            return
        made = candidates.made(candidate, make)
        if made is not None and candidates.meets(made.candidate):
            return


__all__ = ["LOOKS", "STEP", "apart", "back_off", "least_loss"]
