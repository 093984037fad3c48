"""Forms and precisions of the layers: a knapsack over what is predicted of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import cast

from lwgraph import ir
from lwgraph.cache import Rows
from lwgraph.calibrate.partial_runs import ROOM
from lwgraph.executor import in_stated_types, untimed
from lwgraph.layers.form import searched_forms
from lwgraph.measure.distance import Loss
from lwgraph.measure.work import count
from lwgraph.optimizer.back_off import back_off
from lwgraph.optimizer.data_pass import Cost, DataPass
from lwgraph.optimizer.stages.base import FIT_SECONDS, PRICE_SECONDS, Work
from lwgraph.optimizer.stages.dynamic import faster_so
from lwgraph.plan.carry_out import observing
from lwgraph.plan.plan import Plan, Precision
from lwgraph.plan.precision import DYNAMIC, FLOAT, INT8, quantizer, spelling
from lwgraph.plan.price.devices import DeviceOracle
from lwgraph.plan.roles import Survey
from lwgraph.plan.search import site_sensitivity
from lwgraph.plan.search.front import Candidate
from lwgraph.plan.search.integers import weigh_dynamic, weigh_integers, whole_network
from lwgraph.plan.search.plan_search import SECONDS, SLOTS, Search, limit_prices, memory_of
from lwgraph.plan.search.planner import BYTES, LATENCY, MACS, Planner, open_planner
from lwgraph.plan.search.trials import Trials

ORIGIN = "quantized"
PASS = "seconds of a pass"  # the key of it beside the losses of trials
SENSING_SECONDS = 8.0  # of running stitched models to measure sensitivities, about
FEWEST = 3  # samples at least, where one layer after the other is looked at
PRICED = 6  # options of a layer in one precision that are priced, about
TIMED_SECONDS = 0.6  # of timing one of the first plans
# Of trials, for each minute that they may take: passes over the data where these take less; and seconds in any case.
TRIAL_PASSES, TRIAL_SECONDS = 4.0, 10.0
WORTH = 0.02  # share of the time that layers must lose in integers for a look at the plan that leaves them in float


class Forms:
    """Weighs each layer's options, solves for several budgets of time, and proposes the plans that come of it."""

    name = "forms"
    share = 0.8
    searches = True

    def idle(self, work: Work) -> str:
        """Nothing is known before the options are weighed."""
        return ""

    def cost(self, work: Work, unit: DataPass) -> Cost:
        """Statistics, prices and sensitivities of the layers; the first plans, run and timed; a look or two."""
        sensed = len(work.samples(work.float_ms * max(work.layers, 1), SENSING_SECONDS, FEWEST)) * work.layers
        runs = unit.samples + sensed + 2 * SLOTS * len(work.samples(work.float_ms))
        options = PRICED * work.layers * len(work.precisions)
        seconds = PRICE_SECONDS * options + SLOTS * TIMED_SECONDS + FIT_SECONDS * work.layers
        survey = work.look_cost(unit, refits=False)
        return Cost(unit.runs(runs), seconds) + survey + work.look_cost(unit)

    def run(self, work: Work) -> Work:
        """Look at plans of the trunk; return the work with the search that may go on from them."""
        planner = _open(work)
        if not planner.items:
            return work
        ms = work.float_ms if work.trunk.plan.empty else work.milliseconds(work.trunk.model)
        loss = Loss(untimed(work.executor).prepare(work.trunk.model), work.samples(work.float_ms))
        planner = _weighed(work, planner, ms)
        planner, survey = _anchored(work, planner, loss, ms)
        for candidate in whole_in_integers(planner, survey, work.integers.way):
            if not candidate.last or not work.candidates.good():
                work.candidates.look(candidate.candidate)
        request = work.request
        memory = memory_of(planner, loss.feeds, request.seed)
        measures = work.oracle.measures
        search = Search(
            planner,
            loss,
            work.executor,
            seed=request.seed,
            seconds=trial_seconds(request.trials, work.setting.data_pass, memory),
            memory=memory,
            objective=str(request.objective),
            base_ms=work.candidates.base_ms,
            trials=None if work.setting.pool is None else Trials(planner, loss, work.executor, work.setting.pool),
            prices=limit_prices(planner, request.limits(work.candidates.base_ms), str(request.objective)),
            timed=(lambda model: work.milliseconds(model, TIMED_SECONDS)) if measures else None,
        )
        front = search.first(work.candidates.most)
        if memory.warning:
            work.context.warn(memory.warning)
        if request.trials <= 0 or work.clock.budget is not None:  # else one look after the search does for both
            back_off(front, work.candidates, partial(work.making.searched, search))
        return replace(work, search=search)


def trial_seconds(asked: float, unit: DataPass | None, memory: Rows) -> float:
    """Seconds that trials may take: of a fast network, on which everything else takes less, less than is allowed.

    Args:
        asked: what is allowed.
        unit: a pass over the data; None: not known.
        memory: of the trials; a second run with it ends where the first one did, however long its own passes take.
    """
    if unit is None:
        return asked
    known = memory.get(PASS)
    if known is None:
        known = unit.seconds
        memory.put(PASS, known)
    return min(asked, max(TRIAL_PASSES * float(known), TRIAL_SECONDS) * asked / SECONDS)


