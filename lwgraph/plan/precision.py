"""Integers in a plan: the pass that puts a network into them, and what a layer takes in them."""

from __future__ import annotations

from collections.abc import Sequence

from lwgraph import ir, registry
from lwgraph.arrays import Shapes
from lwgraph.errors import LwgraphError
from lwgraph.executor import Executor, Feeds
from lwgraph.layers.site import Site, find_sites
from lwgraph.layers.substitute import Build, small_model
from lwgraph.plan.plan import Precision
from lwgraph.plan.roles import QUANTIZES, Quantizes, QuantizesDynamically, QuantizesElsewhere
from lwgraph.rewrite.base import Context

FLOAT, INT8 = "float", "int8"
QUICK = "ort"  # the executor that loads models fastest: others take several times as long
PRODUCTS = 0.2  # of the work must be products of matrices for grids that are taken as the model runs to be tried


def available() -> bool:
    """Whether a plugin that quantizes is installed."""
    return QUANTIZES in registry.names("roles")


def quantizer() -> Quantizes:
    """The plugin that quantizes; UsageError where none is installed."""
    return registry.role(QUANTIZES, Quantizes)


def spelling(*, quick: bool = False) -> str:
    """The pass as a plan names it. `quick`: the simplest ranges only, for comparing plans."""
    return str(quantizer().quick() if quick else quantizer().exactly())


def dynamic_grids(model: ir.Model, shapes: Shapes, context: Context) -> Precision | None:
    """The model's products with grids that are taken as the model runs; None where these can hardly gain.

    Args:
        model: in floats.
        shapes: its measured sizes by value name.
        context: as for `QuantizesDynamically.gaining`.
    """
    quantizes = quantizer()
    if not isinstance(quantizes, QuantizesDynamically):
        return None
    sites = find_sites(model, shapes)
    products = sum(site.macs() for site in sites if not site.kernel)
    if products <= PRODUCTS * sum(site.macs() for site in sites):
        return None
    kept = quantizes.gaining(model, context)
    return None if kept is None else Precision((str(quantizes.dynamic()),), tuple(kept))


def small_integer_model(
    site: Site,
    build: Build,
    shape: Sequence[int],
    calibration: Feeds,
    opset: int,
    executor: Executor,
    floats: Sequence[int] = (),
) -> ir.Model | None:
    """As `small_model`, in integers and for inputs of `shape`; None where the target has no integer kernel for it.

    The ranges come from `calibration`, which may be much smaller than `shape`: time does not depend on them. The nodes
    numbered in `floats` stay as they are.
    """
    model = small_model(site, build, [None if axis > 1 and site.kernel else d for axis, d in enumerate(shape)], opset)
    for index, node in enumerate(model.graph):
        node.name = f"n{index}"
    kept = tuple(f"n{index}" for index in floats)
    quantizes, maker = quantizer(), executor
    blank = quantizes.blank()
    if executor.name != QUICK and isinstance(quantizes, QuantizesElsewhere):
        blank, maker = quantizes.blank_for(executor), registry.executor(QUICK)
    try:
        if not blank.sparing(kept).run(model, Context(maker, data=[calibration])):
            return None
    except LwgraphError:
        return None
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    model.graph.inputs[0].shape = ir.Shape(shape)
    return model


__all__ = ["FLOAT", "INT8", "available", "dynamic_grids", "quantizer", "small_integer_model", "spelling"]
