"""lwgraph measure: measures the prices of layers, on this machine or on another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lwgraph.cli.common import console, output_options, parse_shapes, print_json, shape_option, table, threads_option
from lwgraph.cli.progress import Progressed

if TYPE_CHECKING:
    from lwgraph.plan.price.oracle import Oracle


@click.command()
@click.argument("model", metavar="[MODEL]", required=False)
@click.option(
    "--export", "folder", metavar="DIR", help="Write a kit that measures the layers of MODEL on another machine."
)
@click.option("--import", "table_file", metavar="TABLE", help="Import the table that a kit's measure.py wrote.")
@shape_option
@threads_option
@output_options
def command(
    model: str | None,
    folder: str | None,
    table_file: str | None,
    shapes: tuple[str, ...],
    threads: int,
    as_json: bool,
) -> None:
    """Measure how long the layers of MODEL take, in every form, so that a later `lwgraph optimize` need not.

    \b
    lwgraph measure MODEL                   measure on this machine, which should be idle
    lwgraph measure MODEL --export kit/     then, on the other machine: python kit/measure.py --name pi5
    lwgraph measure --import table.json     import what was measured there
    lwgraph optimize MODEL --target pi5     plan for it
    lwgraph measure                         list the machines whose prices are known
    """
    from lwgraph.errors import UsageError

    if table_file is not None:
        if model is not None or folder is not None:
            raise UsageError("--import reads a table; give it without MODEL and --export")
        _bring_in(table_file, as_json)
    elif model is None:
        if folder is not None:
            raise UsageError("--export needs MODEL, whose layers are to be measured")
        _list(as_json)
    elif folder is not None:
        _export(model, Path(folder), shapes, threads, as_json)
    else:
        _measure(model, shapes, threads, as_json)


def _ask(model: str, oracle: Oracle, shapes: tuple[str, ...]) -> int:
    """Clean the model as optimize does, and ask for the price of every form that its search considers."""
    from lwgraph import ir
    from lwgraph.calibrate import generate
    from lwgraph.calibrate.layer_shapes import layer_shapes
    from lwgraph.layers.form import searched_forms
    from lwgraph.plan import precision
    from lwgraph.plan.price.prefetch import ask_all
    from lwgraph.rewrite import Context, Pipeline

    loaded = ir.load(model)
    with Progressed() as progress:
        context = Context(executor=oracle.executor, progress=progress)
        feeds = next(iter(generate(loaded, 1, shapes=parse_shapes(shapes), executor=oracle.executor)))
        Pipeline.parse("default").rewrite(loaded, context)
        precisions = (precision.FLOAT, precision.INT8) if precision.available() else (precision.FLOAT,)
        sizes = layer_shapes(loaded, feeds, oracle.executor)
        return ask_all(loaded, oracle, context, forms=searched_forms(context.warn), shapes=sizes, precisions=precisions)


def _measure(model: str, shapes: tuple[str, ...], threads: int, as_json: bool) -> None:
    from lwgraph import registry
    from lwgraph.errors import DataError
    from lwgraph.plan.price.oracle import Oracle

    oracle = Oracle(registry.executor("ort", threads=threads))
    before = oracle.cache.count()
    layers = _ask(model, oracle, shapes)
    if oracle.cache.warning:
        raise DataError(oracle.cache.warning)
    new = oracle.cache.count() - before
    if as_json:
        print_json({"layers": layers, "measured": new, "target": oracle.target, "cache": str(oracle.cache.path)})
    else:
        console().print(f"{layers} layers, {new} prices measured on {oracle.target}", markup=False)


def _export(model: str, folder: Path, shapes: tuple[str, ...], threads: int, as_json: bool) -> None:
    from lwgraph import registry
    from lwgraph.plan.price.kit import Recorder, check_folder, write_kit

    check_folder(folder)  # before the work, not after
    oracle = Recorder(registry.executor("ort", threads=threads))
    layers = _ask(model, oracle, shapes)
    models = write_kit(oracle.batches, folder)
    if as_json:
        print_json({"layers": layers, "models": models, "kit": str(folder)})
        return
    out = console()
    out.print(f"{layers} layers, {models} small models: {folder}", markup=False)
    out.print(
        f"\nCopy the folder to the other machine, which needs Python, numpy and onnxruntime, and run there:\n"
        f"    python {folder.name}/measure.py --name NAME -o table.json\n"
        f"then here:\n    lwgraph measure --import table.json",
        markup=False,
    )


def _bring_in(path: str, as_json: bool) -> None:
    from lwgraph.errors import DataError
    from lwgraph.plan.price.devices import Table
    from lwgraph.plan.price.price_table import PriceCache

    loaded, cache = Table.load(path), PriceCache()
    loaded.put(cache)
    if cache.warning:
        raise DataError(cache.warning)
    if as_json:
        print_json({"device": loaded.device.name, "threads": loaded.device.threads, "prices": len(loaded.rows)})
        return
    threads = f" --threads {loaded.device.threads}" if loaded.device.threads != 1 else ""
    console().print(
        f"{len(loaded.rows)} prices of {loaded.device}\nuse them with: lwgraph optimize MODEL --target "
        f"{loaded.device.name}{threads}",
        markup=False,
    )


def _list(as_json: bool) -> None:
    from dataclasses import asdict

    from lwgraph.plan.price.devices import devices
    from lwgraph.plan.price.price_table import PriceCache

    known = devices(PriceCache())
    if as_json:
        print_json({"devices": [asdict(device) for device in known.values()]})
    elif not known:
        console().print("no table of another machine has been imported; see lwgraph measure --help")
    else:
        rows = [[d.name, str(d.threads), d.runtime, d.processor, d.system] for d in known.values()]
        console().print(table("", ["device", "threads", "runtime", "processor", "system"], rows, numbers_from=9))
