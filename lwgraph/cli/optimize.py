"""lwgraph optimize: makes a model smaller and faster, and proves it."""

from __future__ import annotations

from pathlib import Path

import click

from lwgraph.cli.common import (
    check_destination,
    check_report_folder,
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
@click.option("-o", "--output", metavar="OUT", help="File to write.  [default: MODEL.lw.onnx beside the input]")
@data_option
@preprocess_option
@shape_option
@click.option("--eval-data", metavar="D", help="Data for judging only, never for fitting; same kinds as --data.")
@click.option(
    "--metric",
    metavar="M",
    help="top1 (needs labels), agreement, sqnr, cosine, psnr, or module:function.  "
    "[default: top1 with labels, agreement for classifiers, else sqnr]",
)
@click.option(
    "--max-drop", type=float, metavar="X", help="Largest loss allowed, in the unit of the metric (0.01 = 1 point)."
)
@click.option("--speedup", type=float, metavar="X", help="Speed-up required over the input (2 = half the time).")
@click.option(
    "--max-latency", type=float, metavar="MS", help="Longest time allowed for one run on the target, in milliseconds."
)
@click.option("--max-bytes", metavar="N", help="Largest file allowed: a number of bytes, or e.g. 600kB, 2MiB.")
@click.option("--max-macs", metavar="N", help="Most multiply-accumulates allowed for one run: a number, or e.g. 1.5G.")
@click.option(
    "--preset",
    metavar="P",
    help="Defaults for the options not given: fast, balanced, small or lossless.  [default: balanced]",
)
@click.option(
    "--objective",
    metavar="O",
    help="What to minimize among the plans that keep all promises: latency, bytes or macs.  [default: the preset's]",
)
@click.option(
    "--budget",
    metavar="T",
    help="Time for running trial plans (needs --data), e.g. 90s, 10m or 1h.  [default: the preset's]  "
    "With --distill, time for training.  [default: 10m]",
)
@click.option(
    "--distill",
    is_flag=True,
    help="Train the chosen plan to imitate MODEL on --data; labels are not needed. Requires 'lwgraph[torch]'.",
)
@click.option(
    "--augment",
    metavar="A",
    help="Augmentations that keep the meaning of the data, for training: flip, turn, zoom, shift, tone, mixup; "
    "comma-separated.",
)
@click.option("-p", "--pipeline", metavar="PIPELINE", help="Run only these passes, e.g. 'clean,low-rank{ratio=0.5}'.")
@click.option("--recipe", metavar="FILE", help="Run the passes of this TOML file.")
@click.option("--plan", metavar="FILE", help="Apply this plan (JSON, written beside the report) instead of searching.")
@click.option(
    "--target",
    metavar="T",
    default="ort-cpu",
    show_default=True,
    help="What the result must be fast on: ort-cpu, macs, or a machine or price table (see lwgraph measure).",
)
@threads_option
@seed_option
@click.option(
    "--workers",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Processes that try plans in parallel; the plan found does not depend on their number.",
)
@click.option(
    "--dask", metavar="ADDRESS", help="Dask cluster to use instead of --workers: address or file of its scheduler."
)
@click.option("--report", metavar="DIR", help="Folder for report.html, report.json and plan.json.")
@json_option
@click.option("--overwrite", is_flag=True, help="Allow OUT to be replaced, even if it is the input.")
@click.option("--quiet", is_flag=True, help="Print neither progress nor tables.")
@click.option(
    "--explain",
    is_flag=True,
    help="Show each pass that changed something, the choice at each layer, and the reason for each refusal.",
)
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

    Without --data, only approximations that keep the outputs within a tight tolerance on generated inputs are made.
    With --data, forms and 8-bit integers are mixed: plans are searched on one part of the data, and the fastest that
    keeps --max-drop on the rest is chosen. --speedup, --max-latency, --max-bytes and --max-macs constrain the search,
    too; without --max-drop, the plan that meets them with the least loss is chosen. An interrupted search resumes
    where it stopped. Exit code 1 if a promise cannot be kept; the nearest result is then written.
    """
    from lwgraph.optimizer import optimize

    source = Path(model)
    out = Path(output) if output else source.with_name(f"{source.stem}.lw.onnx")
    check_destination(out, overwrite)  # before the work, not after
    check_report_folder(report)
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
