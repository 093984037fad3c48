"""Interval arithmetic: bounds of each channel of each value that hold for all inputs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lwgraph import ir
from lwgraph.arrays import Floats
from lwgraph.views.coupling import Coupling


@dataclass(frozen=True, eq=False)
class Bounds:
    """Lower and upper bounds (n,) of the channels along one axis."""

    low: Floats
    high: Floats

    @classmethod
    def unknown(cls, size: int) -> Bounds:
        """Nothing is known."""
        return cls(np.full(size, -math.inf), np.full(size, math.inf))

    def hull(self, value: float) -> Bounds:
        """Bounds of the channels and of a number, such as the zeros of a padding."""
        return Bounds(np.minimum(self.low, value), np.maximum(self.high, value))

    @property
    def constant(self) -> npt.NDArray[np.bool_]:
        """Which channels have one value only."""
        return np.asarray(self.low == self.high)


# Increasing functions of one number, from the node's attributes.
_INCREASING: dict[str, Callable[[ir.Node], Callable[[Floats], Floats]]] = {
    "Relu": lambda node: lambda x: np.maximum(x, 0),
    "LeakyRelu": lambda node: _leaky(ir.attribute(node, "alpha", 0.01)),
    "Sigmoid": lambda node: lambda x: 0.5 * (1 + np.tanh(0.5 * x)),
    "Tanh": lambda node: np.tanh,
    "HardSigmoid": lambda node: (
        lambda x: np.clip(ir.attribute(node, "alpha", 0.2) * x + ir.attribute(node, "beta", 0.5), 0, 1)
    ),
    "Elu": lambda node: lambda x: np.where(x > 0, x, ir.attribute(node, "alpha", 1.0) * np.expm1(np.minimum(x, 0))),
    "Softplus": lambda node: lambda x: np.logaddexp(0, x),
    "Exp": lambda node: np.exp,
    "Clip": lambda node: _clip(node),
    **dict.fromkeys(
        ("Identity", "Dropout", "MaxPool", "GlobalMaxPool", "GlobalAveragePool", "Upsample"), lambda node: lambda x: x
    ),
}


def _leaky(alpha: float) -> Callable[[Floats], Floats]:
    return (lambda x: np.where(x > 0, x, alpha * x)) if alpha >= 0 else (lambda x: np.full_like(x, math.nan))


def _clip(node: ir.Node) -> Callable[[Floats], Floats]:
    ends = []
    for index, name, without in ((1, "min", -math.inf), (2, "max", math.inf)):
        value = node.inputs[index] if index < len(node.inputs) else None
        found = ir.attribute(node, name, without) if value is None else ir.constant(value)
        if found is None:
            return lambda x: np.full_like(x, math.nan)  # computed: nothing is known
        ends.append(float(found))
    return lambda x: np.clip(x, ends[0], ends[1])


def channel_bounds(model: ir.Model, coupling: Coupling) -> Mapping[tuple[ir.Value, int], Bounds]:
    """Bounds for every tracked axis of an activation, by (value, axis). Interval arithmetic, O(weights)."""
    known: dict[tuple[ir.Value, int], Bounds] = {}
    moved: dict[tuple[ir.Value, ir.Value], list[Any]] = defaultdict(list)
    for link in coupling.builder.links:
        moved[link.a.value, link.b.value].append(link)
    for node in model.graph:
        for output in node.outputs:
            for axis, tracked in coupling.builder.tracked(output).items():
                with np.errstate(all="ignore"):
                    found = _node(node, output, axis, tracked.size, coupling, known, moved)
                bad = np.isnan(found.low) | np.isnan(found.high) | (found.low > found.high)
                known[output, axis] = Bounds(np.where(bad, -math.inf, found.low), np.where(bad, math.inf, found.high))
    return known


def _node(
    node: ir.Node,
    output: ir.Value,
    axis: int,
    size: int,
    coupling: Coupling,
    known: Mapping[tuple[ir.Value, int], Bounds],
    moved: Mapping[tuple[ir.Value, ir.Value], list[Any]],
) -> Bounds:
    kind, unknown = ir.operator(node), Bounds.unknown(size)
    first = known.get((node.inputs[0], axis)) if node.inputs and node.inputs[0] is not None else None
    if kind in ("Conv", "Gemm") and axis == 1:
        return _linear(node, size, known) or unknown
    if kind in _INCREASING and first is not None:
        function = _INCREASING[kind](node)
        return Bounds(function(first.low), function(first.high))
    if kind == "AveragePool" and first is not None:
        return first.hull(0.0)
    if kind == "BatchNormalization" and axis == 1:
        return _batch_norm(node, first or unknown) or unknown
    if kind in ("Add", "Sub", "Mul"):
        return _arithmetic(node, output, axis, size, coupling, known) or unknown
    if kind in ir.MOVES:
        return _move(node, output, axis, size, coupling, known, moved)
    return unknown


def _linear(node: ir.Node, size: int, known: Mapping[tuple[ir.Value, int], Bounds]) -> Bounds | None:
    weight = ir.constant(node.inputs[1])
    bias = ir.constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1)
    if weight is None or bias is None or weight.dtype.kind != "f" or ir.attribute(node, "transA", 0):
        return None
    group, w = ir.attribute(node, "group", 1), weight.astype(np.float64)
    if node.op_type == "Gemm":
        w = (w if ir.attribute(node, "transB", 0) else w.T) * ir.attribute(node, "alpha", 1.0)
        bias = bias * ir.attribute(node, "beta", 1.0)
        if bias.ndim > 1 and bias.shape[0] != 1:
            return None
    w = w.reshape(group, size // group, -1, math.prod(w.shape[2:]))  # (g, o/g, c/g, taps)
    x = known.get((node.inputs[0], 1)) if node.inputs[0] is not None else None
    x = x or Bounds.unknown(group * w.shape[2])
    if node.op_type == "Conv":
        x = x.hull(0.0) if any(ir.attribute(node, "pads", ())) or _auto_pads(node) else x
    low, high = (end.reshape(group, 1, -1, 1) for end in (x.low, x.high))
    ends = [np.where(w != 0, w * end, 0.0) for end in (low, high)]  # nothing of infinity is nothing
    offset = np.broadcast_to(bias.astype(np.float64).reshape(-1), (size,))
    return Bounds(*(np.asarray(choose(*ends).sum((2, 3)).reshape(-1) + offset) for choose in (np.minimum, np.maximum)))


def _auto_pads(node: ir.Node) -> bool:
    return ir.attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID", "")


def _batch_norm(node: ir.Node, x: Bounds) -> Bounds | None:
    arrays = [ir.constant(value) for value in node.inputs[1:5]]
    if any(array is None for array in arrays):
        return None
    scale, bias, mean, variance = (np.asarray(array, np.float64) for array in arrays)
    factor = scale / np.sqrt(variance + ir.attribute(node, "epsilon", 1e-5))
    ends = [np.where(factor != 0, (end - mean) * factor, 0.0) + bias for end in (x.low, x.high)]
    return Bounds(np.minimum(*ends), np.maximum(*ends))


def _arithmetic(
    node: ir.Node,
    output: ir.Value,
    axis: int,
    size: int,
    coupling: Coupling,
    known: Mapping[tuple[ir.Value, int], Bounds],
) -> Bounds | None:
    rank = len(coupling.builder.dims(output) or ())
    operands = []
    for value in node.inputs:
        if value is None:
            return None
        array = ir.constant(value)
        place = axis - rank + len(coupling.builder.dims(value) or ())
        if array is not None:
            if place < 0 or array.shape[place] == 1:
                operands.append(Bounds(np.full(size, float(array.min())), np.full(size, float(array.max()))))
            else:
                rows = np.moveaxis(array, place, 0).reshape(size, -1).astype(np.float64)
                operands.append(Bounds(rows.min(1), rows.max(1)))
        else:
            operands.append(known.get((value, place), Bounds.unknown(size)))
    a, b = operands
    if node.op_type == "Add":
        return Bounds(a.low + b.low, a.high + b.high)
    if node.op_type == "Sub":
        return Bounds(a.low - b.high, a.high - b.low)
    products = [np.where((x == 0) | (y == 0), 0.0, x * y) for x in (a.low, a.high) for y in (b.low, b.high)]
    return Bounds(np.minimum.reduce(products), np.maximum.reduce(products))


def _move(
    node: ir.Node,
    output: ir.Value,
    axis: int,
    size: int,
    coupling: Coupling,
    known: Mapping[tuple[ir.Value, int], Bounds],
    moved: Mapping[tuple[ir.Value, ir.Value], list[Any]],
) -> Bounds:
    """Bounds of an output whose channels only move: the coupling has recorded where each comes from."""
    low, high = np.full(size, math.inf), np.full(size, -math.inf)
    mine = coupling.builder.get(output, axis)
    for value in dict.fromkeys(value for value in node.inputs if value is not None):
        links = [(link.here, link.b, link.there) for link in moved.get((output, value), ()) if link.a is mine]
        links += [(link.there, link.a, link.here) for link in moved.get((value, output), ()) if link.b is mine]
        for place, other in coupling.builder.tracked(value).items():
            if not links and mine is not None and other.root() is mine.root():
                every = np.arange(size)
                links.append((every, coupling.builder.tracked(value)[place], every))
        for here, source, there in links:
            bounds = known.get((source.value, source.axis), Bounds.unknown(source.size))
            np.minimum.at(low, here, bounds.low[there])
            np.maximum.at(high, here, bounds.high[there])
    return Bounds(low, high)  # an index that came from nowhere has low > high, which counts as unknown
