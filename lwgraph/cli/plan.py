"""lwgraph plan: show, compare and apply plans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lwgraph.cli.common import (
    check_destination,
    console,
    default_output,
    output_options,
    parse_shapes,
    print_json,
    table,
)
from lwgraph.cli.requests import request_options

if TYPE_CHECKING:
    from lwgraph.plan.plan import Plan


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def command() -> None:
    """Show, compare and apply plans.

    A plan (plan.json, beside the report of `lwgraph optimize --report`) says what stands at each layer. It may be
    edited by hand; lwgraph/schemas/plan.schema.json is its schema, and docs/planner.md explains it.
    """


@command.command(short_help="Show what a plan says.")
@click.argument("plan", metavar="PLAN")
@click.argument("model", metavar="[MODEL]", required=False)
@output_options
def show(plan: str, model: str | None, as_json: bool) -> None:
    """Show what PLAN says; with MODEL, also show the shape of each layer and check that MODEL has all the names.

    Exit code 1 if the plan names something that MODEL does not have.
    """
    from lwgraph.plan.difference import words
    from lwgraph.plan.plan import Plan

    loaded = Plan.load(plan)
    shapes = {} if model is None else _shapes(model, loaded)
    entries: list[dict[str, Any]] = []

    def add(kind: str, name: str, choice: str, error: float = 0.0, ms: tuple[float, float] = (0.0, 0.0)) -> None:
        shape = shapes.get(name, "")
        entries.append({"kind": kind, "name": name, "shape": shape, "choice": choice, "error": error, "ms": list(ms)})

    for kind, choices in (("block", loaded.blocks), ("group", loaded.groups), ("site", loaded.sites)):
        for name, choice in choices.items():
            add(kind, name, words(choice), choice.error, choice.ms)
    if loaded.precision.passes:
        add("network", "", words(loaded.precision), loaded.precision.error, loaded.precision.ms)
    for name in loaded.precision.keep_float:
        add("float", name, "kept in float")
    for name in loaded.precision.dynamic:
        add("dynamic", name, "its grid taken as the model runs")
    if as_json:
        print_json({"target": loaded.target, "saved_ms": round(loaded.saved_ms, 6), "choices": entries})
        return
    out = console()
    rows = [[e["kind"], e["name"], e["shape"], e["choice"], *_predicted(e["error"], e["ms"])] for e in entries]
    columns = ["kind", "name", "shape", "choice", "error", "ms before", "ms after"]
    if model is None:
        columns.remove("shape")
        rows = [row[:2] + row[3:] for row in rows]
    if rows:
        out.print(table("", columns, rows, numbers_from=len(columns) - 3))
    else:
        out.print("the plan changes nothing")
    where = f" on {loaded.target}" if loaded.target else ""
    out.print(f"\npredicted to save {loaded.saved_ms:.3f} ms{where}", markup=False)
    if loaded.ms != (0.0, 0.0):
        before, after = loaded.ms
        out.print(f"whole network: {before:.3f} ms before, {after:.3f} ms after (predicted)", markup=False)


def _predicted(error: float, ms: Sequence[float]) -> list[str]:
    times = [f"{each:.4g}" for each in ms] if any(ms) else ["", ""]
    return [f"{100 * error:.3g} %" if error else "", *times]


def _shapes(path: str, plan: Plan) -> dict[str, str]:
    """Shapes of the sites and widths of the groups; ModelError when the plan names what is not there."""
    from lwgraph import ir
    from lwgraph.errors import ModelError, did_you_mean
    from lwgraph.layers.site import find_sites
    from lwgraph.rewrite import Context, Pipeline
    from lwgraph.views.coupling import couple_channels

    model = ir.load(path)
    Pipeline.parse("default").rewrite(model, Context())  # a plan speaks of the cleaned model
    sites = {site.name: "x".join(map(str, site.shape)) for site in find_sites(model)}
    groups = {group.name: str(group.width) for group in couple_channels(model).groups} if plan.groups else {}
    for kind, wanted, known in (("site", plan.sites, sites), ("group", plan.groups, groups)):
        for name in wanted:
            if name not in known:
                near = did_you_mean(name, known)
                raise ModelError(f"the plan names {kind} '{name}', which '{path}' does not have{near}")
    return {**groups, **sites}


@command.command(short_help="Show where two plans differ.")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@output_options
def diff(a: str, b: str, as_json: bool) -> int:
    """Show where the choices of plan B differ from those of plan A, ignoring predictions. Exit code 1 if they do."""
    from dataclasses import asdict

    from lwgraph.plan.difference import differences
    from lwgraph.plan.plan import Plan

    first, second = Plan.load(a), Plan.load(b)
    changes = differences(first, second)
    if as_json:
        print_json({"changes": [asdict(change) for change in changes]})
    elif not changes:
        console().print("the plans make the same choices")
    else:
        rows = [[c.kind, c.name, c.before, c.after, f"{c.ms:+.3f}"] for c in changes]
        console().print(table("", ["kind", "name", "A", "B", "ms saved more"], rows, numbers_from=4))
    return 1 if changes else 0


@command.command(short_help="Apply a plan to a model.")
@click.argument("plan", metavar="PLAN")
@click.argument("model", metavar="MODEL")
@click.option("-o", "--output", metavar="OUT", help="File to write.  [default: MODEL.lw.onnx beside the input]")
@request_options(
    "data",
    "preprocess",
    "input_shapes",
    "eval_data",
    "metric",
    "output_kind",
    "max_drop",
    "memory",
    "threads",
    "seed",
    "strict",
)
@click.option("--report", metavar="DIR", help="Folder for report.html, report.json and plan.json.")
@output_options
@click.option("--overwrite", is_flag=True, help="Allow OUT to be replaced, even if it is the input.")
@click.pass_context
def apply(ctx: click.Context, /, plan: str, model: str, output: str | None, overwrite: bool, **options: Any) -> int:
    """Apply PLAN to MODEL, prove the result, and write it beside the input.

    MODEL need not be the model that the plan was made for, only of the same architecture: everything is fitted anew to
    its weights and to --data. Without --data, forms are fitted to the weights alone.
    """
    from lwgraph.cli.optimize import command as optimize
    from lwgraph.plan.plan import Plan

    Plan.load(plan)  # a wrong plan is told before anything else
    out = Path(output) if output else default_output(model)
    check_destination(out, overwrite)
    status: int = ctx.invoke(optimize, model=model, plan=plan, output=str(out), overwrite=overwrite, **options)
    return status


@command.command(short_help="Write another plan of the last run's table.")
@click.argument("number", metavar="N", type=int)
@click.argument("model", metavar="MODEL")
@click.option("-o", "--output", metavar="OUT", help="File to write.  [default: MODEL.lw.onnx beside the input]")
@request_options("input_shapes", "threads", "seed")
@click.option("--overwrite", is_flag=True, help="Allow OUT to be replaced, even if it is the input.")
@output_options
def pick(
    number: int,
    model: str,
    output: str | None,
    input_shapes: tuple[str, ...],
    threads: int,
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write plan N of the table that the last `lwgraph optimize MODEL --data ...` printed.

    Its model was kept when that run judged it, so this takes seconds; what can be checked of it is checked anew.
    """
    from lwgraph import ir, registry
    from lwgraph.calibrate import generate
    from lwgraph.optimizer import front

    out = Path(output) if output else default_output(model)
    check_destination(out, overwrite)
    source = ir.load(model)
    executor, reference = registry.executor("ort", threads=threads), registry.executor("reference")
    feeds = list(generate(source, 1, seed, shapes=parse_shapes(input_shapes), executor=executor))
    row, made = front.pick(source, number, executor, reference, feeds)
    ir.save(made, out, overwrite=overwrite)
    if as_json:
        facts = {"drop": row.drop, "speed": row.speed, "bytes": row.bytes, "verdict": row.verdict, "why": row.why}
        print_json({"plan": number, "output": str(out), **facts})
        return
    speed = f"; its speed when it was timed: {row.said}" if row.said else ""
    why = f" ({row.why})" if row.why else ""
    console().print(
        f"plan {number}: estimated loss {row.drop:.4g}{speed}\npromise {row.verdict}{why}\nwritten: {out}", markup=False
    )


__all__ = ["command"]
