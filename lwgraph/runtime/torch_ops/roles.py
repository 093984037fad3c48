"""Finds the initializers that are weights, and where floats can carry integers so that gradients pass."""

from __future__ import annotations

import math
from collections.abc import Collection

from lwgraph import ir

# The inputs that hold weights, by operator.
_WEIGHTS = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1), "Einsum": (0, 1, 2),
    "BatchNormalization": (1, 2), "InstanceNormalization": (1, 2), "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2), "RMSNormalization": (1,), "PRelu": (1,), "Gather": (0,),
    "LSTM": (1, 2, 3, 7), "GRU": (1, 2, 3), "RNN": (1, 2, 3),
}  # fmt: skip
# A constant of more than one element here is a bias or a scale; a single number belongs to a formula (x / sqrt(2)).
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div"}
# A weight may pass these on its way.
_THROUGH = ir.RESHAPES | {
    "Cast",
    "Concat",
    "DequantizeLinear",
    "Expand",
    "Identity",
    "QuantizeLinear",
    "Slice",
    "Split",
    "Transpose",
}
# These move integers without computing with them.
_MOVES = ir.MOVES - {"Gather"} | {"Identity", "MaxPool"}
_SCALES = {"QuantizeLinear", "DequantizeLinear"}
_INTEGERS = (
    ir.DataType.INT8,
    ir.DataType.UINT8,
    ir.DataType.INT4,
    ir.DataType.UINT4,
    ir.DataType.INT2,
    ir.DataType.UINT2,
    ir.DataType.INT16,
    ir.DataType.UINT16,
    ir.DataType.INT32,
)


def is_trainable(value: ir.Value, scales: bool = False) -> bool:
    """Whether a float initializer is a weight in every one of its uses."""
    uses = list(value.uses())
    return bool(uses) and all(_learns(value, node, index, scales) for node, index in uses)


def _learns(value: ir.Value, node: ir.Node, index: int, scales: bool) -> bool:
    kind = node.op_type
    if kind in _SCALES and index == 1:
        return scales
    if index in _WEIGHTS.get(kind, ()):
        return True
    if kind in _ELEMENTWISE:
        shape = None if value.shape is None else value.shape.numpy() if value.is_initializer() else None
        return shape is None or math.prod(shape) > 1
    if kind in _THROUGH and (index == 0 or kind == "Concat"):
        uses = [use for output in node.outputs for use in output.uses()]
        return bool(uses) and all(_learns(node.outputs[0], user, i, scales) for user, i in uses)
    return False


def weight_dequantizer(value: ir.Value) -> ir.Node | None:
    """The DequantizeLinear that is the only user of an integer initializer, with a constant scale; else None."""
    uses = list(value.uses())
    if value.dtype not in _INTEGERS or len(uses) != 1 or value.is_graph_input() or value.is_graph_output():
        return None
    node, index = uses[0]
    if node.op_type != "DequantizeLinear" or index != 0:
        return None
    rest = [v for v in node.inputs[1:] if v is not None]
    return node if all(v.is_initializer() and not v.is_graph_input() for v in rest) else None


def stays_soft(node: ir.Node, wanted: Collection[ir.Value]) -> bool:
    """Whether a QuantizeLinear's codes reach only DequantizeLinear, through moves: then they may stay floats."""
    return node.op_type == "QuantizeLinear" and _soft(node, wanted)


def _soft(node: ir.Node, wanted: Collection[ir.Value]) -> bool:
    for output in node.outputs:
        if output in wanted:
            return False
        for user, index in output.uses():
            if user.op_type == "DequantizeLinear" and index == 0:
                continue
            moves = user.op_type in _MOVES and (index == 0 or user.op_type == "Concat")
            if not moves or not _soft(user, wanted):
                return False
    return True
