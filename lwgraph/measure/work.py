"""Counts the multiply-accumulates, parameters and bytes of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lwgraph import ir
from lwgraph.arrays import Shapes


@dataclass(frozen=True)
class Counts:
    """Totals of a model.

    Attributes:
        macs: multiply-accumulates of convolutions, matrix products and recurrent layers for one batch; None when a
            size that matters is unknown.
        parameters: numbers stored in constants.
        bytes: their size in the file.
        nodes: operators, those of subgraphs and functions included.
        unknown: names of the nodes whose work is unknown.
    """

    macs: int | None
    parameters: int
    bytes: int
    nodes: int
    unknown: tuple[str, ...] = ()


def count(model: ir.Model, shapes: Shapes | None = None) -> Counts:
    """Count `model`; `shapes` (by value name) win over the sizes recorded in it. Dynamic batch axes count as 1.

    A subgraph's body is counted once, however often it runs; so is a function's, however often it is called.
    """
    total, parameters, size, nodes = 0, 0, 0, 0
    unknown: list[str] = []
    for scope in ir.scopes(model):
        tensors = [] if isinstance(scope, ir.Function) else [v.const_value for v in scope.initializers.values()]
        for node in scope:
            nodes += 1
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                tensors.append(ir.constant_of(node))
                continue
            macs = node_macs(node, shapes or {})
            if macs is None:
                unknown.append(node.name or str(node.outputs[0].name))
            else:
                total += macs
        for tensor in tensors:
            if tensor is not None:
                parameters += tensor.size
                size += tensor.nbytes
    return Counts(None if unknown else total, parameters, size, nodes, tuple(unknown))


def node_macs(node: ir.Node, shapes: Shapes) -> int | None:
    """Multiply-accumulates of one node; 0 for operators that do not multiply matrices; None when a size is unknown."""
    kind = ir.in_floats(node.op_type)
    if node.domain not in ("", "ai.onnx", "com.microsoft"):
        return 0
    if kind in ir.CONVOLUTIONS:
        weight = _shape(node.inputs[3 if node.op_type == "QLinearConv" else 1], shapes)
        counted = node.inputs[0] if kind == "ConvTranspose" else node.outputs[0]
        places = _shape(counted, shapes)
        if weight is None or places is None:
            return None
        return math.prod(weight) * places[0] * math.prod(places[2:])
    if kind in ir.PRODUCTS:
        out, left = _shape(node.outputs[0], shapes), _shape(node.inputs[0], shapes)
        if out is None or left is None:
            return None
        inner = left[0 if _flag(node, "transA") else -1] if len(left) > 1 else left[0]
        return math.prod(out) * inner
    if kind in ir.RECURRENT:
        steps = _shape(node.inputs[0], shapes)
        weights = [_shape(value, shapes) for value in node.inputs[1:3]]
        if steps is None or weights[0] is None or weights[1] is None:
            return None
        return steps[0] * steps[1] * (math.prod(weights[0]) + math.prod(weights[1]))
    return 0


def _flag(node: ir.Node, name: str) -> bool:
    return bool(name in node.attributes and ir.attribute(node, name, 0))


def _shape(value: ir.Value | None, shapes: Shapes) -> tuple[int, ...] | None:
    """The sizes of a value; an unknown first axis is a batch of 1; None when another is unknown."""
    if value is None:
        return None
    found: Sequence[object] | None = shapes.get(value.name or "")
    if found is None:
        found = ir.constant_shape(value)
    if found is None:
        found = None if value.shape is None else list(value.shape)
    if found is None:
        return None
    sizes = [size if isinstance(size, int) else (1 if axis == 0 else None) for axis, size in enumerate(found)]
    return None if None in sizes else tuple(size or 0 for size in sizes)


__all__ = ["Counts", "count", "node_macs"]
