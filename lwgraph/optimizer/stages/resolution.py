"""The resolution of the input: good plans on smaller images, the gentlest first, until the promise breaks."""

from __future__ import annotations

from dataclasses import replace

from lwgraph import ir, registry
from lwgraph.executor import untimed
from lwgraph.measure.distance import Loss
from lwgraph.optimizer.data_pass import Cost, DataPass
from lwgraph.optimizer.stages.base import Work
from lwgraph.plan.roles import SHRINKS, ShrinksInputs
from lwgraph.plan.search.front import Candidate
from lwgraph.plan.search.structure import HOPELESS
from lwgraph.rewrite.base import Context, Log

ORIGIN = "resolution"


class Resolution:
    """Proposes plans whose network sees its images at a lower resolution; a look at each scale, while they are good."""

    name = "resolution"
    share = 0.3
    searches = True

    def idle(self, work: Work) -> str:
        """Why there is none."""
        if work.request.objective == "bytes":
            return "smaller images take no fewer bytes"
        if SHRINKS not in registry.names("roles"):
            return "nothing is installed that shrinks inputs"
        if work.candidates.floor is None and work.candidates.meets(
            work.candidates.incumbent.candidate or work.candidates.base
        ):
            return "the limits are kept without it"
        return ""

    def cost(self, work: Work, unit: DataPass) -> Cost:
        """One look: most networks lose too much by the first scale."""
        return Cost(unit.runs(2 * len(work.samples(work.float_ms)))) + work.look_cost(unit)

    def run(self, work: Work) -> Work:
        """Look at plans; where already the floats lose far too much, at none."""
        shrinks = registry.role(SHRINKS, ShrinksInputs)
        samples = work.samples(work.float_ms)
        loss = Loss(untimed(work.executor).prepare(work.clean), samples)
        for scale in sorted(shrinks.scales, reverse=True):
            smaller = ir.clone(work.clean)
            quiet: Context = work.context.beside(log=Log(memory=work.context.memory))
            if not shrinks.shrunk(scale).run(smaller, quiet):
                for skipped in quiet.skipped:
                    work.context.skip(skipped.pass_name, skipped.place, skipped.reason)
                break
            lost = loss(untimed(work.executor).prepare(smaller))
            if not lost < HOPELESS:
                break
            candidate = self._proposed(work, str(shrinks.shrunk(scale)), scale, lost)
            good = work.candidates.look(candidate)
            if not good or (work.candidates.floor is None and work.candidates.meets(work.candidates.known(candidate))):
                break
        return work

    @staticmethod
    def _proposed(work: Work, spelling: str, scale: float, lost: float) -> Candidate:
        """Of the good plans without codes that would be better than the best so far on such images, the one that loses
        least of the metric."""
        candidates, share = work.candidates, scale**2
        standing = candidates.incumbent.candidate or candidates.base
        plain = [made.candidate for made in candidates.good()]
        plain = [c for c in plain if not c.coded and c.origin != ORIGIN]
        able = [c for c in (*plain, candidates.base) if share * candidates.amount(c) < candidates.amount(standing)]
        base = max(able, key=lambda c: c.judged or 0.0, default=standing)
        plan = base.plan
        assert plan is not None
        plan = replace(plan, precision=replace(plan.precision, passes=(spelling, *plan.precision.passes)))
        taken = base.predicted_ms if base.measured_ms is None else base.measured_ms
        proposed = replace(base, choice=(), origin=ORIGIN, plan=plan, stated=True, measured_ms=None, accepted=None)
        return replace(
            proposed,
            judged=None,
            loss=None,
            predicted_loss=base.predicted_loss + lost,
            predicted_ms=share * taken,
            macs=round(share * base.macs),
        )


__all__ = ["Resolution"]