@dataclass(frozen=True)
class Whole:
    """A plan of all layers in integers.

    Attributes:
        candidate: the plan.
        last: whether it matters only where nothing else is good: it takes long, or cannot be the fastest.
    """

    candidate: Candidate
    last: bool = False


def _open(work: Work) -> Planner:
    trunk, context = work.trunk, work.context
    if not trunk.plan.empty:
        context = observing(trunk.model, context)
    dynamic = None
    with context.failures.guard("forms: integers with dynamic grids"):
        dynamic = faster_so(work)
    return open_planner(
        trunk.model,
        context,
        work.oracle,
        shapes=trunk.shapes,
        forms=searched_forms(context.warn),
        precisions=(FLOAT,) if dynamic is not None and not work.integers.static else work.precisions,
        structure=trunk.plan,
        samples=work.making.samples,
        dynamic=dynamic,
        spared=work.integers.spared,
    )


def _weighed(work: Work, planner: Planner, milliseconds: float) -> Planner:
    """The planner that knows what each layer's error does to the outputs."""
    context = work.context
    # What a layer's error does is a fact of the network in the types of its graph: runs for other targets need not
    # measure it again.
    key = ("sensitivities", planner.context.statistics, ir.fingerprint(planner.model))
    known = cast("dict[str, float]", context.memory.setdefault(key, {}))
    if items := [item for item in planner.items if item.name not in known]:
        samples = work.samples(milliseconds * len(items), SENSING_SECONDS, FEWEST)
        executor = in_stated_types(work.executor)
        loss = Loss(untimed(executor).prepare(planner.model), samples)
        known |= site_sensitivity.measure(
            planner.model,
            items,
            loss,
            executor,
            context.progress,
            feeds=samples,
            memory_bytes=context.bytes_of(ROOM),
            pool=work.setting.pool,
            failures=context.failures,
        )
    return planner.weighed(known)


def _anchored(work: Work, planner: Planner, loss: Loss, trunk_ms: float) -> tuple[Planner, Survey | None]:
    """The planner whose predictions start from the network as measured in floats and in integers.

    Returns it and what the quantizing pass found; None without integers, in haste, and for a target elsewhere.
    """
    counts, oracle, known = count(planner.model, planner.shapes), work.oracle, None
    taken: dict[str, float] = {}
    if any(planner.uniform(INT8)):
        work.context.progress("measuring integers", 0, 0)
        bare, planner = planner, planner.without(INT8)
        with work.context.failures.guard("forms: integers"):
            weighed, model, known = weigh_integers(bare, loss, work.executor, surveyed=not work.integers.hasty)
            if oracle.measures:
                taken[INT8] = work.milliseconds(model)
            planner = weighed
    if any(planner.uniform(DYNAMIC)):
        bare, planner = planner, planner.without(DYNAMIC)
        with work.context.failures.guard("forms: integers with dynamic grids"):
            weighed, model = weigh_dynamic(bare, loss, work.executor)
            taken[DYNAMIC] = work.milliseconds(model)
            planner = weighed
    if not oracle.measures:  # the layers alone
        trunk_ms = planner.predicted(planner.uniform(FLOAT), LATENCY)
    planner = planner.anchored(trunk_ms, taken, ir.size(planner.model), counts.macs or 0)
    if isinstance(oracle, DeviceOracle) and oracle.note():
        work.context.warn(oracle.note())
    return planner, known if oracle.measures else None


def whole_in_integers(planner: Planner, survey: Survey | None, way: str = "") -> list[Whole]:
    """The plans that anyone would try without a search, as candidates.

    Everything in integers that has a kernel; the same but for what the quantizing pass leaves in float; the pass with
    all its own judgement, which takes longest. Their predictions are those of all layers in integers.

    Args:
        planner: weighed and anchored; without integers among its precisions there is no such plan.
        survey: what the pass found; None in haste, and where the times that it measures say nothing of the target.
        way: how all is put into integers, as a plan spells it; "": with all ways to choose ranges.
    """
    choice = planner.uniform(INT8)
    if not any(choice):
        return []
    predicted, lost = planner.predicted(choice, LATENCY), planner.predicted_loss(choice)
    size, macs = round(planner.predicted(choice, BYTES)), round(planner.predicted(choice, MACS))

    def candidate(plan: Plan) -> Candidate:
        return Candidate(choice, predicted, lost, ORIGIN, plan=plan, bytes=size, macs=macs, stated=True)

    found = [Whole(candidate(planner.planned(Precision((way or spelling(),)))))]
    if survey is None:
        return found
    if (mixed := whole_network(planner, survey)) is not None:
        found.append(Whole(candidate(mixed), survey.slower <= WORTH))
    return [*found, Whole(candidate(planner.planned(Precision((str(quantizer().judged()),)))), True)]


__all__ = ["ORIGIN", "WORTH", "Forms", "Whole", "trial_seconds", "whole_in_integers"]
