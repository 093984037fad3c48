"""From the incumbent to the result: timed, scored, reported."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lwgraph import ir
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.executor import Executor, faithful, untimed
from lwgraph.measure.download import RATE, download_bytes
from lwgraph.measure.kernels import kernels
from lwgraph.measure.labels import FILE
from lwgraph.measure.promise import BROKEN, EXIT, KEPT, OPEN, amount, unchanged, worst
from lwgraph.optimizer import report_rows
from lwgraph.optimizer.annotations import make_lean, same_graph
from lwgraph.optimizer.candidates import Incumbent
from lwgraph.optimizer.cleaned import Cleaned
from lwgraph.optimizer.front import FrontRow, alternatives
from lwgraph.optimizer.improve import Searched
from lwgraph.optimizer.label_these import write_disagreements
from lwgraph.optimizer.layer_times import RUNS, STARTS, layer_times
from lwgraph.optimizer.result import Result
from lwgraph.optimizer.setting import Setting
from lwgraph.optimizer.steps import MEASURING
from lwgraph.optimizer.target import TARGETS
from lwgraph.optimizer.timing import PATIENCE, SECONDS, Timed, compare_untimed, facts_of, time_models
from lwgraph.plan.plan import Plan
from lwgraph.report import Layer, Report, ScoreRecord, Stage
from lwgraph.views.written import INT8, layers


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
    setting.told.steps.begin(MEASURING)
    models = {"input": setting.original}
    for model in (cleaned.model, incumbent.model):
        make_lean(model, setting.original, setting.bytes)
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
        exact = cleaned.exact and plan.empty and faithful(setting.executor)
        score = setting.finished(
            lambda: _score(setting, result, asked, exact=exact), "everything was done except judging"
        )
    if judge is not None and score is None and not plan.empty:  # nothing says that the result is as good as the input
        timed, result, plan = Timed(timed.stages[:1]), setting.original, Plan()
        score = judge.record(judge.base, judge.base, unchanged(setting.request.confidence))
    asked_for = {}
    with setting.failures.guard("samples to label"):
        asked_for = _label_these(setting, result)
    report = _report(setting, cleaned, timed, result, plan, score, incumbent, searched)
    report.details.update(asked_for)
    if timed.kept == "input" and not asked:
        report.notes.append(_nothing(setting))
    accuracy, limits = _on_accuracy(setting, score), on_limits(setting, report, plan, searched)
    report.verdict, why = worst(accuracy, limits)
    for row in report.details.get("front", []):  # of what was delivered, more is known than of the other plans
        row |= {"verdict": report.verdict, "why": why} if row["chosen"] else {}
    status = _status(setting, accuracy[0], limits[0])
    report.outcome = f"the promise is {report.verdict}: {why}" if status else "done"
    untouched = setting.source if result is setting.original else None
    return Result(result, report, plan, status == 0, untouched, status)


def _measured(setting: Setting, models: dict[str, ir.Model], plan: Plan, asked: bool) -> Timed:
    """The times of the models; without them where timing fails or there is no time for it."""
    request, clock, probe = setting.request, setting.clock, setting.inputs.probe
    if len(models) == 1 and clock.left <= 0:  # there is nothing to compare it with, and no time
        return _untimed(setting, models)
    with setting.told.stoppable("the speed of the result is not known"), setting.failures.guard("timing"):
        if request.target not in TARGETS:
            return compare_untimed(
                models, setting.executor, probe, request.target, plan.ms, stated=asked, on_disk=setting.bytes
            )
        left = SECONDS if clock.budget is None else max(0.5, clock.budget - clock.spent - 1.0)
        return time_models(
            models,
            setting.executor,
            probe,
            request.target,
            request.threads,
            setting.context.progress,
            stated=asked,
            on_disk=setting.bytes,
            seconds=min(SECONDS, left),
            patience=PATIENCE if clock.budget is None else min(PATIENCE, max(0.0, left - SECONDS)),
        )
    return _untimed(setting, models)


def _untimed(setting: Setting, models: dict[str, ir.Model]) -> Timed:
    """What is known of the input and the result without one more run of either."""
    sizes = {"input": setting.bytes}
    names = dict.fromkeys(["input", list(models)[-1]])
    return Timed(tuple(Stage(name, facts_of(models[name], on_disk=sizes.get(name))) for name in names))


def _score(setting: Setting, result: ir.Model, asked: bool, *, exact: bool) -> ScoreRecord | None:
    """What the last look says of the result; None where the budget is spent and only exact rewrites were made."""
    judge, last = setting.judge, setting.last
    if judge is None or last is None:
        return None
    same = (result is setting.original and faithful(setting.executor)) or exact
    late = setting.told.in_time(setting.clock, "the result was not judged; its outputs are those of the input")
    with late if same and not asked else nullcontext():
        score, verdict = last.verdict(result, same)
        beside = {} if same else last.beside(result)
        record = judge.record(last.base, score, verdict, beside)
        if judge.stated or not setting.request.limited:
            return record
        lost = f"loses {amount(verdict.estimate, judge.metric.unit)} by the best estimate; no limit was promised"
        return replace(record, max_drop=None, verdict="", text=lost)
    return None


def _label_these(setting: Setting, result: ir.Model) -> dict[str, Any]:
    """Write what `label_these` asks for; what the report says of it."""
    folder, last = setting.request.label_these, setting.last
    if folder is None or last is None or last.reader is None:
        return {}
    labels = write_disagreements(folder, setting.original, result, untimed(setting.executor), last.reader)
    if not labels.rows:
        setting.told.note(f"there is nothing to label: input and result agree on all {labels.samples:,} samples")
    else:
        setting.told.note(
            f"input and result disagree on {len(labels.rows)} of {labels.samples:,} samples, written to '{folder}': "
            f"fill in the column 'label' of {FILE}, then: lwgraph verify INPUT RESULT --labels {Path(folder) / FILE}"
        )
    return {"label_these": {"folder": str(folder), "samples": labels.samples, "disagree": len(labels.rows)}}


def _report(
    setting: Setting,
    cleaned: Cleaned,
    timed: Timed,
    result: ir.Model,
    plan: Plan,
    score: ScoreRecord | None,
    incumbent: Incumbent,
    searched: Searched | None,
) -> Report:
    """The report, of what the steps returned."""
    request, context = setting.request, setting.context
    name = "model" if setting.source is None else setting.source.name
    report = Report(source=name, target=request.target, threads=request.threads, seed=request.seed)
    report.recipe, report.unproven = cleaned.recipe, setting.inputs.unproven
    report.passes, report.stages = report_rows.pass_rows(cleaned.steps), list(timed.stages)
    report.checks = list(incumbent.checks)
    if score is not None:
        report.score = score
        report.stages[0].score, report.stages[-1].score = score.before, score.after
    report.notes = [*setting.inputs.notes, *setting.told.notes, *timed.notes]
    with setting.failures.guard("report: layers"):
        report.layers = layers_of(result, setting.executor)
    if request.pipeline is not None or request.recipe is not None:
        report.notes += report_rows.idle(report.passes, context.skipped)
    else:
        with setting.failures.guard("report: choices"):
            shapes = layer_shapes(cleaned.model, setting.inputs.probe[0], setting.executor)
            report.sites = report_rows.choices(cleaned.model, plan, context.skipped, shapes, result, report.layers)
    report.skipped = [{"pass": s.pass_name, "place": s.place, "reason": s.reason} for s in context.skipped]
    report.notes += context.warnings
    report.runs, report.seconds = list(setting.told.stages), dict(setting.told.seconds)
    report.pass_seconds = None if setting.data_pass is None else setting.data_pass.seconds
    report.details = dict(context.details or {})
    if searched is not None:
        candidates = searched.work.candidates
        report.details.update(incumbent.details if not plan.empty else {})
        report.details["front"] = [_front_row(row, report.stages[-1]) for row in searched.front]
        for part, made in (
            ("search", lambda: report_rows.searched(candidates, searched.work.search)),
            ("promise", lambda: alternatives(searched.front, candidates.judge)),
            ("progress", lambda: report_rows.moments(candidates)),
            ("layer_times", lambda: _layer_times(setting, cleaned.model, result, timed)),
        ):
            with setting.failures.guard(f"report: {part}"):
                report.details[part] = made()
    with setting.failures.guard("report: download"):
        report.details |= _download(setting, result)
    with setting.failures.guard("report: quantization"):
        report.details = report_rows.computed_in(report.details, report.layers)
    report.failures = [str(failure) for failure in setting.failures.rows]
    return report


def _download(setting: Setting, result: ir.Model) -> dict[str, Any]:
    """`details["download"]`, where bytes are asked for and there is time: what input and result take compressed."""
    request, clock = setting.request, setting.clock
    if request.objective != "bytes" and request.max_bytes is None:
        return {}
    if clock.budget is not None and clock.budget - clock.spent < 1.0 + (setting.bytes + ir.size(result)) / RATE:
        return {}
    found = download_bytes({"input": setting.original, "result": result})
    return {"download": found} if len(found) == 2 else {}


def _layer_times(setting: Setting, cleaned: ir.Model, result: ir.Model, timed: Timed) -> dict[str, Any]:
    """The times of the layers, where the budget leaves a second for them."""
    clock = setting.clock
    first, last = (stage.milliseconds or 0.0 for stage in (timed.stages[0], timed.stages[-1]))
    late = clock.budget is not None and clock.budget - clock.spent < RUNS * (first + last) / 1000 + STARTS
    taken = (0.0, 0.0) if late else (first, last)
    return layer_times(cleaned, result, setting.inputs.probe[0], setting.executor, taken)


def _front_row(row: FrontRow, result: Stage) -> dict[str, Any]:
    """A row of the front as plain data; the speed of the plan that was delivered is that of the result."""
    told = asdict(row) | {"chosen": row.chosen and result.name == "result"}  # it may have given way to the input since
    if told["chosen"] and result.ratio is not None and result.ratio_spread is not None:
        low, high = result.ratio_spread
        settled = not result.speed.startswith("not settled")
        told |= {"speed": 1 / result.ratio if settled else None, "interval": (1 / high, 1 / low), "said": result.speed}
    return told


def _nothing(setting: Setting) -> str:
    """That the result is the input, and what else could be asked for."""
    if setting.judge is None and setting.request.asked.approximate and not setting.inputs.holes:
        return (
            "nothing helped: exact rewrites make this model neither smaller nor faster; "
            "with --data, approximations can be tried, too"
        )
    return "nothing helped: lwgraph found nothing that makes the input smaller or faster"


def layers_of(result: ir.Model, executor: Executor) -> list[Layer]:
    """The layers of the result. Where it seems to compute in integers, the runtime says whether it does."""
    found = layers(result)
    ran = kernels(executor, result) if any(layer.precision == INT8 for layer in found) else None
    return layers(result, ran) if ran is not None else found


def _on_accuracy(setting: Setting, score: ScoreRecord | None) -> tuple[str, str]:
    """The verdict on the loss, and why; kept where none was promised."""
    judge = setting.judge
    if judge is None or score is None or not score.verdict:
        return KEPT, ""
    promise = f"--max-drop {judge.max_drop:g}" if judge.stated else "the default"
    return score.verdict, f"{promise}, {score.name}: {score.text}"


def on_limits(setting: Setting, report: Report, plan: Plan, searched: Searched | None) -> tuple[str, str]:
    """The verdict on the limits of speed and size, and why where they are not kept."""
    request, last = setting.request, report.stages[-1]
    if not request.limited:
        return KEPT, ""
    before, after = report.stages[0].milliseconds, last.milliseconds
    if request.target not in TARGETS:
        base = searched.work.candidates.base_ms if searched is not None else 0.0
        before, after = plan.ms if plan.ms != (0.0, 0.0) else (base, base)
    if measured := before is not None and after is not None:
        ratio = last.ratio if last.ratio is not None else after / max(before, 1e-12)
        ratios = last.ratio_spread or (ratio, ratio)
    else:  # sizes are known all the same
        before, ratios = 1.0, (0.0, math.inf)
    verdict, why = request.judge_limits(ratios, before, last.facts.bytes, last.facts.macs or 0)
    if verdict == OPEN and not measured:
        return OPEN, "the speed of the result was not measured"
    hint = "" if setting.judge is not None else "; --data leaves more room"
    return verdict, f"{why}; nothing nearer was found{hint}" if verdict == BROKEN else why


def _status(setting: Setting, accuracy: str, limits: str) -> int:
    """The exit code: a default promise that is not resolved is none that the user asked about."""
    stated = setting.judge is not None and setting.judge.stated
    counts = [KEPT if accuracy == OPEN and not stated else accuracy, limits]
    return EXIT[worst(*((verdict, "") for verdict in counts))[0]]


__all__ = ["deliver", "layers_of", "on_limits"]
