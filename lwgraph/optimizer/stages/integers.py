"""The whole network in 8-bit integers: what anyone would try first, and what a search has to beat."""

from __future__ import annotations

from lwgraph import ir
from lwgraph.measure.work import count
from lwgraph.optimizer.stages.base import Work
from lwgraph.plan.carry_out import RANGE_SAMPLES, RANGE_SECONDS, affordable
from lwgraph.plan.plan import Plan, Precision
from lwgraph.plan.precision import quantizer, spelling
from lwgraph.plan.search.front import Candidate
from lwgraph.plan.search.integers import survey

ORIGIN = "quantized"


class Integers:
    """Proposes all layers in integers; where that loses too much, with the layers that cost most left in floats."""

    name = "integers"
    share = 0.5

    def idle(self, work: Work) -> str:
        """Why there are none."""
        if len(work.precisions) < 2:
            return "no integers on this target"
        if work.candidates.floor is None and work.candidates.meets(_candidate(work, Plan())):
            return "the limits are kept without them"
        return ""

    def run(self, work: Work) -> Work:
        """Look at one plan; at up to two more where it is not good."""
        if (
            work.clock.budget is not None
        ):  # the simplest ranges are there before the pass has tried its ways to take them
            work.candidates.look(_candidate(work, _plan(work, Precision((spelling(quick=True),)))))
        if work.candidates.look(_candidate(work, _plan(work, Precision((spelling(),))))):
            return work
        samples = affordable(RANGE_SAMPLES, RANGE_SECONDS, work.float_ms)
        kept = survey(work.clean, work.context, samples=samples).kept
        if kept and work.candidates.look(_candidate(work, _plan(work, Precision((spelling(),), kept)))):
            return work
        work.candidates.look(_candidate(work, _plan(work, Precision((str(quantizer().judged()),)))))
        return work


def _plan(work: Work, precision: Precision) -> Plan:
    return Plan(target=work.oracle.target, precision=precision)


def _candidate(work: Work, plan: Plan) -> Candidate:
    macs = count(work.clean, work.shapes).macs or 0
    return Candidate(
        (), work.candidates.base_ms, 0.0, ORIGIN, plan=plan, bytes=ir.size(work.clean), macs=macs, stated=True
    )


__all__ = ["ORIGIN", "Integers"]
