"""One run of optimize, from the file to the proved result."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from lwgraph import ir
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.contract import Contract
from lwgraph.errors import CheckError, UsageError
from lwgraph.optimizer import distill
from lwgraph.optimizer.candidates import Incumbent
from lwgraph.optimizer.cleaned import Cleaned
from lwgraph.optimizer.clock import Progress
from lwgraph.optimizer.deliver import deliver
from lwgraph.optimizer.improve import Searched, improve
from lwgraph.optimizer.judge import check_metric
from lwgraph.optimizer.memory import keep_on_disk
from lwgraph.optimizer.request import Request, takes_request
from lwgraph.optimizer.result import Result
from lwgraph.optimizer.setting import Setting, open_run
from lwgraph.optimizer.several import weigh
from lwgraph.optimizer.shared import Shared
from lwgraph.optimizer.spoken import arguments, speak_of_arguments
from lwgraph.optimizer.stages import STAGES, Training
from lwgraph.optimizer.steps import CARRYING_OUT, CLEANING, WITHOUT_DATA, Steps, steps_of
from lwgraph.optimizer.target import SEVERAL
from lwgraph.optimizer.trim import Growth, Ran, run_trimmed
from lwgraph.optimizer.without_data import without_data
from lwgraph.plan.carry_out import Samples, carry_out
from lwgraph.plan.plan import Plan
from lwgraph.plan.price.oracle import Oracle
from lwgraph.report import Check
from lwgraph.rewrite import Pipeline
from lwgraph.rewrite.instrument import Step
from lwgraph.rewrite.instruments import Verify
from lwgraph.tasks import open_pool

DEFAULT_PIPELINE = "default"
PROBES = 2  # inputs on which each pass is checked, with variants of them
LEAST_PATIENCE = 5.0  # seconds that a pass may take however little of the budget is left
TASK_SECONDS = 600.0  # that a task of a worker may take before it is taken for one that hangs


@takes_request
def optimize(model: ir.Source, *, progress: Progress = lambda what, done, total: None, **asked: Any) -> Result:
    """Make a model smaller and faster, and prove the result.

    A result is there from the first seconds on; everything after that improves it. Whatever fails on the way costs its
    own contribution and is told in `Result.report.failures`. Ctrl-C, and the end of `budget`, deliver what is there.

    Args:
        model: a path, bytes, a ModelProto, an onnx_ir.Model or what torch.onnx.export(dynamo=True) returns; it is not
            changed.
        **asked: ...
        progress: called with (what, done, total), such as ("4 of 9, forms: fitting forms (best so far 2.9x at 0.4
            points)", 12, 31); a sentence, which ends in a full stop, is news.

    Returns:
        the result, also when a promise could not be kept: see `Result.kept` and `Result.report.outcome`.

    Raises:
        UsageError: an option is wrong.
        ModelError: the model cannot be read or run.
        DataError: the data or the metric is unusable.
        CheckError: a pass that was asked for broke its contract; with `strict`, any did.
    """
    with arguments():
        result = optimize_as(model, Request(**asked), progress)
    speak_of_arguments(result.report)
    return result


def optimize_as(model: ir.Source, request: Request, progress: Progress) -> Result:
    """As `optimize`, of a request that was made; what it tells speaks of options of the command line."""
    check_metric(request.metric)
    if request.distill:
        distill.require()
    passes, plan = _pipeline(request), _plan(request)
    with open_pool(request.workers, request.dask, TASK_SECONDS) as pool:

        def opened(asked: Request, told: Progress, shared: Shared | None = None) -> Setting:
            stages = [stage.name for stage in STAGES if asked.distill or not isinstance(stage, Training)]
            return open_run(model, asked, Steps(steps_of(asked, stages), told), pool, shared)

        def done(setting: Setting) -> Result:
            return run(setting, passes, plan)

        try:
            return (
                weigh(request, progress, opened, done) if request.target in SEVERAL else done(opened(request, progress))
            )
        finally:
            if pool is not None:  # nobody waits for what is still at work
                pool.shutdown(wait=False, cancel_futures=True)


def _pipeline(request: Request) -> Pipeline | None:
    if request.recipe is not None:
        try:
            text = Path(request.recipe).read_text(encoding="utf8")
        except (OSError, ValueError) as error:  # no text, or a NUL in the name
            raise UsageError(f"recipe '{request.recipe}' cannot be read: {error}") from None
        return Pipeline.from_recipe(text)
    return Pipeline.parse(request.pipeline) if isinstance(request.pipeline, str) else request.pipeline


def _plan(request: Request) -> Plan | None:
    return request.plan if isinstance(request.plan, Plan) or request.plan is None else Plan.load(request.plan)


def run(setting: Setting, passes: Pipeline | None, stated: Plan | None) -> Result:
    """Clean, improve, deliver.

    Args:
        setting: the run, opened.
        passes: what to do instead of all that; None: the default passes and stages.
        stated: the plan to carry out instead of searching one; None: search.
    """
    steps = setting.told.steps
    steps.begin(CLEANING)
    with setting.told.timed("rewriting"):
        cleaned, incumbent = setting.finished(lambda: _cleaned(setting, passes), "only cleaning was done")
    searched: Searched | None = None
    left = setting.clock.left > 0 and not setting.told.stopped
    if passes is None and incumbent.model is cleaned.model and left:
        with setting.told.timed("planning"):
            if stated is not None:
                steps.begin(CARRYING_OUT)
                incumbent = _carried_out(setting, incumbent, stated)
            elif not setting.request.asked.approximate:
                setting.told.note("no approximation was tried: --preset lossless allows exact rewrites only")
            elif setting.judge is None and setting.inputs.holes:
                setting.told.note(
                    "no approximation was tried: outputs hold NaN, so what one loses cannot be judged; "
                    "--metric module:function can say what counts"
                )
            elif setting.judge is None or not setting.inputs.fit:
                steps.begin(WITHOUT_DATA)
                incumbent = without_data(setting, incumbent)
            else:
                incumbent, searched = improve(setting, incumbent, setting.judge)
    return deliver(setting, cleaned, incumbent, searched, asked=passes is not None or stated is not None)


def _cleaned(setting: Setting, passes: Pipeline | None) -> tuple[Cleaned, Incumbent]:
    shared = setting.shared if passes is None else None  # passes that were asked for may follow the target
    cleaned = None if shared is None else shared.tell_cleaned(setting.context)
    if cleaned is None:
        cleaned = _clean(setting, passes)
        if shared is not None:
            shared.keep_cleaned(cleaned, setting.context)
    return cleaned, _first(setting, cleaned, passes is not None)


def _clean(setting: Setting, passes: Pipeline | None) -> Cleaned:
    """The model after the passes. Of the default ones, what fails is undone; passes that were asked for may not.

    Under a budget one of the default passes may take half of what is left, one that was asked for all of it.
    """
    pipeline = passes or Pipeline.parse(DEFAULT_PIPELINE)
    share = 0.5 if passes is None else 1.0

    def patience() -> float:
        left = setting.clock.left
        return max(share * left, LEAST_PATIENCE) if left > 0 or passes is not None else 0.0

    context = setting.context.beside(patience=patience)

    def held(*, each: bool = True) -> Verify:
        return Verify(feeds=setting.inputs.probe, samples=PROBES, approximate=not setting.inputs.fit, each=each)

    if passes is not None:

        def run_on_copy(some: Pipeline, growth: Growth) -> Ran:
            model = ir.clone(setting.original)
            return model, some.rewrite(model, context, [held(), growth])

        kept, (model, done) = run_trimmed(passes, setting.original, setting.bytes, context, run_on_copy)
        return Cleaned(keep_on_disk(model, context.memory_bytes), str(kept), tuple(done), _exact(done))
    if setting.clock.left <= 0:  # already what they are compared with would take time
        return Cleaned(ir.clone(setting.original), str(pipeline), (), True)
    with setting.failures.guard("clean"):
        for each in (False, True):  # once for all together, as a rule; else each, to find out which one is wrong
            model = ir.clone(setting.original)
            with nullcontext() if each else suppress(CheckError):
                steps = pipeline.rewrite(model, context, [held(each=each)], guarded=True)
                return Cleaned(keep_on_disk(model, context.memory_bytes), str(pipeline), tuple(steps), _exact(steps))
    return Cleaned(ir.clone(setting.original), str(pipeline), (), True)


def _exact(steps: Iterable[Step]) -> bool:
    """Whether all that changed something keeps the outputs."""
    return all(step.spec.contract is not Contract.APPROXIMATE for step in steps if step.count)


def _first(setting: Setting, cleaned: Cleaned, asked: bool) -> Incumbent:
    """The cleaned model, proved; the input itself where it is not what it should be."""
    if asked:
        return Incumbent(cleaned.model, checks=setting.sound(cleaned.model, cleaned.exact))
    with setting.failures.guard("clean"):
        return Incumbent(cleaned.model, checks=setting.sound(cleaned.model, cleaned.exact))
    checks: tuple[Check, ...] = ()
    with setting.failures.guard("the proof of the input itself"):
        checks = tuple(setting.proved(setting.original, True))
    return Incumbent(setting.original, checks=checks)


def _carried_out(setting: Setting, incumbent: Incumbent, stated: Plan) -> Incumbent:
    """The cleaned model with a stated plan carried out."""
    clean, context, inputs = incumbent.model, setting.context, setting.inputs
    shapes = layer_shapes(clean, inputs.probe[0], setting.executor)
    if inputs.fit:
        context = context.beside(statistics=context.statistics_of(clean))
    if setting.request.training:
        done = distill.recover(clean, stated, context, setting.request.training, data=inputs.training)
        model, records = done.model, done.records
        for line in done.told(len(inputs.fit) if inputs.training is None else inputs.training.count):
            setting.told.note(line)
    else:
        run_ms = Oracle(setting.executor).whole({"clean": clean}, inputs.probe)[0] if inputs.fit else None
        carried = carry_out(clean, stated, context, shapes=shapes, samples=Samples.in_earnest(run_ms))
        model, records = carried.model, carried.records
    done_sites = {record.site for record in records if record.done}
    used = replace(stated, sites={name: c for name, c in stated.sites.items() if name in done_sites})
    return Incumbent(model, used, checks=setting.sound(model, stated.empty))


__all__ = ["optimize", "optimize_as", "run"]
