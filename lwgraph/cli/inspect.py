"""lwgraph inspect: what is in a model and what it costs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from lwgraph.cli import sensitivity as sensitivities
from lwgraph.cli.common import (
    console,
    data_option,
    json_option,
    preprocess_option,
    print_json,
    seed_option,
    table,
    threads_option,
)

if TYPE_CHECKING:
    from lwgraph.plan.search.sensitivity import Sensitivity


@click.command()
@click.argument("model", metavar="MODEL")
@click.option("--groups", is_flag=True, help="Also show which channels can only be removed together.")
@click.option(
    "--sensitivity", is_flag=True, help="Also measure what removing channels (or blocks) does to the outputs; --data."
)
@click.option(
    "-p", "--pass", "removal", help="The pass whose removals are measured.  [default: the one that removes channels]"
)
@click.option(
    "--ratios", default="0.25,0.5", show_default=True, help="Shares to remove, of each group alone, to measure at."
)
@click.option(
    "--samples", type=click.IntRange(1), default=64, show_default=True, help="Samples of --data to use at most."
)
@data_option
@preprocess_option
@threads_option
@seed_option
@click.option("--report", metavar="DIR", help="Also write report.json and report.html, with pictures, there.")
@json_option
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

    Sensitivities are kept in the cache folder: a measurement that was stopped goes on where it was.
    """
    from lwgraph import ir, registry
    from lwgraph.calibrate import generate
    from lwgraph.calibrate.layer_shapes import layer_shapes
    from lwgraph.check import verify
    from lwgraph.errors import LwgraphError, UsageError
    from lwgraph.layers.site import find_sites
    from lwgraph.measure.work import count
    from lwgraph.report.words import count as number
    from lwgraph.report.words import percent, size
    from lwgraph.text import type_text
    from lwgraph.views import coupling

    shares = sensitivities.parse_ratios(ratios)
    if sensitivity and data is None:
        raise UsageError("--sensitivity is measured on samples; give --data")
    loaded = ir.load(model)
    verify(loaded)
    shapes: dict[str, tuple[int, ...]] = {}
    note = ""
    try:
        executor = registry.executor("ort")
        shapes = layer_shapes(loaded, generate(loaded, 1, executor=executor)[0], executor)
    except LwgraphError as error:  # a model that cannot run can still be looked at
        note = str(error)
    counts = count(loaded, shapes)
    sites = find_sites(loaded, shapes)
    operators = Counter(node.op_type for scope in ir.scopes(loaded) for node in scope)
    layers: list[dict[str, Any]] = [
        {
            "name": site.name,
            "operator": site.node.op_type,
            "shape": list(site.shape),
            "group": site.group,
            "macs": site.macs(),
            "parameters": int(site.weight.size),
        }
        for site in sites
    ]
    facts: dict[str, Any] = {
        "model": model,
        "ir_version": loaded.ir_version,
        "opsets": dict(loaded.opset_imports),
        "producer": loaded.producer_name or "",
        "inputs": {str(v.name): type_text(v) for v in loaded.graph.inputs},
        "outputs": {str(v.name): type_text(v) for v in loaded.graph.outputs},
        "nodes": counts.nodes,
        "parameters": counts.parameters,
        "bytes": ir.size(loaded),
        "macs": counts.macs,
        "operators": dict(operators.most_common()),
        "layers": layers,
        "metadata": dict(loaded.metadata_props),
    }
    coupled = coupling.couple_channels(loaded) if groups or report else None
    if groups and coupled is not None:
        facts["groups"] = coupling.as_dicts(coupled)
    measured: list[Sensitivity] = []
    notes = [f"sizes are those recorded in the file: {note}"] if note else []
    if sensitivity and data is not None:
        measured, more = sensitivities.measure(loaded, removal, shares, data, preprocess, samples, threads, seed)
        facts["sensitivity"] = [each.to_dict() for each in measured]
        notes += more
    page = None
    if report and coupled is not None:
        from lwgraph.report.record import Report
        from lwgraph.report.write import write

        details = {"coupling": coupling.picture(coupled), "sensitivity": facts.get("sensitivity", [])}
        page = write(Report(model, "ort", threads, seed, details=details, notes=notes), report)
    if as_json:
        print_json(facts)
        return
    out = console()
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in loaded.opset_imports.items())
    out.print(f"{model}: IR {loaded.ir_version}, opset {opsets}", markup=False)
    for kind in ("inputs", "outputs"):
        for name, text in facts[kind].items():
            out.print(f"{kind[:-1]:7} {name}: {text}", markup=False)
    out.print(
        f"{number(counts.nodes)} nodes, {number(counts.parameters)} parameters, {size(facts['bytes'])}, "
        f"{number(counts.macs)} multiply-adds for one input"
    )
    out.print("operators: " + ", ".join(f"{name} {n}" for name, n in operators.most_common()), markup=False)
    if layers:
        total = sum(layer["macs"] for layer in layers) or 1
        rows = [
            [
                layer["name"],
                layer["operator"],
                "x".join(map(str, layer["shape"])) + (f" /{layer['group']}" if layer["group"] > 1 else ""),
                number(layer["parameters"]),
                number(layer["macs"]),
                percent(layer["macs"] / total),
            ]
            for layer in layers
        ]
        out.print()
        out.print(table("", ["dense layer", "operator", "weight", "parameters", "multiply-adds", "share"], rows, 3))
    if groups and coupled is not None:
        out.print()
        out.print("channels that live or die together: number, channels x parameters of each, makers -> readers")
        for line in coupling.as_lines(coupled):
            out.print(line, markup=False, highlight=False, soft_wrap=True)
    if measured:
        head = ["removed alone", "kept", "loss at the outputs", "predicted error", "multiply-adds left"]
        out.print()
        out.print(table("", head, sensitivities.as_rows(measured), 1))
    for line in notes:
        out.print(f"note: {line}", markup=False)
    if page is not None:
        out.print(f"report: {page}", markup=False)
