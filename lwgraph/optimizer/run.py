"""One run of optimize, from the file to the proved result."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.check import verify
from lwgraph.errors import CheckError, UsageError
from lwgraph.executor import Executor, watched
from lwgraph.failures import Failures
from lwgraph.layers.form import searched_forms
from lwgraph.measure.promise import BROKEN, EXIT, KEPT, OPEN
from lwgraph.optimizer import distill, report_rows
from lwgraph.optimizer.annotations import make_lean, same_graph
from lwgraph.optimizer.candidates import Candidates, Incumbent
from lwgraph.optimizer.clock import Clock, OutOfTime, Progress
from lwgraph.optimizer.first_run import FirstRuns
from lwgraph.optimizer.front import FrontRow, front_rows, keep_front
from lwgraph.optimizer.inputs import Inputs, gather
from lwgraph.optimizer.judge import ROUNDING, Judge, check_metric
from lwgraph.optimizer.last_look import LastLook, part
from lwgraph.optimizer.making import Making
from lwgraph.optimizer.memory import allowance
from lwgraph.optimizer.prove import Proof, runs_soundly
from lwgraph.optimizer.request import Request, takes_request
from lwgraph.optimizer.result import Result
from lwgraph.optimizer.stages import STAGES, Stage, Work
from lwgraph.optimizer.target import MACS, STAND_IN, TARGETS, open_oracle
from lwgraph.optimizer.timing import SECONDS, Timed, compare_untimed, facts_of, time_models
from lwgraph.optimizer.without_data import estimate, exact_plan
from lwgraph.plan import precision
from lwgraph.plan.carry_out import Samples, carry_out
from lwgraph.plan.plan import Plan
from lwgraph.plan.price.oracle import Oracle
from lwgraph.report import Check, Report, ScoreRecord, StageRun
from lwgraph.report import Stage as StageRow
from lwgraph.rewrite import Context, Contract, Pipeline, Step
from lwgraph.rewrite.instruments import Verify
from lwgraph.tasks import Pool, open_pool

DEFAULT_PIPELINE = "default"
TIMING_ROUNDS = 10  # runs of each of three models that the final timing takes at least, about


@takes_request
def optimize(model: ir.Source, *, progress: Progress = lambda what, done, total: None, **asked: Any) -> Result:
    """Make a model smaller and faster, and prove the result.

    A result is there from the first seconds on; everything after that improves it. Whatever fails on the way costs its
    own contribution and is told in `Result.report.failures`. Ctrl-C, and the end of `budget`, deliver what is there.

    Args:
        model: a path, bytes, a ModelProto or an onnx_ir.Model; it is not changed.
        **asked: ...
        progress: called with (what, done, total).

    Returns:
        the result, also when a promise could not be kept: see `Result.kept` and `Result.report.outcome`.

    Raises:
        UsageError: an option is wrong.
        ModelError: the model cannot be read or run.
        DataError: the data or the metric is unusable.
        CheckError: a pass that was asked for broke its contract; with `strict`, any did.
    """
    request = Request(**asked)
    check_metric(request.metric)
    if request.distill:
        distill.require()
    passes, plan = _pipeline(request), _plan(request)
    with open_pool(request.workers, request.dask) as pool:
        return Run(model, request, progress, pool).go(passes, plan)


def _pipeline(request: Request) -> Pipeline | None:
    if request.recipe is not None:
        try:
            return Pipeline.from_recipe(Path(request.recipe).read_text(encoding="utf8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"recipe '{request.recipe}' cannot be read: {error}") from None
    return Pipeline.parse(request.pipeline) if isinstance(request.pipeline, str) else request.pipeline


def _plan(request: Request) -> Plan | None:
    return request.plan if isinstance(request.plan, Plan) or request.plan is None else Plan.load(request.plan)


@dataclass(frozen=True, eq=False)
class Cleaned:
    """What the passes made of the input.

    Attributes:
        model: the model.
        recipe: the passes, as text.
        steps: what each did.
        exact: whether all of them keep the outputs, to rounding.
    """

    model: ir.Model
    recipe: str
    steps: tuple[Step, ...]
    exact: bool


@dataclass(frozen=True, eq=False)
class Searched:
    """What the stages found.

    Attributes:
        candidates: all that was looked at, and the incumbent.
        work: what the stages ended with.
        front: the table of plans that can be picked.
    """

    candidates: Candidates
    work: Work
    front: tuple[FrontRow, ...] = ()


class Run:
    """One run; `go` is called once.

    Args:
        source: the model.
        request: what was asked for.
        progress: called with (what, done, total).
        pool: works side by side; None: this process does everything.
    """

    def __init__(self, source: ir.Source, request: Request, progress: Progress, pool: Pool | None) -> None:
        self.request, self.pool = request, pool
        self.clock = Clock(None if request.budget is None else float(request.budget))
        self.progress = self.clock.watching(progress)
        self.progress("reading", 0, 0)
        self.source = Path(source) if isinstance(source, (str, Path)) else None
        self.name = Path(str(source)).name if isinstance(source, (str, Path)) else "model"
        self.original = ir.load(source)
        verify(self.original)
        self.executor: Executor = registry.executor(TARGETS.get(request.target, STAND_IN), threads=request.threads)
        self.reference: Executor = registry.executor("reference")
        self.failures = Failures(report_rows.plain(request), self.original, request.strict)
        self.seconds: dict[str, float] = {}
        self.stages: list[StageRun] = []
        self.notes: list[str] = []

    def go(self, passes: Pipeline | None, stated: Plan | None) -> Result:
        """Everything, in order."""
        request = self.request
        with self._timed("reading"):
            own = callable(request.metric) or (isinstance(request.metric, str) and ":" in request.metric)
            inputs = gather(self.original, request, self.executor, own)
            first = FirstRuns(self.executor, inputs.probe)
            first.check(self.original)
            runs_soundly(self.original, self.executor, inputs.probe)
        return self._with(inputs, own, passes, stated, first)

    def _with(
        self, inputs: Inputs, own: bool, passes: Pipeline | None, stated: Plan | None, first: FirstRuns
    ) -> Result:
        request = self.request
        # Where nothing is stated, statistics take what they did before, as long as half of the free memory allows it.
        memory = allowance(None if request.memory is None else float(request.memory))
        context = Context(
            executor=self.executor,
            reference=self.reference,
            data=inputs.fit or None,
            probe=inputs.probe,
            seed=request.seed,
            threads=request.threads,
            progress=self.progress,
            details={},
            memory_bytes=memory,
            failures=self.failures,
        )
        if inputs.real:
            context = self._observing(self.original, context)
        judge, last = self._judge(inputs, own)
        proof = Proof(self.original, self.executor, self.reference, inputs.probe, inputs.real)
        with self._timed("rewriting"):
            cleaned = self._clean(passes, context, inputs)
            incumbent = self._first(cleaned, proof, passes is not None)
        searched: Searched | None = None
        if passes is None and incumbent.model is cleaned.model:
            incumbent, searched = self._improve(incumbent, stated, context, judge, last, inputs, proof, first)
        return self._deliver(
            cleaned, incumbent, searched, context, judge, last, inputs, passes is not None or stated is not None
        )

    # ------------------------------------------------------------ before the stages

    def _observing(self, model: ir.Model, context: Context) -> Context:
        """The context with statistics of a model."""
        assert context.data is not None
        return context.beside(
            statistics=Statistics(
                model,
                context.data,
                self.executor,
                self.request.seed,
                memory_bytes=context.memory_bytes,
                progress=self.progress,
            )
        )

    def _judge(self, inputs: Inputs, own: bool) -> tuple[Judge | None, LastLook | None]:
        """Nones when there is nothing to judge with: no data, and no metric that brings its own."""
        request = self.request
        if inputs.judge is None and not own:
            if request.metric is not None:
                raise UsageError(f"--metric '{request.metric}' needs samples; give --data or --eval-data")
            if request.max_drop is not None:
                raise UsageError(
                    "--max-drop needs something to measure the drop on; give --data, or --metric module:function"
                )
            return None, None
        self.progress("judging the input", 0, 0)
        choose, last = part(inputs.judge, request.seed)
        before = self.clock.spent
        judge = Judge(
            self.original,
            self.executor,
            choose,
            request.metric,
            request.max_drop,
            request.seed,
            request.asked.drop_factor,
        )
        # The last look is at twice as many samples, with the original and the result.
        self.clock.reserve += 4 * (self.clock.spent - before) if last is not None and not own else 0.0
        return judge, LastLook(
            self.original, self.executor, judge, None if own else last, request.confidence, request.seed
        )

    def _clean(self, passes: Pipeline | None, context: Context, inputs: Inputs) -> Cleaned:
        """The model after the passes. Of the default ones, what fails is undone; passes that were asked for may not."""
        pipeline = passes or Pipeline.parse(DEFAULT_PIPELINE)
        model = ir.clone(self.original)
        self.progress("rewriting", 0, 0)
        held = Verify(feeds=inputs.probe[:1], approximate=not inputs.real)
        steps = pipeline.run(model, context, [held], guarded=passes is None and not self.request.strict)
        exact = all(p.contract is not Contract.APPROXIMATE for p in pipeline)
        return Cleaned(model, str(pipeline), tuple(steps), exact)

    def _first(self, cleaned: Cleaned, proof: Proof, stated: bool) -> Incumbent:
        """The cleaned model, proved; the input itself where it is not what it should be."""
        checks = self._proved(proof, cleaned.model, cleaned.exact)
        broken = next((check for check in checks if not check.ok), None)
        if broken is None:
            return Incumbent(cleaned.model, checks=tuple(checks))
        error = CheckError(f"the result failed a check ({broken.what}, {broken.executor}): {broken.detail}")
        if stated:
            raise error
        self.failures.take("clean", error)
        return Incumbent(self.original, checks=tuple(self._proved(proof, self.original, True)))

    def _proved(self, proof: Proof, model: ir.Model, exact: bool) -> list[Check]:
        self.progress("verifying", 0, 0)
        checks, note = proof.checks(model, exact)
        if note:
            self._note(note)
        return checks

    # ------------------------------------------------------------ the stages

    def _improve(
        self,
        incumbent: Incumbent,
        stated: Plan | None,
        context: Context,
        judge: Judge | None,
        last: LastLook | None,
        inputs: Inputs,
        proof: Proof,
        first: FirstRuns,
    ) -> tuple[Incumbent, Searched | None]:
        """The best that can be made of the cleaned model, and what was searched."""
        request = self.request
        if stated is not None:
            return self._carried_out(incumbent, stated, context, inputs, proof, first), None
        if not request.asked.approximate:
            self._note("nothing approximate was tried: --preset lossless asks for exact rewrites only")
            return incumbent, None
        if judge is None or not inputs.real:
            return self._without_data(incumbent, context, inputs, proof), None
        with self._timed("planning"):
            return self._stages(incumbent, context, judge, last, inputs, proof, first)

    def _stages(
        self,
        incumbent: Incumbent,
        context: Context,
        judge: Judge,
        last: LastLook | None,
        inputs: Inputs,
        proof: Proof,
        first: FirstRuns,
    ) -> tuple[Incumbent, Searched | None]:
        """Let each stage propose; what stands in the end is the incumbent, however they end."""
        candidates = None
        try:
            with self.failures.guard("preparation"), self.clock.limit(), watched(self.clock.check):
                work = self._work(incumbent, context, judge, last, inputs, proof, first)
                candidates = work.candidates
                self.clock.reserve += min(SECONDS, 3 * TIMING_ROUNDS * work.float_ms / 1e3) + 1.0
                for stage in STAGES:
                    work = self._stage(stage, work)
                with self.failures.guard("race"):
                    candidates.settle()
                with self.failures.guard("last look"):
                    if last is not None:
                        candidates.look_last(last)
        except OutOfTime:
            self._note(f"the budget of {self.request.budget:g} s was spent; more time may find a better result")
        except KeyboardInterrupt:
            self._note("stopped by the user: this is the best result until then; a second run goes on from here")
        if candidates is None:
            return incumbent, None
        rows, made = front_rows(candidates)
        with self.failures.guard("front"):
            if warning := keep_front(self.original, rows, made, work.making.models.folder):
                context.warn(warning)
        return candidates.incumbent, Searched(candidates, work, tuple(rows))

    def _stage(self, stage: Stage, work: Work) -> Work:
        """One stage; what fails in it, or its share of the time, ends only it."""
        before, known = self.clock.spent, len(work.candidates.all())
        outcome = ""
        failed = len(self.failures.rows)
        try:
            reason = stage.idle(work)
            if reason:
                self.stages.append(StageRun(stage.name, 0.0, 0, f"nothing to do: {reason}"))
                return work
            with self.failures.guard(stage.name), self.clock.limit(stage.share * self.clock.left):
                work = stage.run(work)
        except OutOfTime:
            outcome = "its share of the time was over"
            if self.clock.left <= 0:
                raise
        finally:
            if len(self.failures.rows) > failed and not outcome:
                last = self.failures.rows[-1]
                outcome = f"failed: {last.reason}" if last.step == stage.name else ""
            looked = len(work.candidates.all()) - known
            if not (self.stages and self.stages[-1].name == stage.name):
                self.stages.append(StageRun(stage.name, self.clock.spent - before, looked, outcome or "done"))
        return work

    def _work(
        self,
        incumbent: Incumbent,
        context: Context,
        judge: Judge,
        last: LastLook | None,
        inputs: Inputs,
        proof: Proof,
        first: FirstRuns,
    ) -> Work:
        clean = incumbent.model
        shapes = layer_shapes(clean, inputs.probe[0], self.executor)
        context = self._observing(clean, context)
        oracle = open_oracle(self.request.target, self.request.threads, self.executor)
        here = oracle if oracle.measures else Oracle(self.executor)
        float_ms = here.whole({"clean": clean}, inputs.probe)[0]
        making = Making(clean, context, shapes, inputs.probe[0], float_ms, first.check)
        measures = oracle.measures

        def milliseconds(model: ir.Model) -> float:
            return oracle.against(clean, float_ms, model, inputs.probe, 2.0)

        def race(models: Sequence[ir.Model]) -> list[float]:
            named = {str(index): model for index, model in enumerate(models)}
            return oracle.whole(named, inputs.probe, 2.0 * len(models))

        base_ms = float_ms if measures else oracle.whole({"clean": clean}, inputs.probe)[0]
        candidates = Candidates(
            self.request,
            judge,
            replace(incumbent, score=judge.base),
            make=making.stated,
            prove=lambda model: self._proved(proof, model, False),
            milliseconds=milliseconds if measures else None,
            race=race if measures else None,
            base_ms=base_ms,
            context=context,
            seconds=lambda: self.clock.spent,
            follows=last.follows if last is not None else lambda model: True,
        )
        return Work(
            self.request,
            clean,
            shapes,
            context,
            self.executor,
            inputs,
            oracle,
            here,
            float_ms,
            candidates,
            making,
            self.clock,
            self.pool,
            making.trunk(Plan()),
        )

    # ------------------------------------------------------------ a stated plan, and runs without data

    def _carried_out(
        self,
        incumbent: Incumbent,
        stated: Plan,
        context: Context,
        inputs: Inputs,
        proof: Proof,
        first: FirstRuns,
    ) -> Incumbent:
        """The cleaned model with a stated plan carried out."""
        clean = incumbent.model
        shapes = layer_shapes(clean, inputs.probe[0], self.executor)
        if inputs.real:
            context = self._observing(clean, context)
        with self._timed("planning"):
            if self.request.training:
                done = distill.recover(clean, stated, context, self.request.training, data=inputs.training)
                model, records = done.model, done.records
                for gain in done.gains:
                    self._note(str(gain))
            else:
                here = Oracle(self.executor)
                run_ms = here.whole({"clean": clean}, inputs.probe)[0] if inputs.real else None
                carried = carry_out(clean, stated, context, shapes=shapes, samples=Samples.in_earnest(run_ms))
                model, records = carried.model, carried.records
        first.check(model)
        checks = self._proved(proof, model, stated.empty)
        broken = next((check for check in checks if not check.ok), None)
        if broken is not None:
            raise CheckError(f"the result failed a check ({broken.what}, {broken.executor}): {broken.detail}")
        done_sites = {record.site for record in records if record.done}
        used = replace(stated, sites={name: c for name, c in stated.sites.items() if name in done_sites})
        return Incumbent(model, used, checks=tuple(checks))

    def _without_data(self, incumbent: Incumbent, context: Context, inputs: Inputs, proof: Proof) -> Incumbent:
        """The cleaned model with what its weights alone allow; tells what data would buy."""
        clean = incumbent.model
        oracle = open_oracle(self.request.target, self.request.threads, self.executor)
        with self._timed("planning"):
            with self.failures.guard("redundant weights"):
                plan = exact_plan(clean, context, oracle, searched_forms(context.warn), inputs.probe[0])
                if not plan.empty:
                    model = carry_out(clean, plan, context).model
                    checks = self._proved(proof, model, exact=True)
                    if all(check.ok for check in checks):
                        incumbent = Incumbent(model, plan, checks=tuple(checks))
            with self.failures.guard("estimate of what data would buy"):
                if oracle.measures:
                    integers = precision.available() and self.request.target != MACS
                    self._note(str(estimate(clean, self.executor, oracle, inputs.probe, integers)))
        return incumbent

    # ------------------------------------------------------------ after the stages

    def _deliver(
        self,
        cleaned: Cleaned,
        incumbent: Incumbent,
        searched: Searched | None,
        context: Context,
        judge: Judge | None,
        last: LastLook | None,
        inputs: Inputs,
        stated: bool,
    ) -> Result:
        models = {"input": self.original}
        for model in (cleaned.model, incumbent.model):
            make_lean(model, self.original)
        if not same_graph(self.original, cleaned.model):
            models["cleaned"] = cleaned.model
        if incumbent.model is self.original:
            models = {"input": self.original}
        elif not incumbent.plan.empty:
            models["result"] = incumbent.model
        with self._timed("measuring"):
            timed = self._measured(models, incumbent.plan, inputs, stated)
        result = models[timed.kept]
        plan = incumbent.plan if timed.kept == "result" else Plan()
        with self._timed("judging"):
            same = result is self.original or (incumbent.plan.empty and cleaned.exact)
            score = None if judge is None or last is None else self._record(judge, last, result, same)
        checks = incumbent.checks
        report = self._report(cleaned, timed, plan, score, checks, searched, context, judge, inputs)
        if timed.kept == "input" and not stated:
            report.notes.append("nothing helped: lwgraph found nothing that makes the input smaller or faster")
        status, outcome = self._ended(report, judge, score, plan, searched)
        report.outcome = outcome or "done"
        untouched = self.source if result is self.original else None
        return Result(result, report, plan, status == 0, untouched, status)

    def _measured(self, models: dict[str, ir.Model], plan: Plan, inputs: Inputs, stated: bool) -> Timed:
        """The times of the models; without them where timing fails or there is no time for it."""
        request = self.request
        try:
            with self.failures.guard("timing"):
                if request.target not in TARGETS:
                    return compare_untimed(models, self.executor, inputs.probe, request.target, plan.ms, stated=stated)
                seconds = SECONDS
                if self.clock.budget is not None:
                    seconds = min(SECONDS, max(0.5, self.clock.budget - self.clock.spent - 1.0))
                return time_models(
                    models,
                    self.executor,
                    inputs.probe,
                    request.target,
                    request.threads,
                    self.progress,
                    stated=stated,
                    seconds=seconds,
                )
        except KeyboardInterrupt:
            self._note("stopped by the user while the result was timed: its speed is not known")
        last = list(models)[-1]
        return Timed(
            tuple(
                StageRow(name, facts_of(models[name], inputs.probe[0], self.executor))
                for name in dict.fromkeys(["input", last])
            )
        )

    def _record(self, judge: Judge, last: LastLook, result: ir.Model, same: bool) -> ScoreRecord:
        """What the last look says of the result."""
        score, verdict = last.verdict(result, same)
        return judge.record(last.base, score, verdict)

    def _report(
        self,
        cleaned: Cleaned,
        timed: Timed,
        plan: Plan,
        score: ScoreRecord | None,
        checks: Sequence[Check],
        searched: Searched | None,
        context: Context,
        judge: Judge | None,
        inputs: Inputs,
    ) -> Report:
        """The report, of what the steps returned."""
        request = self.request
        report = Report(source=self.name, target=request.target, threads=request.threads, seed=request.seed)
        report.recipe = cleaned.recipe
        report.passes = report_rows.pass_rows(cleaned.steps)
        report.stages = list(timed.stages)
        report.checks = list(checks)
        if judge is not None and score is not None:
            report.score = score
            report.stages[0].score, report.stages[-1].score = score.before, score.after
        report.notes = [*inputs.notes, *self.notes, *timed.notes]
        if request.pipeline is not None or request.recipe is not None:
            report.notes += report_rows.idle(report.passes, context.skipped)
        else:
            shapes = layer_shapes(cleaned.model, inputs.probe[0], self.executor)
            report.sites = report_rows.choices(cleaned.model, plan, context.skipped, shapes)
        report.skipped = [{"pass": s.pass_name, "place": s.place, "reason": s.reason} for s in context.skipped]
        report.notes += context.warnings
        report.failures = [str(failure) for failure in self.failures.rows]
        report.runs = list(self.stages)
        report.details = dict(context.details or {})
        if searched is not None:
            found = searched.candidates.incumbent
            report.details.update(found.details if not plan.empty else {})
            report.details["search"] = report_rows.searched(searched.candidates, searched.work.search)
            report.details["front"] = report_rows.front(searched.front)
            report.details["progress"] = report_rows.moments(searched.candidates)
        report.seconds = dict(self.seconds)
        return report

    def _ended(
        self, report: Report, judge: Judge | None, score: ScoreRecord | None, plan: Plan, searched: Searched | None
    ) -> tuple[int, str]:
        """The exit code, and which promise is broken or not resolved, in words: "" where all are kept."""
        resolved = KEPT, ""
        if judge is not None and score is not None and (judge.stated or not self.request.limited):
            # Of one number there is no bound: what it says itself counts.
            over = score.bound is None and score.drop > judge.max_drop + ROUNDING
            if score.verdict == BROKEN or over:
                asked = "--max-drop" if judge.stated else "the default promise"
                lost = f"{score.name} lost {score.drop:.4g}, {asked} allows {judge.max_drop:g}"
                return EXIT[BROKEN], f"the promise was not kept: {lost}"
            if score.verdict == OPEN and judge.stated:
                resolved = OPEN, f"the promise is not resolved: {score.text}"
        limits = self._limits(report, judge is not None, plan, searched)
        verdict, why = limits if limits[0] == BROKEN or resolved[0] == KEPT else resolved
        return EXIT[verdict], why

    def _limits(self, report: Report, judged: bool, plan: Plan, searched: Searched | None) -> tuple[str, str]:
        """The verdict on the limits of speed and size, in words where they are not kept."""
        request, last = self.request, report.stages[-1]
        if not request.limited:
            return KEPT, ""
        before, after = report.stages[0].milliseconds, last.milliseconds
        if request.target not in TARGETS:
            base = searched.candidates.base_ms if searched is not None else 0.0
            before, after = plan.ms if plan.ms != (0.0, 0.0) else (base, base)
        if before is None or after is None:
            return OPEN, "the promise is not resolved: the speed of the result was not measured"
        ratio = last.ratio if last.ratio is not None else after / max(before, 1e-12)
        ratios = last.ratio_spread or (ratio, ratio)
        verdict, why = request.judge_limits(ratios, before, last.facts.bytes, last.facts.macs or 0)
        if verdict == OPEN:
            return OPEN, f"the promise is not resolved: {why}"
        hint = "" if judged else "; --data leaves more room"
        return verdict, f"{why} is the nearest that was found{hint}" if verdict == BROKEN else ""

    # ------------------------------------------------------------ small things

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


__all__ = ["optimize"]
