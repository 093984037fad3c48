"""Training, where it was asked for: the plan that is best after a short training is trained in earnest."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from lwgraph import ir
from lwgraph.optimizer import distill
from lwgraph.optimizer.candidates import Made
from lwgraph.optimizer.data_pass import Cost, DataPass
from lwgraph.optimizer.stages.base import LOOK_SECONDS, Work
from lwgraph.plan.plan import Plan
from lwgraph.plan.search.front import Candidate, undominated

ORIGIN = "trained"


class Training:
    """Trains a few plans for a short time, then the best of them, and proposes what comes of it."""

    name = "training"
    share = 1.0
    searches = False

    def idle(self, work: Work) -> str:
        """Why nothing is trained."""
        return "" if work.request.training else "training was not asked for"

    def cost(self, work: Work, unit: DataPass) -> Cost:
        """The time that was asked for, and one look."""
        return Cost(unit.looks(1), min(work.request.training, work.clock.left) + LOOK_SECONDS)

    def run(self, work: Work) -> Work:
        """Propose one trained plan."""
        candidates, request = work.candidates, work.request
        standing, floor = candidates.incumbent, candidates.floor
        tried = self._tried(work)
        seconds = min(request.training, work.clock.left)
        gained = len(work.context.gains)
        short = partial(_trained, work, seconds=distill.PROBE_SHARE * seconds)
        plans = [plan for plan, _ in tried]
        probes = distill.probe(plans, short, candidates.judge.value, work.milliseconds, work.context)
        untrained = None
        if floor is not None and standing.candidate is not None and standing.score is not None:
            taken = standing.candidate.measured_ms
            taken = work.milliseconds(standing.model) if taken is None else taken
            untrained = distill.TrainedPlan(standing.plan, standing.score.value, taken)
        best = distill.best_of([*probes, *([untrained] if untrained else [])], floor)
        if best is None:
            return work
        del work.context.gains[gained:]  # those of the short trainings
        seconds = min(seconds, work.clock.left)
        if best is untrained:
            done = distill.train(work.clean, standing.model, work.context, seconds, data=work.inputs.training)
            stood = "none was faster than the one that keeps the promise untrained, which"
        else:
            done = distill.recover(work.clean, best.plan, work.context, seconds, data=work.inputs.training)
            stood = "the one that stood"
        known = next((c for plan, c in tried if plan is best.plan), standing.candidate)
        assert known is not None  # without a candidate nothing is untrained
        proposal = replace(known, plan=best.plan, origin=ORIGIN, stated=True)
        kept = candidates.look(proposal, lambda candidate: Made(candidate, done.model))
        found = candidates.known(proposal)
        work.context.warn(
            f"{len(probes)} plans were trained for {distill.PROBE_SHARE * seconds:.3g} s each; {stood} "
            f"scored {best.score:.4g} then and {found.judged or 0.0:.4g} after its whole training"
        )
        if not kept:
            stands = "the untrained plan stands" if standing.candidate else "no plan stands"
            work.context.warn(f"training did not bring back enough: {stands}")
            return work
        training = work.inputs.training
        for told in done.told(len(work.inputs.fit) if training is None else training.count):
            work.context.warn(told)
        return work

    def _tried(self, work: Work) -> list[tuple[Plan, Candidate]]:
        """The plans that training may make the best, with their candidates."""
        candidates = work.candidates
        known = [made.candidate for made in candidates.all()]
        found = known if work.search is None else [*known, *work.search.found()]
        ladder = undominated(list({c.key: c for c in found[::-1]}.values()), str(work.request.objective))
        standing = candidates.incumbent.candidate
        chosen = distill.worth_trying(ladder, standing, work.request, candidates.base_ms, candidates.floor)
        return [(_plan(work, candidate), candidate) for candidate in chosen]


def _plan(work: Work, candidate: Candidate) -> Plan:
    if candidate.plan is not None:
        return candidate.plan
    assert work.search is not None
    planner = work.search.planner
    return planner.plan(planner.chosen(candidate.choice))


def _trained(work: Work, plan: Plan, *, seconds: float) -> ir.Model:
    return distill.recover(work.clean, plan, work.context, seconds, data=work.inputs.training).model


__all__ = ["ORIGIN", "Training"]
