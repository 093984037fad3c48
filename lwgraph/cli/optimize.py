"""lwgraph optimize: the main job."""

from __future__ import annotations

from pathlib import Path

import click

from lwgraph.cli.common import (
    check_destination,
    console,
    data_option,
    json_option,
    parse_shapes,
    preprocess_option,
    print_json,
    seed_option,
    shape_option,
    side_console,
    threads_option,
)
from lwgraph.cli.progress import Progressed


@click.command()
@click.argument("model", metavar="MODEL")
@click.option("-o", "--output", metavar="OUT", help="Where the result goes.  [default: MODEL.lw.onnx beside the input]")
@data_option
@preprocess_option
@shape_option
@click.option("--eval-data", metavar="D", help="Data for judging only; never used for fitting. Same kinds as --data.")
@click.option(
    "--metric",
    metavar="M",
    help="top1 (labels), agreement, sqnr, cosine, psnr, or module:function.  "
    "[default: top1 with labels, agreement for classifiers, else sqnr]",
)
@click.option(
    "--max-drop", type=float, metavar="X", help="Largest loss allowed, in the metric's unit (0.01 = 1 point)."
)
@click.option("--speedup", type=float, metavar="X", help="Speed asked for, relative to the input (2 = half the time).")
@click.option("--max-latency", type=float, metavar="MS", help="Milliseconds of one run allowed on the target.")
@click.option("--max-bytes", metavar="N", help="Size of the model allowed: a number, or such as 600kB, 2MiB.")
@click.option("--max-macs", metavar="N", help="Multiply-accumulates of one run allowed: a number, or such as 1.5G.")
@click.option(
    "--preset",
    metavar="P",
    help="What to ask for where no other option does: fast, balanced, small or lossless.  [default: balanced]",
)
@click.option(
    "--objective",
    metavar="O",
    help="What is made little among plans that keep all promises: latency, bytes or macs.  [default: the preset's]",
)
@click.option(
    "--budget",
    metavar="T",
    help="Time for running trial plans, with --data, such as 90s, 10m or 1h.  [default: the preset's]  "
    "With --distill, time of training.  [default: 10m]",
)
@click.option(
    "--distill",
    is_flag=True,
    help="Train the chosen plan to imitate MODEL on the --data, which need no labels. Needs 'lwgraph[torch]'.",
)
@click.option(
    "--augment",
    metavar="A",
    help="How training may vary the data without making them something else: flip, turn, zoom, shift, tone, mixup, "
    "joined by commas.",
)
@click.option("-p", "--pipeline", metavar="PIPELINE", help="Run just these passes, e.g. 'clean,low-rank{ratio=0.5}'.")
@click.option("--recipe", metavar="FILE", help="A pipeline from a TOML file.")
@click.option(
    "--plan", metavar="FILE", help="Apply this plan (JSON, as written beside the report) instead of searching."
)
@click.option(
    "--target",
    metavar="T",
    default="ort-cpu",
    show_default=True,
    help="What the result must be fast on: ort-cpu, or a machine or table of prices (lwgraph measure).",
)
@threads_option
@seed_option
@click.option(
    "--workers",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Processes that try plans side by side; the plan found is the same with any number.",
)
@click.option("--dask", metavar="ADDRESS", help="A Dask cluster that does that: its scheduler's address or file.")
@click.option("--report", metavar="DIR", help="Write report.html, report.json and plan.json into this folder.")
@json_option
@click.option("--overwrite", is_flag=True, help="Allow replacing OUT, even the input itself.")
@click.option("--quiet", is_flag=True, help="No progress, and no table.")
@click.option("--explain", is_flag=True, help="Show each pass, each layer's choice, and each refusal with its reason.")
def command(
    model: str,
    output: str | None,
    data: str | None,
    preprocess: str | None,
    shapes: tuple[str, ...],
    eval_data: str | None,
    metric: str | None,
    max_drop: float | None,
    speedup: float | None,
    max_latency: float | None,
    max_bytes: str | None,
    max_macs: str | None,
    preset: str | None,
    objective: str | None,
    budget: str | None,
    distill: bool,
    augment: str | None,
    pipeline: str | None,
    recipe: str | None,
    plan: str | None,
    target: str,
    threads: int,
    seed: int,
    workers: int,
    dask: str | None,
    report: str | None,
    as_json: bool,
    overwrite: bool,
    quiet: bool,
    explain: bool,
) -> int:
    """Make MODEL smaller and faster, prove the result, and write it beside the input.

    Without --data, only approximations that keep the output within a tight tolerance on generated inputs are made.
    With --data, forms and 8-bit integers are mixed: plans are searched on a part of the data, and the fastest that
    keeps --max-drop on data that was never used before stands. --speedup, --max-latency, --max-bytes and --max-macs
    are searched for, too; without --max-drop the plan that loses least keeps them. A search that was stopped goes on
    where it was. Exit code 1 when a promise could not be kept; the nearest result is then written.
    """
    from lwgraph.optimizer import optimize

    source = Path(model)
    out = Path(output) if output else source.with_name(f"{source.stem}.lw.onnx")
    check_destination(out, overwrite)  # before the work, not after
    with Progressed(quiet or as_json) as progress:
        result = optimize(
            source,
            data=data,
            preprocess=preprocess,
            input_shapes=parse_shapes(shapes),
            eval_data=eval_data,
            metric=metric,
            max_drop=max_drop,
            speedup=speedup,
            max_latency=max_latency,
            max_bytes=max_bytes,
            max_macs=max_macs,
            preset=preset,
            objective=objective,
            budget=budget,
            distill=distill,
            augment=augment,
            pipeline=pipeline,
            recipe=recipe,
            plan=plan,
            target=target,
            threads=threads,
            seed=seed,
            workers=workers,
            dask=dask,
            progress=progress,
        )
        result.save(out, overwrite=overwrite)
    page = result.write_report(report) if report else None
    if as_json:
        print_json({"output": str(out), **result.report.to_dict()})
    elif not quiet:
        from lwgraph.cli.show import show_report

        show_report(console(), result.report, explain)
        console().print(f"\nwritten: {out}" + (f"\nreport:  {page}" if page else ""), markup=False)
    if not result.kept:
        side_console().print(f"lwgraph: {result.report.outcome}", markup=False)
        return 1
    return 0
