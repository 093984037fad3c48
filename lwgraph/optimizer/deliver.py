"""From the incumbent to the result: timed, scored, reported."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass

from lwgraph import ir
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.measure.score import Score
from lwgraph.optimizer import report_rows
from lwgraph.optimizer.annotations import make_lean, same_graph
from lwgraph.optimizer.candidates import Incumbent
from lwgraph.optimizer.improve import Searched
from lwgraph.optimizer.result import Result
from lwgraph.optimizer.setting import Setting
from lwgraph.optimizer.target import TARGETS
from lwgraph.optimizer.timing import SECONDS, Timed, compare_untimed, facts_of, time_models
from lwgraph.plan.plan import Plan
from lwgraph.report import Report, Stage
from lwgraph.rewrite import Step


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


def deliver(
    setting: Setting, cleaned: Cleaned, incumbent: Incumbent, searched: Searched | None, *, asked: bool
) -> Result:
    """The result of a run, which is never slower or larger than the input unless that was asked for.

    Args:
        setting: the run.
        cleaned: the model after the passes.
        incumbent: what stands.
        searched: what the stages found; None where there were none.
        asked: whether the passes or the plan were stated: they are kept whatever they cost.
    """
    models = {"input": setting.original}
    for model in (cleaned.model, incumbent.model):
        make_lean(model, setting.original)
    if incumbent.model is not setting.original:
        if not same_graph(setting.original, cleaned.model):
            models["cleaned"] = cleaned.model
        if not incumbent.plan.empty:
            models["result"] = incumbent.model
    with setting.told.timed("measuring"):
        timed = _measured(setting, models, incumbent.plan, asked)
    result, plan = models[timed.kept], incumbent.plan if timed.kept == "result" else Plan()
    score, judge = None, setting.judge
    with setting.told.timed("judging"), nullcontext() if asked else setting.failures.guard("judging"):
        score = _score(setting, result, incumbent, asked)
    if judge is not None and score is None and not plan.empty:  # nothing says that the result is as good as the input
        timed, result, plan, score = Timed(timed.stages[:1]), setting.original, Plan(), judge.base
    report = _report(setting, cleaned, timed, plan, score, incumbent, searched)
    if timed.kept == "input" and not asked:
        report.notes.append("nothing helped: lwgraph found nothing that makes the input smaller or faster")
    broken = _broken(setting, report, score, plan, searched)
    report.outcome = broken or "done"
    untouched = setting.source if result is setting.original else None
    return Result(result, report, plan, not broken, untouched)


def _measured(setting: Setting, models: dict[str, ir.Model], plan: Plan, asked: bool) -> Timed:
    """The times of the models; without them where timing fails or there is no time for it."""
    request, clock, probe = setting.request, setting.clock, setting.inputs.probe
    with setting.told.stoppable("the speed of the result is not known"), setting.failures.guard("timing"):
        if request.target not in TARGETS:
            return compare_untimed(models, setting.executor, probe, request.target, plan.ms, stated=asked)
        left = SECONDS if clock.budget is None else max(0.5, clock.budget - clock.spent - 1.0)
        return time_models(
            models,
            setting.executor,
            probe,
            request.target,
            request.threads,
            setting.context.progress,
            stated=asked,
            seconds=min(SECONDS, left),
        )
    names = dict.fromkeys(["input", list(models)[-1]])
    return Timed(tuple(Stage(name, facts_of(models[name], probe[0], setting.executor)) for name in names))


def _score(setting: Setting, result: ir.Model, incumbent: Incumbent, asked: bool) -> Score | None:
    """The score of the result; None where the budget is spent and only exact rewrites were made."""
    if setting.judge is None:
        return None
    if result is setting.original:
        return setting.judge.base
    known = incumbent.score if result is incumbent.model and incumbent.candidate is not None else None
    if known is not None or asked:
        return known or setting.judge.score(result)
    with setting.told.in_time(setting.clock, "the cleaned model was not judged; its outputs are those of the input"):
        return setting.judge.score(result)
    return None


def _report(
    setting: Setting,
    cleaned: Cleaned,
    timed: Timed,
    plan: Plan,
    score: Score | None,
    incumbent: Incumbent,
    searched: Searched | None,
) -> Report:
    """The report, of what the steps returned."""
    request, context, judge = setting.request, setting.context, setting.judge
    name = "model" if setting.source is None else setting.source.name
    report = Report(source=name, target=request.target, threads=request.threads, seed=request.seed)
    report.recipe, report.unproven = cleaned.recipe, setting.inputs.unproven
    report.passes, report.stages = report_rows.pass_rows(cleaned.steps), list(timed.stages)
    report.checks = list(incumbent.checks)
    if judge is not None and score is not None:
        report.score = judge.record(score)
        report.stages[0].score, report.stages[-1].score = judge.base.value, score.value
    report.notes = [*setting.inputs.notes, *setting.told.notes, *timed.notes]
    if request.pipeline is not None or request.recipe is not None:
        report.notes += report_rows.idle(report.passes, context.skipped)
    else:
        with setting.failures.guard("report"):
            shapes = layer_shapes(cleaned.model, setting.inputs.probe[0], setting.executor)
            report.sites = report_rows.choices(cleaned.model, plan, context.skipped, shapes)
    report.skipped = [{"pass": s.pass_name, "place": s.place, "reason": s.reason} for s in context.skipped]
    report.notes += context.warnings
    report.failures = [str(failure) for failure in setting.failures.rows]
    report.runs, report.seconds = list(setting.told.stages), dict(setting.told.seconds)
    report.details = dict(context.details or {})
    if searched is not None:
        candidates = searched.work.candidates
        report.details.update(incumbent.details if not plan.empty else {})
        report.details["search"] = report_rows.searched(candidates, searched.work.search)
        report.details["front"] = [asdict(row) for row in searched.front]
        report.details["progress"] = report_rows.moments(candidates)
    return report


def _broken(setting: Setting, report: Report, score: Score | None, plan: Plan, searched: Searched | None) -> str:
    """Which promise does not hold, in words; "" where all do."""
    request, judge, last = setting.request, setting.judge, report.stages[-1]
    if judge is not None and judge.stated and score is not None and score.value < judge.floor:
        assert report.score is not None
        lost = f"{report.score.name} lost {report.score.drop:.4g}, --max-drop allows {judge.max_drop:g}"
        return f"the promise was not kept: {lost}"
    if not request.limited:
        return ""
    before, after = report.stages[0].milliseconds, last.milliseconds
    if request.target not in TARGETS:
        base = searched.work.candidates.base_ms if searched is not None else 0.0
        before, after = plan.ms if plan.ms != (0.0, 0.0) else (base, base)
    if before is None or after is None:
        return "the speed of the result was not measured"
    ratio = last.ratio if last.ratio is not None else after / max(before, 1e-12)
    broken = request.violations(ratio * before, before, last.facts.bytes, last.facts.macs or 0)
    hint = "" if judge is not None else "; --data leaves more room"
    return f"{broken[0]} is the nearest that was found{hint}" if broken else ""


__all__ = ["Cleaned", "deliver"]
