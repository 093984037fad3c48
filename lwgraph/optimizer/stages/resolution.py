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
    """Proposes plans whose network sees its images at a lower resolution; a look at each scale, while they are good.

    It stands twice in a run: as soon as there are integers, since it takes one look where a network cannot do with less
    and may be worth more than all that follows; and, where it was good, on the best that was found afterwards.

    Args:
        name: for the report.
    """

    share = 0.3
    searches = True

    def __init__(self, name: str = "resolution") -> None:
        self.name = name

    def idle(self, work: Work) -> str:
        """Why there is none."""
        candidates = work.candidates
        if work.request.objective == "bytes":
            return "smaller images take no fewer bytes"
        if SHRINKS not in registry.names("roles"):
            return "nothing is installed that shrinks inputs"
        if candidates.floor is None and candidates.meets(candidates.incumbent.candidate or candidates.base):
            return "the limits are kept without it"
        tried = [made.candidate for made in candidates.all() if made.candidate.origin == ORIGIN]
        return "smaller images lose too much" if tried and not any(each.accepted for each in tried) else ""

    def cost(self, work: Work, unit: DataPass) -> Cost:
        """One look: most networks lose too much by the first scale."""
        return Cost(unit.runs(2 * len(work.samples(work.float_ms)))) + work.look_cost(unit)

    def run(self, work: Work) -> Work:
        """Look at plans; where already the floats lose far too much, at none."""
        shrinks, candidates = registry.role(SHRINKS, ShrinksInputs), work.candidates
        loss = Loss(untimed(work.executor).prepare(work.clean), work.samples(work.float_ms))
        for scale in sorted(shrinks.scales, reverse=True):
            smaller, shrink = ir.clone(work.clean), shrinks.shrunk(scale)
            quiet: Context = work.context.beside(log=Log(memory=work.context.memory))
            if not shrink.run(smaller, quiet):
                for skipped in quiet.skipped:
                    work.context.skip(skipped.pass_name, skipped.place, skipped.reason)
                break
            if not (lost := loss(untimed(work.executor).prepare(smaller))) < HOPELESS:
                break
            if (base := self._base(work, scale)) is None:
                continue
            candidate = _shrunk(base, str(shrink), scale, lost)
            good = candidates.look(candidate)
            if not good or (candidates.floor is None and candidates.meets(candidates.known(candidate))):
                break
        return work

    @staticmethod
    def _base(work: Work, scale: float) -> Candidate | None:
        """Of the good plans that would be better than the best so far on such images, the one that loses least of the
        metric; codes go on top of what this makes."""
        candidates = work.candidates
        standing = candidates.amount(candidates.incumbent.candidate or candidates.base)
        known = [made.candidate for made in candidates.good()]
        plain = [c for c in (*known, candidates.base) if not c.coded and c.origin != ORIGIN]
        able = [c for c in plain if scale**2 * candidates.amount(c) < standing]
        return max(able, key=lambda c: c.judged or 0.0, default=None)


def _shrunk(base: Candidate, spelling: str, scale: float, lost: float) -> Candidate:
    """A plan on smaller images."""
    plan, share = base.plan, scale**2
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
