"""A model, and the result of an optimization, as a person reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from lwgraph.cli.common import table
from lwgraph.report import Report, ScoreRecord
from lwgraph.report.sections.runtimes import HEAD, cells
from lwgraph.report.words import codes, count, download, forms, loss, percent, precisions, several, short, size, speed

UNPROVEN = "unproven: "
WITHIN = {"rounding": ", to rounding", "approximate": ", within the tolerance of approximations"}  # by contract


def show_facts(out: Console, facts: Mapping[str, Any]) -> None:
    """Print what `lwgraph.views.inspect.facts` says of facts["model"]."""
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in facts["opsets"].items())
    out.print(f"{facts['model']}: IR {facts['ir_version']}, opset {opsets}", markup=False)
    for kind in ("inputs", "outputs"):
        for name, text in facts[kind].items():
            out.print(f"{kind[:-1]:7} {name}: {text}", markup=False)
    out.print(
        f"{count(facts['nodes'])} nodes, {count(facts['parameters'])} parameters, {size(facts['bytes'])}, "
        f"{count(facts['macs'])} multiply-adds for one input"
    )
    out.print("operators: " + ", ".join(f"{name} {n}" for name, n in facts["operators"].items()), markup=False)
    layers = facts["layers"]
    if not layers:
        return
    total = sum(layer["macs"] for layer in layers) or 1
    rows = [
        [
            layer["name"],
            layer["operator"],
            "x".join(map(str, layer["shape"])) + (f" /{layer['group']}" if layer["group"] > 1 else ""),
            short(layer["parameters"]),
            short(layer["macs"]),
            percent(layer["macs"] / total),
        ]
        for layer in layers
    ]
    out.print()
    out.print(table("", ["dense layer", "operator", "weight", "parameters", "multiply-adds", "share"], rows, 3))


def show_report(out: Console, report: Report, explain: bool = False, explain_time: bool = False) -> None:
    """Print the table before and after, the score, what was proved, and the notes.

    With `explain` also each choice, with `explain_time` what each step took.

    Where the result is unproven, every line says so.
    """
    if not report.unproven:
        _show_report(out, report, explain, explain_time)
        return
    with out.capture() as lines:
        _show_report(out, report, explain, explain_time)
    for line in lines.get().splitlines():
        out.print(Text.assemble(UNPROVEN, Text.from_ansi(line)), soft_wrap=True)


def _show_runtimes(out: Console, found: Mapping[str, Any]) -> None:
    """Print each model on each target, and the code that runs the best."""
    out.print(table("", list(HEAD), [cells(row) for row in found["rows"]], 2))
    out.print(f"\nrun the result in {found['target']} like this:", markup=False)
    out.print(found["code"] + "\n", markup=False, soft_wrap=True)


def _show_report(out: Console, report: Report, explain: bool, explain_time: bool) -> None:
    if found := report.details.get("runtimes"):
        _show_runtimes(out, found)
    rows = []
    for stage in report.stages:
        spread = ""
        if stage.ratio is not None and stage.ratio_spread is not None and stage is not report.stages[0]:
            spread = f"{1 / stage.ratio_spread[1]:.2f}..{1 / stage.ratio_spread[0]:.2f}"
        rows.append(
            [
                stage.name,
                short(stage.facts.parameters),
                size(stage.facts.bytes),
                short(stage.facts.macs),
                "" if stage.milliseconds is None else f"{stage.milliseconds:.4g}",
                stage.speed.partition(" (")[0],
                spread,
                "" if stage.score is None else f"{stage.score:.4f}",
            ]
        )
    name = report.score.name if report.score else "score"
    # Of 80 columns: how many nodes there are is in the report, and `lwgraph inspect` tells.
    columns = ["model", "weights", "size", "MACs", "ms", "speed", "95 %", name]
    if not report.score:
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    out.print(table("", columns, rows))
    if told := download(report.details):
        out.print(told, markup=False)
    out.print()
    for stage in report.stages:
        if stage.speed.startswith("not settled"):
            out.print(f"The speed of the {stage.name} is {stage.speed}.")
    removed = Counter(site.operator for site in report.sites)
    if removed["channels"]:
        out.print(f"Channels were removed from {several(removed['channels'], 'layer')}.")
    if removed["block"]:
        out.print(f"{several(removed['block'], 'residual block')} removed.")
    for line in (precisions(report.layers), codes(report.layers), forms(report.sites)):
        if line:
            out.print(line)
    for check in report.checks:
        mark = Text("verified", "green") if check.ok else Text("failed", "red")
        out.print(Text.assemble(mark, f": {check.what}{WITHIN.get(check.contract, '')} ({check.executor})"))
    if report.score is not None and report.score.max_drop is not None:
        colour = {"kept": "green", "broken": "red"}.get(report.score.verdict, "yellow")
        words = f": {report.score.name}: {report.score.text}"
        out.print(Text.assemble("promise ", Text(report.score.verdict, colour), words))
    elif report.score is not None:
        out.print(f"{report.score.name}: {report.score.text}", markup=False)
    if report.score is not None:
        _judged(out, report.score)
    _front(out, report)
    for note in report.notes:
        out.print(f"note: {note}", markup=False)
    for failure in report.failures:
        out.print(f"left out: {failure}", markup=False, soft_wrap=True)
    if explain:
        _explain(out, report)
    if explain_time:
        _explain_time(out, report)


def _explain_time(out: Console, report: Report) -> None:
    """What each step took; of the stages also in passes over the data, beside what was predicted of them."""
    unit = report.pass_seconds
    steps = [(name, spent) for name, spent in report.seconds.items() if not (report.runs and name == "planning")]
    before = [[name, "", "", f"{spent:.1f}"] for name, spent in steps if name in ("reading", "rewriting")]
    after = [[name, "", "", f"{spent:.1f}"] for name, spent in steps if name not in ("reading", "rewriting")]
    for row in (*before, *after):
        row[2] = "" if unit is None else f"{float(row[3]) / unit:.1f}"
    stages = [
        [
            run.name,
            "" if run.predicted is None else f"{run.predicted:.1f}",
            "" if run.passes is None else f"{run.passes:.1f}",
            f"{run.seconds:.1f}",
        ]
        for run in report.runs
    ]
    out.print()
    out.print(table("Time", ["step", "passes predicted", "passes", "seconds"], [*before, *stages, *after]))
    if unit is not None:
        out.print(f"One pass over the data, the float network on all inputs, took {unit:.3g} s at the start.")


def _front(out: Console, report: Report) -> None:
    """The plans that can be picked, and what the promise costs."""
    plans = report.details.get("front", [])
    if not plans:
        return
    title = "Plans (lwgraph plan pick N MODEL)" if len(plans) > 1 else "The plan that was found"
    unit = report.score.unit if report.score else ""
    rows = [
        [
            str(plan["number"]),
            loss(plan["drop"], unit),
            plan["said"].partition(" (")[0],
            size(plan["bytes"]),
            plan["verdict"] + ", delivered" * plan["chosen"],
        ]
        for plan in plans
    ]
    out.print()
    out.print(table(title, ["plan", "estimated loss", "speed", "size", "promise"], rows, 0))
    for line in report.details.get("promise", []):
        out.print(f"  {line}", markup=False)
    out.print()


def _judged(out: Console, score: ScoreRecord) -> None:
    """What was judged, and what else was measured."""
    words = {"correlation": "correlation with the input model's outputs", "neighbours": "nearest neighbours that stay"}
    beside = [f"{words.get(name, name)} {value:.4f}" for name, value in score.beside.items()]
    line = "; ".join([*([score.judged] if score.judged else []), *beside])
    if line:
        out.print(line, markup=False)


def _explain(out: Console, report: Report) -> None:
    out.print()
    acted = [p for p in report.passes if p.rewrites]
    rows = [[p.name, p.contract, count(p.rewrites), f"{p.seconds:.3f}"] for p in acted]
    if rows:
        out.print(table("Passes", ["pass", "contract", "rewrites", "seconds"], rows, numbers_from=2))
    if len(acted) < len(report.passes):
        out.print(f"{len(report.passes) - len(acted)} of {several(len(report.passes), 'pass', 'es')} changed nothing.")
    if report.runs:
        rows = [[s.name, count(s.candidates), f"{s.seconds:.1f}", s.outcome] for s in report.runs]
        out.print()
        out.print(table("Stages", ["stage", "plans looked at", "seconds", "outcome"], rows))
    if report.sites:
        rows = [
            [
                s.name,
                s.operator,
                s.shape,
                s.form or "dense",
                s.precision,
                "" if s.predicted_error is None else f"{100 * s.predicted_error:.3g} %",
                "" if not s.dense_ms or not s.form_ms else speed(s.form_ms / s.dense_ms),
                s.reason,
            ]
            for s in report.sites
        ]
        out.print()
        columns = ["layer", "operator", "shape", "form", "computes in", "error", "speed alone", "reason"]
        out.print(table("Layers", columns, rows, numbers_from=9))
    if report.skipped:
        out.print()
        rows = [[s["pass"], s["place"], s["reason"]] for s in report.skipped]
        out.print(table("Left alone", ["pass", "place", "reason"], rows, numbers_from=9))
