"""lwgraph optimize: the main job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lwgraph.cli.common import (
    check_apart,
    check_destination,
    check_folder,
    console,
    default_output,
    output_options,
    parse_shapes,
    print_json,
    side_console,
)
from lwgraph.cli.groups import GroupedCommand
from lwgraph.cli.progress import Progressed
from lwgraph.cli.requests import request_options
from lwgraph.errors import LwgraphError, UsageError

if TYPE_CHECKING:
    from lwgraph.optimizer import Result


@click.command(cls=GroupedCommand)
@click.argument("model", metavar="MODEL")
@click.option("-o", "--output", metavar="OUT", help="Where the result goes.  [default: MODEL.lw.onnx beside the input]")
@request_options()
@click.option("--report", metavar="DIR", help="Write report.html, report.json and plan.json into this folder.")
@click.option(
    "--family",
    metavar="N|LATENCIES",
    help="Also write several models along the front into the folder OUT.family: so many, or the best within each of "
    "some latencies (2ms,5ms). Common weights are stored once.",
)
@output_options
@click.option("--overwrite", is_flag=True, help="Allow replacing OUT, even the input itself.")
@click.option("--explain", is_flag=True, help="Show each pass, each layer's choice, and each refusal with its reason.")
@click.option("--explain-time", is_flag=True, help="Show what each stage took, and was predicted to take.")
def command(
    model: str,
    output: str | None,
    report: str | None,
    family: str | None,
    as_json: bool,
    overwrite: bool,
    explain: bool,
    explain_time: bool,
    **asked: Any,
) -> int:
    """Make MODEL smaller and faster, prove the result, and write it beside the input.

    Without --data, only exact and rounding rewrites are done; one line tells what data would buy. --unproven tries the
    rest on generated inputs: what that loses on real ones is not known, and every line of the output says so. What is
    fitted to generated inputs is judged by --eval-data or --metric module:function where one of these is given. With
    --data, forms and 8-bit integers are mixed: plans are searched on a part of the data, and the fastest that keeps
    --max-drop on data that was never used before stands. --speedup, --max-latency, --max-bytes and --max-macs are
    searched for, too; without --max-drop the plan that loses least keeps them. A good result is there from the first
    seconds on: Ctrl-C (or the end of --budget) delivers it, a second Ctrl-C leaves at once. Exit code 1 when a promise
    could not be kept; the nearest result is then written. Exit code 3 when the samples are too few to tell whether
    --max-drop holds.
    """
    from lwgraph import ir
    from lwgraph.family import parse_members, write_family
    from lwgraph.optimizer import Request, optimize_as
    from lwgraph.optimizer.front import numbers

    source = Path(model)
    names = ("data", "eval_data", "recipe", "plan", "label_these", "pipeline")
    for option, value in (
        ("-o", output),
        ("--report", report),
        *((f"--{name.replace('_', '-')}", asked.get(name)) for name in names),
    ):
        if value is not None and not value.strip():  # such as a variable of a script that is not set
            raise UsageError(f"{option} is '{value}'; give a name, or leave it out")
    out = Path(output) if output is not None else default_output(model)
    check_destination(out, overwrite)  # before the work, not after
    check_folder(report)
    together, members = out.with_name(f"{out.stem}.family"), None if family is None else parse_members(family)
    check_apart(
        {
            "-o": out,
            "--family": None if members is None else together,
            "--report": report,
            "--label-these": asked.get("label_these"),
        }
    )
    if members is not None and together.exists():
        raise UsageError(f"'{together}' exists; --family writes a new folder of this name")
    asked["input_shapes"] = parse_shapes(asked["input_shapes"])
    request = Request(**asked)
    judged = request.data is not None or request.eval_data is not None or request.own_metric or request.unproven
    searched = judged and request.searches
    if members is not None and not searched:
        numbers(ir.load(model))  # of a front that an earlier run has kept
    with Progressed() as progress:
        result = optimize_as(source, request, progress)
        result.save(out, overwrite=overwrite)
    if runtimes := result.report.details.get("runtimes"):  # the code that runs it names the file from now on
        runtimes["code"] = runtimes["code"].replace(json.dumps("MODEL"), json.dumps(str(out)))
    page = result.write_report(report) if report else None
    written, failed = None, ""
    if members is not None:
        try:
            if searched and not result.report.details.get("front"):
                raise UsageError("the run found no front of plans to choose from; give it more time (--budget)")
            written = write_family(source, together, members, threads=int(asked["threads"]))
        except LwgraphError as error:  # the result is there all the same
            failed = f"no family was written: {error}"
    mark = " (unproven)" * result.report.unproven
    if as_json:
        folder = {} if members is None else {"family": None if written is None else str(together)}
        print_json({**result_document(result, out), **folder, "exit": result.status or int(bool(failed))})
    else:
        from lwgraph.cli.show import show_report

        show_report(console(), result.report, explain, explain_time)
        console().print(f"\nwritten{mark}: {out}" + (f"\nreport{mark}:  {page}" if page else ""), markup=False)
        for member in written.members if written is not None else ():
            console().print(
                f"family:  {together / member.file}, {member.milliseconds:.3g} ms, estimated loss {member.drop:.4g}, "
                f"{member.verdict}",
                markup=False,
            )
    if not result.kept:
        side_console().print(f"lwgraph{mark}: {result.report.outcome}", markup=False, soft_wrap=True)
    if failed:
        side_console().print(f"lwgraph{mark}: {failed}", markup=False, soft_wrap=True)
    status: int = result.status or int(bool(failed))
    return status


def result_document(result: Result, out: Path) -> dict[str, Any]:
    """What --json prints of a run: the report, with the verdict on its promises and the exit code."""
    said = {"output": str(out), "verdict": result.verdict, "exit": result.status}
    return {**said, **result.report.to_dict()}
