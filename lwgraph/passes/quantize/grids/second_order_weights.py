"""Rounds a quantizer's weights by the second moments of their inputs instead of one by one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.calibrate.subsample import spread
from lwgraph.executor import Executor, Feeds
from lwgraph.layers.site import find_sites
from lwgraph.measure.distance import Distance
from lwgraph.passes.quantize.graph.quantizer import Quantizer, fold_gemm, whole_channels
from lwgraph.passes.quantize.grids.grid import weight_limits
from lwgraph.passes.quantize.grids.observer import SomeSamples
from lwgraph.passes.quantize.grids.weight_grid import weight_grid
from lwgraph.passes.quantize.judging.sensitivity import ErrorSource, simulated
from lwgraph.passes.quantize.placing.roles import weight_axis
from lwgraph.passes.quantize.round_weights import RoundWeights
from lwgraph.rewrite.base import Context, Log

_MOST_BITS = 8
ROUNDED_ON = 64  # samples at most: from 192, rounding keeps 22 % of the loss of rounding to nearest, from 64, 24 %


def rounds(quantizer: Quantizer) -> bool:
    """Whether the target's weights have a step for each output channel and at most 8 bits, as `RoundWeights` makes."""
    target = quantizer.target
    per_channel = target.per_channel and quantizer.opset >= target.per_channel_opset
    return per_channel and _bits(quantizer) <= _MOST_BITS


def weight_share(
    quantizer: Quantizer, refused: dict[str, str], whole: float, distance: Distance, executor: Executor
) -> float:
    """The distance that rounded weights alone cause, relative to `whole`, that of the quantized model."""
    _, placement = quantizer.placement(refused)
    grids = quantizer.grids(placement)
    sources = [
        ErrorSource(node.name or "", weights=rounded)
        for node in placement.compute
        if (rounded := quantizer.rounded(node, grids)) is not None
    ]
    return distance(executor.prepare(simulated(quantizer.model, sources))) / max(whole, 1e-30)


def finer(quantizer: Quantizer, names: Collection[str], data: Sequence[Feeds], context: Context) -> Quantizer:
    """The quantizer with other integers, and steps, for the weights of the named layers: those of `RoundWeights`
    (GPTQ, then coordinate descent), by the inputs that they have in the float model.

    Layers whose inputs cannot be seen keep what they have. Complexity: see `second_order`; ROUNDED_ON samples are run.
    """
    target = quantizer.target
    model = ir.clone(quantizer.model)
    # Read one by one, like the list that a Context has otherwise.
    fitting: Any = SomeSamples(data, spread(range(len(data)), ROUNDED_ON))
    statistics = context.statistics_of(model, fitting)
    inexact = {site.name for site in find_sites(model) if not statistics.exact(site)}  # rounded to the nearest again
    others = tuple(node.name or "" for node in model.graph if node.name not in names or node.name in inexact)
    # Refusals and warnings stay here: a layer that is left out is merely rounded as before.
    inner = context.beside(data=fitting, statistics=None, details=None, log=Log())
    RoundWeights(bits=_bits(quantizer), ignored_scope=others).run(model, inner)
    before = {node.name: node for node in quantizer.model.graph}
    weights = quantizer.weights.copy()
    for node in model.graph:
        if node.name not in names or not whole_channels(node):
            continue
        old, new = ir.constant(before[node.name].inputs[1]), ir.constant(node.inputs[1])
        if old is None or new is None or np.array_equal(old, new):
            continue
        fold_gemm(node)
        weight = ir.constant(node.inputs[1])
        assert weight is not None
        grid = weight_grid(weight, weight_axis(node), target.weight_type, reduced=target.reduced_range, search=False)
        weights.know(
            node.name or "", grid, grid.encode(weight, weight_limits(target.weight_type, target.reduced_range))
        )
    return Quantizer(
        quantizer.model,
        target,
        lambda names, axes: quantizer.observed,
        quantizer.recipe,
        quantizer.chosen,
        weights=weights,
    )


def _bits(quantizer: Quantizer) -> int:
    """The number of bits of a symmetric grid -(2^(bits - 1) - 1)..2^(bits - 1) - 1."""
    low, high = weight_limits(quantizer.target.weight_type, quantizer.target.reduced_range)
    return ((high - low) // 2).bit_length() + 1


__all__ = ["finer", "rounds", "weight_share"]
