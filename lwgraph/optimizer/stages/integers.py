"""The whole network in 8-bit integers: what anyone would try first, and what a search has to beat."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from lwgraph.layers.site import find_sites
from lwgraph.optimizer.data_pass import Cost, DataPass
from lwgraph.optimizer.stages.base import LOOK_SECONDS, PROOF_SECONDS, Work, layer_times, short
from lwgraph.optimizer.stages.dynamic import (
    HALF,
    dynamic_precision,
    gentler,
    recurrent,
    recurrent_alone,
    remaining,
)
from lwgraph.plan.plan import Plan, Precision
from lwgraph.plan.precision import INT8, quantizer, spelling
from lwgraph.plan.search.front import Candidate
from lwgraph.plan.search.integers import survey

ORIGIN = "quantized"
# With a budget, of the time that is left, what running the float network on the samples may take from which the first
# plan's ranges are, observed at every value, which takes several times as long; and the fewest samples.
RANGED_SHARE, FEWEST = 0.05, 8
# Of the time that is left once the first plan was looked at, what further ones may take where one is good, and where
# none is: what follows would be in no better position.
LATER, NEEDED = 0.5, 0.8
# Another look at such a plan, with all ways to choose ranges, takes about so many times as long as the first; where the
# first is good and that is more than this share of the time that is left, what follows makes do with its ranges.
LONGER, HASTE = 2.0, 0.1
# How often that is not good, of ten networks in the benchmarks about; then float runs that measuring one variant takes,
# seconds for each of its nodes, how many variants are measured at most, and how many mixes are looked at, about.
MISSED, SURVEYED_ON, SURVEYED_SECONDS, SURVEYED, MIXED = 0.4, 2.5, 1e-3, 48, 2.0
SHORT = 0.4  # of the time that is left: where all of the stage takes more, the simplest ranges come first
MIXES = 3  # of integers and floats that are looked at, at most


class Integers:
    """Proposes all layers in integers; where that loses too much, with the layers that cost most left in floats."""

    name = "integers"
    share = 1.0
    searches = True

    def idle(self, work: Work) -> str:
        """Why there are none."""
        if len(work.precisions) < 2:
            return "no integers on this target"
        if work.candidates.floor is None and work.candidates.meets(work.candidates.base):
            return "the limits are kept without them"
        return ""

    def cost(self, work: Work, unit: DataPass) -> Cost:
        """One look; and where that plan is not good, a survey of all layers, and looks at mixes with known ranges."""
        variants = min(SURVEYED, 2 * work.layers)  # weights and what each layer gives
        survey = Cost(unit.runs(variants * SURVEYED_ON), variants * SURVEYED_SECONDS * len(work.clean.graph))
        mix = Cost(unit.looks(1), LOOK_SECONDS + PROOF_SECONDS)
        return work.look_cost(unit, refits=False) + (survey + mix * MIXED) * MISSED

    def run(self, work: Work) -> Work:
        """Look at one plan; at up to two more where it is not good.

        With a budget, and where little time is left, one with the simplest ranges of as many samples as there is time
        for comes first: it is there before the pass has tried its ways to take them, and until it is there nothing else
        is worth the time. Where all layers are products, one that needs no ranges comes before that.
        """
        base = work.candidates.base
        if not work.oracle.measures:  # the layers alone, as they are priced
            dense = layer_times(work.clean, work.oracle, work.shapes, work.context.failures)
            narrow = layer_times(work.clean, work.oracle, work.shapes, work.context.failures, INT8)
            taken = sum(ms if math.isfinite(ms) else dense[name] for name, ms in narrow.items())
            base = replace(base, predicted_ms=taken)

        def proposed(*precision: Any) -> Candidate:
            plan = Plan(target=work.oracle.target, precision=Precision(*precision))
            return replace(base, origin=ORIGIN, plan=plan)

        def look(*precision: Any) -> bool:
            return work.candidates.look(proposed(*precision))

        clock, found, good = work.clock, work.integers, False
        found.way = spelling()
        if clock.budget is not None or short(self, work, SHORT):
            if not any(site.kernel for site in find_sites(work.clean, work.shapes)):
                with work.context.failures.guard("integers with dynamic grids"):
                    whole = dynamic_precision(work)
                    if whole is not None:
                        good = look(whole.passes, whole.keep_float)
            ranged, began = max(FEWEST, int(1e3 * RANGED_SHARE * clock.left / max(work.float_ms, 1e-3))), clock.spent
            quick = proposed((spelling(quick=True),))
            simple = work.candidates.look(quick, partial(work.making.stated, ranged=ranged))
            good = good or simple
            if simple and LONGER * (clock.spent - began) > HASTE * clock.left:
                found.way = spelling(quick=True)
        with clock.limit((LATER if good else NEEDED) * clock.left):
            self._looked(work, look, proposed)
        return work

    def _looked(self, work: Work, look: Callable[..., bool], proposed: Callable[..., Candidate]) -> None:
        way = work.integers.way
        good = look((way,))
        with work.context.failures.guard("integers with dynamic grids"):
            whole = dynamic_precision(work)
            running = whole is not None and look(whole.passes, whole.keep_float)
            if whole is not None and running and not good:
                static, dynamic = (
                    work.candidates.known(proposed(*each)).measured_ms
                    for each in (((way,),), (whole.passes, whole.keep_float))
                )
                # What loses too much and is slower is not worth the many runs that tell which of its layers are to
                # blame, unless it is all that there is for convolutions.
                products = not any(site.kernel for site in find_sites(work.clean, work.shapes))
                if products and static is not None and dynamic is not None and static > dynamic:
                    work.integers.static = False
                    return
            if whole is not None and not running:
                judged = work.candidates.known(proposed(whole.passes, whole.keep_float)).judged
                share = remaining(work.candidates.judge.base.value, judged, work.candidates.floor)
                some = gentler(work, whole, share)
                if some is not None and look(some.passes, some.keep_float):
                    work.integers.running = some
        with work.context.failures.guard("integers of recurrent layers"):
            good = self._recurrent(work, look, proposed, good) or good
        if not good:
            self._mixed(work, look, proposed)

    def _mixed(self, work: Work, look: Callable[..., bool], proposed: Callable[..., Candidate]) -> None:
        """Look at the fastest mix of integers and floats that is predicted to lose as little as may be lost.

        What a mix was judged to lose corrects the prediction for the next one, which does half at most of what this one
        does. Where nothing was measured of mixes, the pass is asked for its own judgement, unless that can hardly be
        enough: it takes longest.
        """
        way, candidates = work.integers.way, work.candidates

        def may_remain(judged: float | None) -> float:
            left = remaining(candidates.judge.base.value, judged, candidates.floor)
            return HALF if left is None else left

        found = survey(work.clean, work.context, samples=work.making.samples.ranges)
        share = may_remain(candidates.known(proposed((way,))).judged)
        if found.method and not work.integers.hasty:
            way = str(quantizer().exactly(found.method, found.even))
        if not found.mixes:
            if not (found.kept and look((way,), found.kept)) and share >= HALF:
                look((str(quantizer().judged()),))
            return
        for _ in range(MIXES):
            mix = found.mix(share)
            if mix is None or look((way,), mix.kept):
                return
            share = mix.share * min(HALF, may_remain(candidates.known(proposed((way,), mix.kept)).judged))

    def _recurrent(self, work: Work, look: Callable[..., bool], proposed: Callable[..., Candidate], good: bool) -> bool:
        """LSTM and GRU are in integers with the rest, or not, whichever is better; or alone, where both lose too much.

        Whether any plan is good.
        """
        names = recurrent(work)
        if not names:
            return good
        way = (work.integers.way,)
        without = look(way, names)
        before, after = (work.candidates.known(proposed(way, *kept)).measured_ms for kept in ((), (names,)))
        if without and (not good or (before is not None and after is not None and after < before)):
            work.integers.spared = names
        alone = None if good or without else recurrent_alone(work)
        return good or without or (alone is not None and look(alone.passes, alone.keep_float))


__all__ = ["ORIGIN", "Integers"]
