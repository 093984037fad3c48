"""The stage that decides what stands at each layer: a stated plan, what the weights alone allow, or a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.calibrate.subsample import spread
from lwgraph.executor import Executor, Feeds, untimed
from lwgraph.layers.form import searched_forms
from lwgraph.layers.site import find_sites
from lwgraph.measure.distance import Loss
from lwgraph.measure.work import count
from lwgraph.optimizer import recovery
from lwgraph.optimizer.backoff import Outcome, back_off
from lwgraph.optimizer.bench import Bench
from lwgraph.optimizer.data import Inputs
from lwgraph.optimizer.drafts import Drafts
from lwgraph.optimizer.goal import Goal
from lwgraph.optimizer.judge import Judge
from lwgraph.optimizer.obvious import obvious_plans
from lwgraph.optimizer.prove import same_outputs
from lwgraph.optimizer.recording import choices, searched
from lwgraph.optimizer.spectrum import redundant
from lwgraph.optimizer.structuring import Trunk, Workshop, choose, layer_times
from lwgraph.optimizer.target import MACS, open_oracle
from lwgraph.plan import precision
from lwgraph.plan.carry_out import Samples, carry_out
from lwgraph.plan.plan import Plan, Precision
from lwgraph.plan.precision import spelling
from lwgraph.plan.price.devices import DeviceOracle
from lwgraph.plan.price.oracle import Oracle
from lwgraph.plan.roles import GROUPS, Removes, Survey
from lwgraph.plan.search import site_sensitivity
from lwgraph.plan.search.front import Front
from lwgraph.plan.search.integers import weigh_integers
from lwgraph.plan.search.items import FASTER
from lwgraph.plan.search.planner import LATENCY, Planner
from lwgraph.plan.search.search import Search, limit_prices, memory_of
from lwgraph.plan.search.structure import NOTHING, Structure, find_offers, find_structures
from lwgraph.plan.search.trials import Trials
from lwgraph.report import Report
from lwgraph.rewrite import Context, Contract
from lwgraph.tasks import Pool

TRIAL_SECONDS = 2.0  # of running a plan to measure its loss, about
SENSING_SECONDS = 20.0  # of running stitched models to measure sensitivities, about
LEAST, MOST = 8, 64  # samples that a loss is measured on
TIMED_SECONDS, LOOK_SECONDS = 0.6, 2.0  # of timing one of the first plans; one that is looked at
FEWEST = 3  # the same, where one layer after the other is looked at


class Planning:
    """Plans for one cleaned model.

    Args:
        original: the input model.
        clean: the model after the exact passes; it is not changed.
        executor: the target.
        context: refusals are recorded in it; with statistics, those of `clean` are collected, too.
        inputs: what to fit, compare and verify on.
        goal: the promises.
        report: gets the choice of each layer, and what was searched.
        pool: tries plans side by side; None: this process, one after another.
    """

    def __init__(
        self,
        original: ir.Model,
        clean: ir.Model,
        executor: Executor,
        context: Context,
        inputs: Inputs,
        goal: Goal,
        report: Report,
        pool: Pool | None = None,
    ) -> None:
        self.original, self.clean, self.executor = original, clean, executor
        self.inputs, self.goal, self.report = inputs, goal, report
        self.pool = pool
        self.shapes = layer_shapes(clean, inputs.probe[0], executor)
        if context.statistics is not None:
            statistics = Statistics(clean, inputs.fit, executor, goal.seed, progress=context.progress)
            context = context.beside(statistics=statistics)
        self.context = context

    def carry_out(self, stated: Plan) -> tuple[ir.Model, Plan]:
        """The clean model with a stated plan carried out, and what was done of it."""
        if self.goal.training:
            recovered = self._recover(stated, self.goal.training)
            model, records = recovered.model, recovered.records
            self._note_training(recovered)
        else:
            here = Oracle(self.executor)
            run_ms = here.whole({"clean": self.clean}, self.inputs.probe)[0] if self.inputs.real else None
            samples = Samples.in_earnest(run_ms)
            made = carry_out(self.clean, stated, self.context, shapes=self.shapes, samples=samples)
            model, records = made.model, made.records
        done = {r.site for r in records if r.done}
        used = replace(stated, sites={n: c for n, c in stated.sites.items() if n in done})
        self._record(used)
        return model, used

    def nothing(self) -> tuple[ir.Model, Plan]:
        """The clean model."""
        self.report.notes.append("no approximation was tried, because the options rule it out")
        self._record(Plan())
        return self.clean, Plan()

    def without_data(self, judge: Judge | None) -> tuple[ir.Model, Plan]:
        """The fastest float plan that keeps the outputs on generated inputs, or the promise to a metric of its own."""
        if judge is None and not self._anything_redundant():
            self._record(Plan())
            return self.clean, Plan()
        planner = Planner(
            self.clean, self.context, self._oracle(), shapes=self.shapes, forms=searched_forms(self.context.warn)
        )
        value, floor = (judge.value, judge.floor) if judge is not None else (self._similarity(), 0.0)
        found = planner.search(value, floor)
        self._record(found.plan)
        return found.model, found.plan

    def searched(self, judge: Judge) -> tuple[ir.Model, Plan]:
        """The best plan that keeps the promises: searched, judged, backed off from.

        First which channels and blocks go, then the forms and precisions of the layers that are left.
        """
        oracle = self._oracle()
        here = oracle if oracle.measures else Oracle(self.executor)
        times, share = layer_times(self.clean, oracle, self.shapes)
        if not times:
            self._record(Plan())
            return self.clean, Plan()
        float_ms = here.whole({"clean": self.clean}, self.inputs.probe)[0]
        workshop = Workshop(self.clean, self.context, self.shapes, self.inputs.probe[0], float_ms)
        bench = Bench(
            workshop.make,
            judge,
            self.goal,
            (lambda model: self._timed(oracle, float_ms, model, LOOK_SECONDS)) if oracle.measures else None,
            (lambda models: self._race(oracle, models)) if oracle.measures else None,
            base_ms=float_ms if oracle.measures else sum(times.values()),
            context=self.context,
        )
        trunk = workshop.trunks.of(self._structure(bench, times, share, oracle, float_ms).plan)
        outcome = self._search(bench, workshop, trunk, oracle, float_ms)
        if self.context.details is not None and outcome.candidate is not None:
            made = bench.made(outcome.candidate)
            self.context.details.update({} if made is None else made.details)
        if self.goal.training:
            milliseconds = partial(self._timed, here, float_ms, seconds=LOOK_SECONDS)
            outcome = self._trained(outcome, workshop, bench, judge, milliseconds)
        self._record(outcome.plan)
        self.report.details["search"] = searched(outcome)
        return outcome.model, outcome.plan

    def _structure(
        self, bench: Bench, times: Mapping[str, float], share: float, oracle: Oracle, run_ms: float
    ) -> Structure:
        """Which channels and blocks go, found by looking at a few structures without forms.

        Args:
            bench: looks.
            times, share: see `layer_times`.
            oracle: that the times are from.
            run_ms: of one run here.
        """
        macs, size = count(self.clean, self.shapes).macs or 0, ir.size(self.clean)
        drafts = Drafts(bench, Precision(), oracle.target, bench.base_ms, size, macs)
        if share < FASTER and self._precisions()[1:]:
            integers = Drafts(bench, Precision((spelling(),)), oracle.target, share * bench.base_ms, size, macs)
            if integers.look(NOTHING):  # what comes on top of integers that lose too much is lost, too
                drafts = integers
        if isinstance(oracle, DeviceOracle):
            if GROUPS in registry.names("roles"):
                self.context.skip(
                    "plan",
                    registry.role(GROUPS, Removes).name,
                    f"target {self.goal.target} has no prices of narrower layers",
                )
            return NOTHING
        if bench.floor is None and drafts.meets(NOTHING):
            return NOTHING  # what nothing asks for is not measured
        offers = find_offers(self.clean, self.context, self._samples(run_ms, TRIAL_SECONDS), run_ms)
        return choose(find_structures(self.clean, offers, times), drafts)

    def _search(self, bench: Bench, workshop: Workshop, trunk: Trunk, oracle: Oracle, float_ms: float) -> Outcome:
        """Forms and precisions for the layers that a structure leaves."""
        planner = workshop.planner = self._planner(trunk, oracle, float_ms)
        if not planner.items:
            return back_off(Front(bench.base_ms), bench, self.clean)
        trunk_ms = self._timed(oracle, float_ms, trunk.model, LOOK_SECONDS) if not trunk.plan.empty else float_ms
        self._weigh(planner, trunk_ms)
        loss = Loss(untimed(self.executor).prepare(trunk.model), self._samples(float_ms, TRIAL_SECONDS))
        known = self._anchor(planner, oracle, loss, float_ms, trunk_ms)
        memory = memory_of(planner, loss.feeds, self.goal.seed)
        search = Search(
            planner,
            loss,
            self.executor,
            seed=self.goal.seed,
            seconds=self.goal.budget,
            memory=memory,
            objective=self.goal.objective,
            base_ms=bench.base_ms,
            trials=None if self.pool is None else Trials(planner, loss, self.executor, self.pool),
            prices=limit_prices(planner, self.goal.limits(bench.base_ms), self.goal.objective),
            timed=(lambda model: self._timed(oracle, float_ms, model, TIMED_SECONDS)) if oracle.measures else None,
        )
        bench.look_first(*obvious_plans(planner, known))
        front = search.run(bench.most)
        if memory.warning:
            self.context.warn(memory.warning)
        return back_off(front, bench, self.clean)

    def _precisions(self) -> tuple[str, ...]:
        integers = precision.available() and self.goal.target != MACS
        return (precision.FLOAT, precision.INT8) if integers else (precision.FLOAT,)

    def _planner(self, trunk: Trunk, oracle: Oracle, float_ms: float) -> Planner:
        context = self.context
        if not trunk.plan.empty and context.statistics is not None:
            context = context.beside(
                statistics=Statistics(
                    trunk.model, self.inputs.fit, self.executor, self.goal.seed, progress=context.progress
                )
            )
        planner = Planner(
            trunk.model,
            context,
            oracle,
            shapes=trunk.shapes,
            forms=searched_forms(self.context.warn),
            precisions=self._precisions(),
            structure=trunk.plan,
        )
        planner.run_ms = float_ms
        return planner

    # ------------------------------------------------------------ training

    def _recover(self, plan: Plan, seconds: float) -> recovery.Recovered:
        return recovery.recover(self.clean, plan, self.context, seconds, data=self.inputs.training)

    def _trained(
        self,
        outcome: Outcome,
        workshop: Workshop,
        bench: Bench,
        judge: Judge,
        milliseconds: Callable[[ir.Model], float],
    ) -> Outcome:
        """The plan that is best after a short training, trained in earnest; the outcome as it is where that fails."""
        goal, floor = self.goal, None if self.goal.limited and not judge.stated else judge.floor
        tried = recovery.worth_trying(outcome.front.best(), outcome.candidate, goal, bench.base_ms, floor)
        plans = {c.key: workshop.plan(c) for c in tried}
        gained = len(self.context.gains)
        probes = recovery.probe(
            list(plans.values()),
            lambda plan: self._recover(plan, recovery.PROBE_SHARE * goal.training).model,
            judge.value,
            milliseconds,
            self.context,
        )
        untrained = self._untrained(outcome, judge, milliseconds) if floor is not None else None
        best = recovery.best_of([*probes, *([untrained] if untrained else [])], floor)
        if best is None:
            return outcome
        del self.context.gains[gained:]  # of the probes
        if best is untrained:
            recovered = recovery.train(
                self.clean, outcome.model, self.context, goal.training, data=self.inputs.training
            )
            stood = "none was faster than the one that keeps the promise untrained, which"
        else:
            recovered = self._recover(best.plan, goal.training)
            stood = "the one that stood"
        score = judge.value(recovered.model)
        self.report.notes += [
            f"{len(probes)} plans were trained for {recovery.PROBE_SHARE * goal.training:.3g} s each; {stood} "
            f"scored {best.score:.4g} then and {score:.4g} after its whole training"
        ]
        if floor is not None and score < floor:
            self.report.notes.append(
                "training did not bring back enough: "
                + ("the untrained plan stands" if outcome.candidate else "no plan stands")
            )
            return outcome
        self._note_training(recovered)
        found = next((c for c in tried if plans[c.key] is best.plan), outcome.candidate)
        assert found is not None  # without a candidate nothing is untrained
        candidate = replace(found, plan=best.plan, judged=score, accepted=True, measured_ms=best.milliseconds)
        return Outcome(recovered.model, best.plan, candidate, outcome.front)

    def _untrained(
        self, outcome: Outcome, judge: Judge, milliseconds: Callable[[ir.Model], float]
    ) -> recovery.Probe | None:
        """The plan that keeps the promises as it is: the result is never slower; None where none does."""
        if outcome.candidate is None:
            return None
        return recovery.Probe(outcome.plan, judge.value(outcome.model), milliseconds(outcome.model))

    def _note_training(self, recovered: recovery.Recovered) -> None:
        training = self.inputs.training
        count = len(self.inputs.fit) if training is None else training.count
        self.report.notes.append(f"trained on {count} unlabelled inputs in {recovered.seconds:.0f} s")
        self.report.notes += [str(gain) for gain in recovered.gains]

    # ------------------------------------------------------------ parts of the search

    def _timed(self, oracle: Oracle, float_ms: float, model: ir.Model, seconds: float) -> float:
        """Milliseconds of one run, by the clock on which the cleaned network takes `float_ms`."""
        return oracle.against(self.clean, float_ms, model, self.inputs.probe, seconds)

    def _race(self, oracle: Oracle, models: Sequence[ir.Model]) -> list[float]:
        """Milliseconds of one run of each, timed in turn."""
        named = {str(index): model for index, model in enumerate(models)}
        return oracle.whole(named, self.inputs.probe, LOOK_SECONDS * len(models))

    def _weigh(self, planner: Planner, float_ms: float) -> None:
        """Set the weights of the items: what each layer's error does to the outputs."""
        samples = self._samples(float_ms * len(planner.items), SENSING_SECONDS, FEWEST)
        loss = Loss(untimed(self.executor).prepare(planner.model), samples)
        found = site_sensitivity.measure(planner.model, planner.items, loss, self.executor, self.context.progress)
        for item in planner.items:
            item.weight = found[item.name]

    def _anchor(self, planner: Planner, oracle: Oracle, loss: Loss, float_ms: float, trunk_ms: float) -> Survey | None:
        """Measure the planner's network in floats and in integers, so that predictions start from what is so.

        Args:
            planner, oracle, loss: of the search.
            float_ms: of the cleaned network, on whose clock all is.
            trunk_ms: of the planner's.

        Returns what the quantizing pass found; None where there are no integers, or for a target elsewhere.
        """
        counts = count(planner.model, planner.shapes)
        size, macs = ir.size(planner.model), counts.macs or 0
        whole = planner.uniform(precision.INT8)
        int8_ms = known = None
        if any(whole):
            self.context.progress("measuring integers", 0, 0)
            model, known = weigh_integers(planner, loss, self.executor)
            int8_ms = self._timed(oracle, float_ms, model, LOOK_SECONDS) if oracle.measures else None
        if not oracle.measures:  # the layers alone
            trunk_ms = planner.predicted(planner.uniform(precision.FLOAT), LATENCY)
        planner.anchor(trunk_ms, int8_ms, size, macs)
        if isinstance(oracle, DeviceOracle) and oracle.note():
            self.context.warn(oracle.note())
        return known if oracle.measures else None

    def _oracle(self) -> Oracle:
        return open_oracle(self.goal.target, self.goal.threads, self.executor)

    def _samples(self, milliseconds: float, seconds: float, least: int = LEAST) -> Sequence[Feeds]:
        """As many of the samples for comparing as run in `seconds`, within bounds."""
        wanted = int(1e3 * seconds / max(milliseconds, 1e-3))
        return spread(self.inputs.search, min(max(wanted, least), MOST))

    # ------------------------------------------------------------ without data

    def _similarity(self) -> Callable[[ir.Model], float]:
        """0 while the outputs on generated inputs stay within the tolerance table, -1 outside."""

        def value(model: ir.Model) -> float:
            check = same_outputs(self.original, model, self.executor, self.inputs.probe, Contract.APPROXIMATE, "")
            return 0.0 if check.ok else -1.0

        return value

    def _anything_redundant(self) -> bool:
        """Whether any layer's weight alone says that a lighter form would do."""
        sites = find_sites(self.clean, self.shapes)
        found, total = False, len(sites)
        while sites:
            site = sites.pop(0)  # a site keeps its weight in float64: let go of each before the next
            self.context.progress("looking at weights", total - len(sites), total)
            if redundant(site):
                found = True
            else:
                self.context.skip("plan", site.name, "without data: no form of half the rank keeps the weight itself")
        return found

    def _record(self, plan: Plan) -> None:
        self.report.sites += choices(self.clean, plan, self.context.skipped, self.shapes)


__all__ = ["Planning"]
