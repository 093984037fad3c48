"""Which products are slower with a grid that is taken as the model runs, by timing one layer of each size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Shapes
from lwgraph.errors import LwgraphError
from lwgraph.executor import Executor
from lwgraph.layers.site import Site, find_sites
from lwgraph.layers.substitute import original, small_model
from lwgraph.passes.quantize.graph.dynamic_products import quantize_products
from lwgraph.passes.quantize.judging.mixed_precision import EVEN, race

_ROWS = 4096  # a layer of more rows is timed on these


def slower(
    sites: Sequence[Site], shapes: Shapes, executor: Executor, opset: int, *, reduced: bool, per_channel: bool
) -> dict[str, str]:
    """Names of the nodes that gain nothing in integers with a dynamic grid -> both times, in words.

    Layers of one size are timed once, in turns with the float layer, on random rows.

    Args:
        shapes: sizes of the layers' inputs by value name; a layer of unknown size is not timed.
    """
    found: dict[str, str] = {}
    known: dict[tuple[tuple[int, ...], int], str] = {}
    for site in sites:
        size = shapes.get(site.input.name or "")
        if size is None or any(not isinstance(axis, int) for axis in size):
            continue
        rows = min(_ROWS, math.prod(int(axis or 0) for axis in size[:-1]))
        if not rows:
            continue
        key = site.shape, rows
        if key not in known:
            known[key] = _objection(site, rows, executor, opset, reduced, per_channel)
        if known[key]:
            found[site.node.name or ""] = known[key]
    return found


def _objection(site: Site, rows: int, executor: Executor, opset: int, reduced: bool, per_channel: bool) -> str:
    floats = small_model(site, original(site), [rows, site.inputs], opset)
    integers = ir.clone(floats)
    quantize_products(integers.graph, find_sites(integers), opset, reduced=reduced, per_channel=per_channel)
    feed = {"x": np.random.default_rng(0).standard_normal((rows, site.inputs)).astype(site.dtype)}
    try:
        taken = race({"float": executor.prepare(floats), "integers": executor.prepare(integers)}, feed)
    except LwgraphError as error:
        return f"it does not run in integers: {error}"
    if taken["integers"] <= EVEN * taken["float"]:
        return ""
    ms = {name: f"{1e3 * seconds:.3g} ms" for name, seconds in taken.items()}
    return f"no faster in integers with a dynamic grid: {ms['integers']} against {ms['float']} for {rows} rows"


__all__ = ["slower"]
