"""One run of optimize, from the file to the proved result."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.check import verify
from lwgraph.errors import CheckError, ModelError, UsageError
from lwgraph.executor import Executor
from lwgraph.optimizer import recovery
from lwgraph.optimizer.data import Inputs, gather
from lwgraph.optimizer.goal import Goal, parse_amount, parse_seconds
from lwgraph.optimizer.idle import idle
from lwgraph.optimizer.judge import Judge, check_metric
from lwgraph.optimizer.measuring import Measuring
from lwgraph.optimizer.planning import Planning
from lwgraph.optimizer.presets import find_preset
from lwgraph.optimizer.prove import runs_soundly, same_in_both, same_outputs, sound
from lwgraph.optimizer.result import Result
from lwgraph.optimizer.target import STAND_IN, TARGETS
from lwgraph.plan.plan import Plan
from lwgraph.progress import Progress, silent
from lwgraph.report import PassRun, Report
from lwgraph.rewrite import Context, Contract, Pipeline
from lwgraph.rewrite.instruments import Verify
from lwgraph.tasks import Pool, open_pool

DEFAULT_PIPELINE = "default"


def optimize(
    model: ir.Source,
    *,
    data: Any = None,
    preprocess: Any = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    eval_data: Any = None,
    metric: Any = None,
    max_drop: float | None = None,
    speedup: float | None = None,
    max_latency: float | None = None,
    max_bytes: float | str | None = None,
    max_macs: float | str | None = None,
    objective: str | None = None,
    budget: float | str | None = None,
    preset: str | None = None,
    distill: bool = False,
    augment: str | Sequence[str] | None = None,
    pipeline: str | Pipeline | None = None,
    recipe: str | Path | None = None,
    plan: str | Path | Plan | None = None,
    target: str = "ort-cpu",
    threads: int = 1,
    seed: int = 0,
    workers: int = 1,
    dask: str | None = None,
    progress: Progress = silent,
) -> Result:
    """Make a model smaller and faster, and prove the result.

    Args:
        model: a path, bytes, a ModelProto or an onnx_ir.Model; it is not changed.
        data: inputs for fitting, unlabelled (see `lwgraph.calibrate.open_data`). None: only approximations that
            keep the output within the tolerance table's "approximate" on generated inputs.
        preprocess: how images become inputs.
        input_shapes: sizes of generated inputs by name, where they cannot be found.
        eval_data: inputs for judging, never used for fitting. None: a quarter of `data` is kept apart.
        metric: a name, `module:function` or a function (see `lwgraph.measure.open_metric`). None: what suits the data.
        max_drop: largest loss of the metric allowed, in its own unit. None: one point (0.01), 0.1 dB, or 40 dB against
            the original.
        speedup: speed asked for, relative to the input. Without `max_drop`, the plan that loses least is sought.
        max_latency: milliseconds of one run allowed on the target.
        max_bytes: size of the model allowed: a number, or text such as "600kB".
        max_macs: multiply-accumulates of one run allowed: a number, or text such as "1.5G".
        objective: what is made little among plans that keep all promises: "latency", "bytes" or "macs". None: the
            preset's.
        budget: seconds (or "90s", "10m", "1h") to spend on running trial plans, with `data`. None: the preset's.
            With `distill` it is the time of training, None: ten minutes; the search takes at most a quarter of it.
        distill: train the chosen plan to imitate the input model on `data`, unlabelled; needs the extra `torch`. Plans
            are then chosen with what a short training brings back in mind.
        augment: how training may vary the inputs: flip, turn, zoom, shift, tone, mixup; None: as the data say, see
            `open_data`.
        preset: what is asked for where nothing else is stated, of `PRESETS`. None: "balanced".
        pipeline, recipe: run just these passes instead of the exact and rounding ones and the search.
        plan: apply this plan instead of searching.
        target: what the result must be fast on.
        threads: of the target runtime.
        seed: the same input, options and seed give the same bytes, as long as measured times choose the same forms;
            they are cached on disk.
        workers: processes of this machine that try plans side by side; the plan found is the same with any number.
        dask: address of a Dask scheduler, whose workers do that instead.
        progress: called with (what, done, total).

    Returns:
        the result, also when a promise could not be kept: see `Result.kept` and `Result.report.outcome`.

    Raises:
        UsageError: an option is wrong.
        ModelError: the model cannot be read or run.
        DataError: the data or the metric is unusable.
        CheckError: a pass broke its contract.
    """
    asked = find_preset(preset)
    training = 0.0
    if distill:
        _check_distill(data, pipeline or recipe, asked.approximate)
        training = recovery.SECONDS if budget is None else parse_seconds(budget)
        if not training > 0:
            raise UsageError(f"--budget is {budget}; with --distill it is the time of training: over 0")
        budget = min(asked.budget, training / 4)
    goal = Goal(
        max_drop,
        speedup,
        target,
        threads,
        seed,
        max_latency,
        parse_amount(max_bytes, "--max-bytes"),
        parse_amount(max_macs, "--max-macs"),
        asked.objective if objective is None else objective,
        asked.budget if budget is None else parse_seconds(budget),
        asked.drop_factor,
        asked.approximate,
        training,
    )
    if pipeline is not None and recipe is not None:
        raise UsageError("--pipeline and --recipe both name the passes; give one of them")
    if (pipeline is not None or recipe is not None) and plan is not None:
        raise UsageError("--plan adds to the default passes; give it without --pipeline and --recipe")
    if not asked.approximate and (pipeline is not None or recipe is not None or plan is not None):
        raise UsageError(f"--preset {preset} says what to do; give it without --pipeline, --recipe and --plan")
    check_metric(metric)
    passes = _pipeline(pipeline, recipe)
    stated = plan if isinstance(plan, Plan) or plan is None else Plan.load(plan)
    with open_pool(workers, dask) as pool:
        run = _Run(model, goal, progress, dict(input_shapes or {}), pool)
        return run.go(data, preprocess, eval_data, metric, passes, stated, augment)


def _check_distill(data: Any, passes: Any, approximate: bool) -> None:
    """UsageError, before any work, where training was asked for and cannot be done."""
    recovery.require()
    if passes is not None:
        raise UsageError("--distill trains the plan that was searched or given; to passes, add distill{minutes=10}")
    if not approximate:
        raise UsageError("--distill changes the outputs, which --preset lossless rules out; leave out one of them")
    if data is None:
        raise UsageError("--distill needs inputs to learn from; give --data (unlabelled will do)")


def _pipeline(pipeline: str | Pipeline | None, recipe: str | Path | None) -> Pipeline | None:
    if recipe is not None:
        try:
            return Pipeline.from_recipe(Path(recipe).read_text(encoding="utf8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"recipe '{recipe}' cannot be read: {error}") from None
    return Pipeline.parse(pipeline) if isinstance(pipeline, str) else pipeline


class _Run:
    def __init__(
        self,
        source: ir.Source,
        goal: Goal,
        progress: Progress,
        shapes: Mapping[str, Sequence[int]],
        pool: Pool | None,
    ) -> None:
        self.pool = pool
        self.goal, self.progress, self.shapes = goal, progress, shapes
        self.progress("reading", 0, 0)
        self.source = Path(source) if isinstance(source, (str, Path)) else None
        name = str(source) if isinstance(source, (str, Path)) else "model"
        self.report = Report(source=Path(name).name, target=goal.target, threads=goal.threads, seed=goal.seed)
        self.original = ir.load(source)
        verify(self.original)
        self.executor: Executor = registry.executor(TARGETS.get(goal.target, STAND_IN), threads=goal.threads)
        self.reference: Executor = registry.executor("reference")

    def go(
        self,
        data: Any,
        preprocess: Any,
        eval_data: Any,
        metric: Any,
        passes: Pipeline | None,
        plan: Plan | None,
        augment: str | Sequence[str] | None,
    ) -> Result:
        with self._timed("reading"):
            own_metric = callable(metric) or (isinstance(metric, str) and ":" in metric)
            inputs = gather(
                self.original,
                data,
                eval_data,
                preprocess,
                self.executor,
                self.goal.seed,
                own_metric,
                self.shapes,
                train=self.goal.training > 0,
                augment=augment,
            )
            self.report.notes += inputs.notes
            runs_soundly(self.original, self.executor, inputs.probe)
        context = Context(
            executor=self.executor,
            reference=self.reference,
            statistics=self._statistics(inputs) if inputs.real else None,
            data=inputs.fit or None,
            probe=inputs.probe,
            seed=self.goal.seed,
            threads=self.goal.threads,
            progress=self.progress,
            details=self.report.details,
        )
        judge = self._judge(inputs, metric, own_metric)
        with self._timed("rewriting"):
            clean, exact = self._rewrite(passes, context, inputs)
        result, used = clean, Plan()
        if passes is None:
            with self._timed("planning"):
                result, used = self._plan(clean, plan, context, judge, inputs)
        measuring = Measuring(self.original, self.executor, self.goal, self.report, self.progress)
        with self._timed("measuring"):
            stated = passes is not None or plan is not None
            result, used = measuring.keep_the_best(clean, result, used, inputs, stated)
        with self._timed("judging"):
            self._score(judge, result)
        predicted = None if measuring.measures else self._predicted(used)
        with self._timed("verifying"):
            self._prove(result, exact and used.empty, inputs)
        self.report.skipped = [{"pass": s.pass_name, "place": s.place, "reason": s.reason} for s in context.skipped]
        self.report.notes += context.warnings
        untouched = self.source if result is self.original else None
        return Result(result, self.report, used, self._kept(judge, predicted), untouched)

    # ------------------------------------------------------------ phases

    def _statistics(self, inputs: Inputs) -> Statistics:
        return Statistics(self.original, inputs.fit, self.executor, self.goal.seed, progress=self.progress)

    def _judge(self, inputs: Inputs, metric: Any, own_metric: bool) -> Judge | None:
        """None when there is nothing to judge with: no data, and no metric that brings its own."""
        if inputs.judge is None and not own_metric:
            if metric is not None:
                raise UsageError(f"--metric '{metric}' needs samples; give --data or --eval-data")
            if self.goal.max_drop is not None:
                raise UsageError(
                    "--max-drop needs something to measure the drop on; give --data, or --metric module:function"
                )
            return None
        self.progress("judging the input", 0, 0)
        goal = self.goal
        return Judge(self.original, self.executor, inputs.judge, metric, goal.max_drop, goal.seed, goal.drop_factor)

    def _rewrite(self, passes: Pipeline | None, context: Context, inputs: Inputs) -> tuple[ir.Model, bool]:
        """The model after the pipeline, and whether all its passes keep the outputs (to rounding)."""
        pipeline = passes or Pipeline.parse(DEFAULT_PIPELINE)
        model = ir.clone(self.original)
        self.progress("rewriting", 0, 0)
        steps = pipeline.run(model, context, [Verify(feeds=inputs.probe[:1], approximate=not inputs.real)])
        self.report.recipe = str(pipeline)
        self.report.passes = [
            PassRun(str(step.spec), step.spec.contract.name.lower(), step.count, step.seconds) for step in steps
        ]
        if passes is not None:
            self.report.notes += idle(self.report.passes, context.skipped)
        return model, all(p.contract is not Contract.APPROXIMATE for p in pipeline)

    def _plan(
        self, clean: ir.Model, stated: Plan | None, context: Context, judge: Judge | None, inputs: Inputs
    ) -> tuple[ir.Model, Plan]:
        """The clean model with lighter forms in it: those of a stated plan, or the best that keep the promises."""
        planning = Planning(self.original, clean, self.executor, context, inputs, self.goal, self.report, self.pool)
        if stated is not None:
            return planning.carry_out(stated)
        if not self.goal.approximate:
            return planning.nothing()
        if judge is None or not inputs.real:
            return planning.without_data(judge)
        return planning.searched(judge)

    # ------------------------------------------------------------ proving

    def _score(self, judge: Judge | None, result: ir.Model) -> None:
        if judge is None:
            return
        score = judge.score(result) if result is not self.original else judge.base
        self.report.score = judge.record(score)
        self.report.stages[0].score = judge.base.value
        self.report.stages[-1].score = score.value

    def _prove(self, result: ir.Model, exact: bool, inputs: Inputs) -> None:
        self.progress("verifying", 0, 0)
        feeds = inputs.probe[:1]
        checks = [sound(result, self.original)]
        contract = Contract.ROUNDING if exact else Contract.APPROXIMATE
        independent = self._independent()
        if exact or not inputs.real:
            for executor in (self.executor, *independent):
                checks.append(
                    same_outputs(self.original, result, executor, feeds, contract, "outputs equal the input model's")
                )
        elif independent:
            checks.append(same_in_both(result, self.executor, self.reference, feeds, "both executors agree"))
        self.report.checks = checks
        broken = next((c for c in checks if not c.ok), None)
        if broken is not None:
            raise CheckError(f"the result failed a check ({broken.what}, {broken.executor}): {broken.detail}")

    def _independent(self) -> tuple[Executor, ...]:
        """The reference; none, and a note, where it does not know an operator of the input model."""
        try:
            self.reference.prepare(self.original)
        except ModelError as error:
            self.report.notes.append(f"no second executor verified the result: {error}")
            return ()
        return (self.reference,)

    def _predicted(self, used: Plan) -> tuple[float, float]:
        """Milliseconds before and after on a target elsewhere; what an empty plan leaves takes what it took."""
        base = float(self.report.details.get("search", {}).get("base_ms") or 0.0)
        return used.ms if used.ms != (0.0, 0.0) else (base, base)

    def _kept(self, judge: Judge | None, predicted: tuple[float, float] | None) -> bool:
        """Whether the promises hold; says in the report which one does not.

        Args:
            judge: of the metric.
            predicted: milliseconds before and after, for a target that cannot be timed here.
        """
        last = self.report.stages[-1]
        if self.report.score is not None and judge is not None and judge.stated:
            score = self.report.score
            if score.after < judge.floor:
                lost = f"{score.name} lost {score.drop:.4g}, --max-drop allows {judge.max_drop:g}"
                self.report.outcome = f"the promise was not kept: {lost}"
                return False
        if self.goal.limited:
            after = last.milliseconds or 0.0
            before = after / (last.ratio or 1.0)
            if predicted is not None:
                before, after = predicted
                if not before:
                    self.report.outcome = f"there are no prices for this model on {self.goal.target}"
                    return False
            broken = self.goal.violations(after, before, last.facts.bytes, last.facts.macs or 0)
            if broken:
                room = (
                    "a larger --max-drop would leave more room" if judge is not None else "--data would leave more room"
                )
                self.report.outcome = f"{'; '.join(broken)}; {room}"
                return False
        return True

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.report.seconds[phase] = self.report.seconds.get(phase, 0.0) + time.perf_counter() - start
