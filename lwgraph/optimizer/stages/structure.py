"""Which channels and blocks go before forms and precisions are searched: the most that keeps the promise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from lwgraph import ir
from lwgraph.alarm import OutOfTime
from lwgraph.calibrate.subsample import spread
from lwgraph.executor import Feeds, in_stated_types
from lwgraph.optimizer.back_off import STEP
from lwgraph.optimizer.bracket import Bracket
from lwgraph.optimizer.candidates import Candidates
from lwgraph.optimizer.data_pass import Cost, DataPass
from lwgraph.optimizer.stages.base import FIT_SECONDS, PRICE_SECONDS, Work, layer_times, short
from lwgraph.optimizer.stages.dynamic import dynamic_precision
from lwgraph.plan.plan import Precision
from lwgraph.plan.precision import INT8, spelling
from lwgraph.plan.price.devices import DeviceOracle
from lwgraph.plan.search.front import Candidate
from lwgraph.plan.search.items import FASTER
from lwgraph.plan.search.structure import BLOCK_RUNS, NOTHING, PROBED, Offer, Structure, find_offers, find_structures
from lwgraph.views.residual import find_residuals

ORIGIN = "structure"
# The share of a network's time that no structure saves: measured 0.46 and 0.30 in integers, where narrow layers fill no
# vector and what lies between layers weighs more (benchmarks/PLANNER.md).
FIXED, FIXED_IN_INTEGERS = 0.1, 0.35
NOISE, TRUST = 0.05, 0.2  # relative errors, about: of measurements, and of what is assumed before any
LOOKED = 3  # structures that are looked at, about
PROBES = 2  # sizes of a group at which its loss is measured, about
# Samples at most on which that is measured, and in haste, one size of each then: they tell groups apart, and the looks
# tell what is lost.
PROBED_ON, PROBED_IN_HASTE = 16, 8
PROBE_PASSES = 1.0  # over the data, that this takes at most, about
LEAST_PROBED, LEAST_IN_HASTE = 4, 2  # samples of networks of which more would take longer than that
PROBED_SHARE = 0.25  # of the time that is left, beyond which it is done in haste: the looks need the rest
BLOCK_PASSES = 0.5  # over the data, that judging blocks takes at most, about
LEAST = 1e-3  # share of what the whole takes that anything takes


class Structures:
    """Proposes structures without forms; the one that is chosen is the trunk of the stages that follow."""

    name = "structure"
    share = 0.6
    searches = True

    def idle(self, work: Work) -> str:
        """Why nothing may go."""
        if isinstance(work.oracle, DeviceOracle):
            return f"target {work.request.target} has no prices of narrower layers"
        return ""

    def cost(self, work: Work, unit: DataPass) -> Cost:
        """The prices of the layers, what each group and block matters, and two or three looks."""
        blocks = len(find_residuals(work.clean)[0])
        runs = len(probed_on(work)) * (PROBES * work.groups + BLOCK_RUNS * blocks)
        prices = PRICE_SECONDS * work.layers
        looks = work.look_cost(unit) * LOOKED
        return Cost(unit.runs(runs), prices + FIT_SECONDS * (PROBES * work.groups + blocks)) + looks

    def run(self, work: Work) -> Work:
        """Look at a few structures; return the work on what the best of them leaves."""
        failures = work.context.failures
        times = layer_times(work.clean, work.oracle, work.shapes, failures)
        if not times:
            return work
        base, integers = work.candidates.base_ms, Precision((work.integers.way or spelling(),))
        ladders = [Ladder(work.candidates, Precision(), work.oracle.target, base)]
        share = left_in(integers, times, work) if len(work.precisions) > 1 else 1.0
        if share < FASTER:
            ladders.append(Ladder(work.candidates, integers, work.oracle.target, share * base))
        with failures.guard("structure: integers with dynamic grids"):
            if (dynamic := dynamic_precision(work)) is not None:
                ladders.append(Ladder(work.candidates, dynamic, work.oracle.target, base))
        ladder = fastest(ladders)
        if work.candidates.floor is None and ladder.meets(NOTHING):
            return work  # what nothing asks for is not measured
        hasty = work.integers.hasty or short(self, work) or probing_takes_long(work)
        offers = _offers(work, times if hasty else None)
        chosen = choose(find_structures(work.clean, offers, times, work.context.failures), ladder)
        return replace(work, trunk=work.making.trunk(chosen.plan))


def left_in(integers: Precision, times: Mapping[str, float], work: Work) -> float:
    """The share of the network's time that is left with all layers in integers: as the whole was timed, 1 where it
    loses too much; where it was not looked at, as its layers are priced, which takes many sessions."""
    known = work.candidates.known(Ladder(work.candidates, integers, work.oracle.target, 1.0).candidate(NOTHING))
    if known.accepted is False:
        return 1.0
    if known.measured_ms is not None:
        return known.measured_ms / work.candidates.base_ms
    narrow = layer_times(work.clean, work.oracle, work.shapes, work.context.failures, INT8)
    return sum(min(ms, narrow.get(name, ms)) for name, ms in times.items()) / max(sum(times.values()), 1e-300)


def probed_on(work: Work, hasty: bool = False) -> Sequence[Feeds]:
    """The samples on which groups are probed."""
    most, least = (PROBED_IN_HASTE, LEAST_IN_HASTE) if hasty else (PROBED_ON, LEAST_PROBED)
    if (unit := work.setting.data_pass) is not None:
        affordable = PROBE_PASSES * unit.seconds / max(1e-3 * work.float_ms * work.groups, 1e-9)
        most = int(min(max(affordable, least), most))
    return spread(work.samples(work.float_ms), most)


def probing_takes_long(work: Work) -> bool:
    """Whether probing every group at one size leaves too little of the time for looks."""
    return len(probed_on(work)) * work.groups * 1e-3 * work.float_ms > PROBED_SHARE * work.clock.left


def _offers(work: Work, times: Mapping[str, float] | None) -> Sequence[Offer]:
    """What may go and what it costs in the types of the graph: the same for all targets of one optimization.

    Args:
        work: what there is.
        times: of the layers, where there is haste: what saves little is left alone then.
    """
    key, memory = ("offers", work.context.statistics, ir.fingerprint(work.clean)), work.context.memory
    if key not in memory:
        context = work.context.beside(executor=in_stated_types(work.executor))
        hasty = times is not None
        twice = 0 if hasty else PROBED
        unit = work.setting.data_pass
        seconds = math.inf if unit is None else BLOCK_PASSES * unit.seconds
        memory[key] = find_offers(work.clean, context, probed_on(work, hasty), work.float_ms, twice, seconds, times)
    return cast("list[Offer]", memory[key])


@dataclass
class Line:
    """What is taken of a resource by the share of the layers' time that is left: fixed + slope * share.

    Attributes:
        fixed, slope: assumed before anything is measured; their sum is over 0.
    """

    fixed: float
    slope: float
    _seen: dict[float, float] = field(default_factory=dict)

    def at(self, share: float) -> float:
        """The amount at a share, over 0.

        Least squares of relative errors over what was measured, with a ridge towards what was assumed, scaled to what
        was measured.
        """
        if share in self._seen:
            return self._seen[share]
        fixed, slope = self.fixed, self.slope
        if self._seen:
            left, amounts = np.array(list(self._seen)), np.array(list(self._seen.values()))
            scale = math.exp(float(np.log(amounts / (fixed + slope * left)).mean()))
            assumed = scale * np.array([fixed, slope])
            doubt = TRUST * float(assumed.sum())
            rows = np.concatenate([np.stack([1 / amounts, left / amounts], axis=1) / NOISE, np.eye(2) / doubt])
            wanted = np.concatenate([np.full(len(left), 1 / NOISE), assumed / doubt])
            fixed, slope = np.maximum(np.linalg.lstsq(rows, wanted, rcond=None)[0], 0.0)
        return float(max(fixed + slope * share, LEAST * (fixed + slope)))

    def learn(self, share: float, amount: float) -> None:
        """Take in a measurement."""
        if amount > 0:
            self._seen[share] = amount


class Ladder:
    """Structures of one network, each with its layers dense and in one precision.

    Args:
        candidates: looks at them.
        precision: of all of them.
        target: what they are made for.
        milliseconds: predicted of the whole network in that precision.
    """

    def __init__(self, candidates: Candidates, precision: Precision, target: str, milliseconds: float) -> None:
        self.candidates, self.precision, self.target = candidates, precision, target
        fixed = FIXED_IN_INTEGERS if precision.passes else FIXED
        self._time = Line(fixed * milliseconds, (1 - fixed) * milliseconds)
        self._size = Line(0.0, float(candidates.base.bytes))

    def candidate(self, structure: Structure) -> Candidate:
        """What a structure is predicted to be, by what is known by now."""
        left = structure.share
        plan = replace(structure.plan, precision=self.precision, target=self.target)
        return Candidate(
            (),
            self._time.at(left),
            structure.loss,
            ORIGIN,
            plan=plan,
            bytes=round(self._size.at(left)),
            macs=round(self.candidates.base.macs * left),
            stated=True,
        )

    def look(self, structure: Structure) -> bool:
        """Whether a structure keeps the promise on the metric; what it takes is learnt from."""
        made = self.candidates.made(self.candidate(structure))
        if made is None:
            return False
        self._size.learn(structure.share, made.bytes)
        if made.candidate.measured_ms is not None:
            self._time.learn(structure.share, made.candidate.measured_ms)
        return bool(made.candidate.accepted)

    def taken(self, structure: Structure) -> float:
        """What a structure takes of the objective, measured where that is known."""
        return self.candidates.amount(self.candidates.known(self.candidate(structure)))

    def lost(self, structure: Structure) -> float | None:
        """What the metric lost with a structure; None where that was not looked at."""
        return self.candidates.lost(self.candidate(structure))

    def meets(self, structure: Structure) -> bool:
        """Whether the limits are kept, by what is known by now."""
        draft = self.candidate(structure)
        return self.candidates.meets(replace(self.candidates.known(draft), bytes=draft.bytes))


def fastest(ladders: Sequence[Ladder]) -> Ladder:
    """Of the precisions in which the whole network keeps the promise, that in which it takes least; else the first.

    What comes on top of integers that lose too much is lost, too.
    """
    good = [ladders[0], *(each for each in ladders[1:] if each.look(NOTHING))]
    return good[0] if len(good) == 1 else min(good[1:], key=lambda each: each.taken(NOTHING))


def choose(structures: Sequence[Structure], ladder: Ladder) -> Structure:
    """The structure that forms and precisions are searched for.

    Where a metric is promised: of those that keep the promise without any forms, among the few of them that are
    looked at (see `Bracket`), the one that takes least; of several that are not STEP apart, the gentlest, as it leaves
    most to the forms. Otherwise the gentlest that is predicted to keep every limit, the last where none is.

    Args:
        structures: gentlest first.
        ladder: looks at them.
    """
    if ladder.candidates.floor is None:
        return next((each for each in [NOTHING, *structures] if ladder.meets(each)), [NOTHING, *structures][-1])
    narrowest, good = list(structures)[::-1], [NOTHING]
    bracket = Bracket([each.loss for each in narrowest], ladder.candidates.allowed)
    with suppress(OutOfTime):  # what was found by then counts
        while bracket:
            number = bracket.pick()
            if kept := ladder.look(narrowest[number]):
                good.append(narrowest[number])
            bracket.learn(number, kept, ladder.lost(narrowest[number]))
    taken = {each: ladder.taken(each) for each in good}
    least = min(taken.values())
    return max((each for each in good if taken[each] <= STEP * least), key=lambda each: each.share)


__all__ = ["ORIGIN", "Ladder", "Line", "Structures", "choose"]
