"""lwgraph inspect: shows what is in a model and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lwgraph.cli import sensitivity as sensitivities
from lwgraph.cli.common import (
    check_folder,
    console,
    data_option,
    output_options,
    preprocess_option,
    print_json,
    seed_option,
    table,
    threads_option,
)
from lwgraph.cli.show import show_facts

if TYPE_CHECKING:
    from lwgraph.plan.search.sensitivity import Sensitivity


@click.command()
@click.argument("model", metavar="MODEL")
@click.option("--groups", is_flag=True, help="Also show which channels can only be removed together.")
@click.option(
    "--sensitivity",
    is_flag=True,
    help="Also measure what removing channels (or blocks) does to the outputs; needs --data.",
)
@click.option(
    "-p", "--pass", "removal", help="The pass whose removals are measured.  [default: the one that removes channels]"
)
@click.option(
    "--ratios", default="0.25,0.5", show_default=True, help="Shares of each group to remove, one group at a time."
)
@click.option("--samples", type=click.IntRange(1), default=64, show_default=True, help="Most samples of --data to use.")
@data_option
@preprocess_option
@threads_option
@seed_option
@click.option("--report", metavar="DIR", help="Folder for report.html, with pictures, and report.json.")
@output_options
def command(
    model: str,
    groups: bool,
    sensitivity: bool,
    removal: str | None,
    ratios: str,
    samples: int,
    data: str | None,
    preprocess: str | None,
    threads: int,
    seed: int,
    report: str | None,
    as_json: bool,
) -> None:
    """Show MODEL: inputs and outputs, operators, size, and each dense layer with its share of the work.

    Sensitivities are kept in the cache folder: an interrupted measurement resumes where it stopped.
    """
    from lwgraph import ir
    from lwgraph.check import accept
    from lwgraph.errors import UsageError
    from lwgraph.report.record import Report
    from lwgraph.report.write import write
    from lwgraph.rewrite.pipeline import Pipeline
    from lwgraph.views import coupling, inspect

    check_folder(report)
    shares = sensitivities.parse_ratios(ratios)
    if sensitivity and data is None:
        raise UsageError("--sensitivity is measured on samples; give --data")
    loaded = ir.load(model)
    dropped = accept(loaded)
    shapes, why = inspect.sizes(loaded)
    notes = [f"sizes are those recorded in the file: {why}"] if why else []
    notes += [dropped] if dropped else []
    facts = {"model": model, **inspect.facts(loaded, shapes)}
    if groups or sensitivity or report:  # as a run and its plans see the model, after the passes that keep every bit
        Pipeline.parse("clean").rewrite(loaded)
    coupled = coupling.couple_channels(loaded) if groups or report else None
    if groups and coupled is not None:
        facts["groups"] = coupling.as_dicts(coupled)
    measured: list[Sensitivity] = []
    if sensitivity and data is not None:
        measured, more = sensitivities.measure(loaded, removal, shares, data, preprocess, samples, threads, seed)
        facts["sensitivity"] = [each.to_dict() for each in measured]
        notes += more
    page = None
    if report and coupled is not None:
        details = {"coupling": coupling.picture(coupled), "sensitivity": facts.get("sensitivity", [])}
        page = write(Report(model, "ort", threads, seed, details=details, notes=notes), report)
    if as_json:
        print_json(facts)
        return
    out = console()
    show_facts(out, facts)
    if groups and coupled is not None:
        out.print()
        out.print(
            "channels that can only be removed together: number, channels x parameters of each, makers -> readers"
        )
        for line in (*coupling.as_lines(coupled), *coupling.summary(coupled)):
            out.print(line, markup=False, highlight=False, soft_wrap=True)
    if measured:
        head = ["removed alone", "kept", "loss at the outputs", "predicted error", "multiply-adds left"]
        out.print()
        out.print(table("", head, sensitivities.as_rows(measured), 1))
    for line in notes:
        out.print(f"note: {line}", markup=False)
    if page is not None:
        out.print(f"report: {page}", markup=False)
