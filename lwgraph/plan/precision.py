"""Integers in a plan: the pass that puts a network into them, and what a layer takes in them."""

from __future__ import annotations

from collections.abc import Sequence

from lwgraph import ir, registry
from lwgraph.arrays import Shapes
from lwgraph.errors import LwgraphError, UsageError
from lwgraph.executor import Executor, Feeds
from lwgraph.layers.site import Site, find_sites
from lwgraph.layers.substitute import Build, small_model
from lwgraph.plan.plan import Precision
from lwgraph.plan.roles import QUANTIZES, Quantizes, QuantizesDynamically, QuantizesElsewhere
from lwgraph.rewrite.base import Context, Pass

FLOAT, INT8 = "float", "int8"
DYNAMIC = "dynamic"  # 8-bit integers whose grid is taken as the model runs
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


def dynamic_in(passes: Sequence[Pass], nodes: Sequence[str]) -> list[Pass]:
    """The passes, of which the one that quantizes takes the grids of these nodes as the model runs.

    Raises:
        UsageError: none of them can.
    """
    able = quantizer()
    found = [able.running(p, nodes) if isinstance(able, QuantizesDynamically) else None for p in passes]
    if not any(found):
        asked = ", ".join(str(p) for p in passes)
        raise UsageError(f"the plan gives '{nodes[0]}' a grid that is taken as the model runs; {asked} cannot do so")
    return [new or p for p, new in zip(passes, found, strict=True)]


def small_dynamic_model(
    site: Site, build: Build, shape: Sequence[int], opset: int, executor: Executor
) -> ir.Model | None:
    """As `small_model`, in integers with grids that are taken as the model runs; None where there are none for it."""
    able = quantizer()
    if not isinstance(able, QuantizesDynamically):
        return None
    model = small_model(site, build, shape, opset)
    return model if able.dynamic().run(model, Context(executor)) else None


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


__all__ = [
    "DYNAMIC",
    "FLOAT",
    "INT8",
    "available",
    "dynamic_grids",
    "dynamic_in",
    "quantizer",
    "small_dynamic_model",
    "small_integer_model",
    "spelling",
]
