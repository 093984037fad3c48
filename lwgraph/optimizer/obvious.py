"""The plans that anyone would try without a search: the whole network in 8-bit integers, no layer in another form.

What a search finds is only worth its time when it is better than these, so they are judged and timed as its plans are.
"""

from __future__ import annotations

from lwgraph.plan.plan import Plan, Precision
from lwgraph.plan.precision import INT8, quantizer, spelling
from lwgraph.plan.roles import Survey
from lwgraph.plan.search.front import Candidate
from lwgraph.plan.search.integers import whole_network
from lwgraph.plan.search.planner import BYTES, LATENCY, MACS, Planner

ORIGIN = "quantized"
WORTH = 0.02  # share of the time that layers must lose in integers for a look at the plan that leaves them in float


def obvious_plans(planner: Planner, survey: Survey | None) -> tuple[list[Candidate], list[Candidate]]:
    """Everything in integers that has a kernel; the same but for what the quantizing pass leaves in float; the pass
    with all its own judgement, which takes longest.

    Args:
        planner: with weights and anchors set; without integers among its precisions there is no such plan.
        survey: what the pass found; None where the times that it measures say nothing of the target.

    Returns:
        candidates with a plan of their own: those that may be the fastest, and those that matter only where these lose
        too much. Their predictions are those of all layers in integers.
    """
    choice = planner.uniform(INT8)
    if not any(choice):
        return [], []
    predicted, lost = planner.predicted(choice, LATENCY), planner.predicted_loss(choice)
    size, macs = round(planner.predicted(choice, BYTES)), round(planner.predicted(choice, MACS))

    def candidate(plan: Plan) -> Candidate:
        return Candidate(choice, predicted, lost, ORIGIN, plan=plan, bytes=size, macs=macs, stated=True)

    first = [candidate(planner.planned(Precision((spelling(),))))]
    if survey is None:
        return first, []
    last = [candidate(planner.planned(Precision((str(quantizer().judged()),))))]
    if (mixed := whole_network(planner, survey)) is not None:
        if survey.slower > WORTH:
            first.append(candidate(mixed))
        else:
            last.insert(0, candidate(mixed))
    return first, last


__all__ = ["ORIGIN", "WORTH", "obvious_plans"]
