"""Operators that compute each element from the elements at its own place, with broadcasting."""

from __future__ import annotations

import numpy as np

from lwgraph import ir
from lwgraph.views.coupling.builder import Coupler
from lwgraph.views.coupling.rules import rule

# One input; f(0) = 0 for those in the first list.
ZERO_TO_ZERO = (
    "Abs",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Cast",
    "Ceil",
    "Celu",
    "Clip",
    "Dropout",
    "Elu",
    "Erf",
    "Floor",
    "Gelu",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Mish",
    "Neg",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sign",
    "Sin",
    "Sinh",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
)
ZERO_TO_OTHER = (
    "Acos",
    "Acosh",
    "BitwiseNot",
    "Cos",
    "Cosh",
    "Exp",
    "HardSigmoid",
    "IsInf",
    "IsNaN",
    "Log",
    "Not",
    "Reciprocal",
    "Sigmoid",
    "Softplus",
)
# Several inputs, broadcast. A product is zero where one factor is.
PRODUCTS = ("Mul", "And", "BitwiseAnd")
SUMS = ("Add", "Max", "Mean", "Min", "Sub", "Sum")
OTHERS = (
    "BitShift",
    "BitwiseOr",
    "BitwiseXor",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Mod",
    "Or",
    "Pow",
    "Where",
    "Xor",
)


def aligned(node: ir.Node, builder: Coupler, output: ir.Value, axis: int) -> list[tuple[int, int]]:
    """The (input, axis) of each input that is broadcast to an axis of the output."""
    rank = len(builder.dims(output) or ())
    found = []
    for index, value in enumerate(node.inputs):
        dims = builder.dims(value)
        if dims is not None and axis - rank + len(dims) >= 0:
            found.append((index, axis - rank + len(dims)))
    return found


@rule(*ZERO_TO_ZERO, *ZERO_TO_OTHER)
def unary(node: ir.Node, builder: Coupler) -> None:
    """Every axis goes through; a second output (the mask of Dropout) has the same axes, and is refused when used."""
    value = node.inputs[0]
    zero = node.op_type in ZERO_TO_ZERO and not (node.op_type == "Clip" and not _clips_to_zero(node))
    for axis in range(len(builder.dims(value) or ())):
        builder.merge(node, node.outputs[0], axis, [(0, axis)], keeps_zero=zero)
    if len(node.outputs) > 1 and (ir.use_count(node.outputs[1]) or node.outputs[1].is_graph_output()):
        builder.freeze_inputs(node, f"the second output of node '{node.name}' ({node.op_type}) is used")


def _clips_to_zero(node: ir.Node) -> bool:
    low, high = ir.attribute(node, "min"), ir.attribute(node, "max")
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        low = ir.constant(node.inputs[1])
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        high = ir.constant(node.inputs[2])
    return (low is None or bool(np.all(low <= 0))) and (high is None or bool(np.all(high >= 0)))


@rule(*PRODUCTS, *SUMS, *OTHERS, "Div", "PRelu")
def broadcast(node: ir.Node, builder: Coupler) -> None:
    """Each axis of the output is the aligned axis of every input that is not of size 1 there."""
    output = node.outputs[0]
    if builder.dims(output) is None or any(builder.dims(v) is None for v in node.inputs if v is not None):
        builder.freeze_inputs(node, f"the shapes at node '{node.name}' ({node.op_type}) are not known")
        return
    first_only = node.op_type in ("Div", "PRelu", "Mod")  # 0 / x, and the slope of 0
    for axis in range(len(builder.dims(output) or ())):
        sources = aligned(node, builder, output, axis)
        if first_only:
            numerator = next((builder.get(node.inputs[i], p) for i, p in sources if i == 0), None)
            builder.merge(
                node, output, axis, sources, keeps_zero=numerator is not None and numerator.zero, any_zero=True
            )
        elif node.op_type in PRODUCTS:
            builder.merge(node, output, axis, sources, any_zero=True)
        else:
            builder.merge(
                node, output, axis, sources, keeps_zero=node.op_type in SUMS and _adds_zero(node, builder, sources)
            )


def _adds_zero(node: ir.Node, builder: Coupler, sources: list[tuple[int, int]]) -> bool:
    """Whether what is broadcast along an axis leaves a zero there zero."""
    places = dict(sources)
    for index, value in enumerate(node.inputs):
        if value is None or (index in places and builder.size(value, places[index]) != 1):
            continue
        constant = ir.constant(value)
        if constant is None:
            return False  # an activation without the axis: its value is added to every channel
        low, high = (constant.min(), constant.max()) if constant.size else (0, 0)
        if not {"Max": high <= 0, "Min": low >= 0}.get(node.op_type, low == 0 == high):
            return False
    return True


@rule("QuantizeLinear", "DequantizeLinear")
def quantize(node: ir.Node, builder: Coupler) -> None:
    """All axes go through; scales and zero points per channel go with their axis, blocks of a channel axis do not."""
    value, output = node.inputs[0], node.outputs[0]
    rank = len(builder.dims(value) or ())
    parameters = [i for i in range(1, len(node.inputs)) if node.inputs[i] is not None]
    ranks = [len(builder.dims(node.inputs[i]) or ()) for i in parameters]
    blocked = ir.attribute(node, "block_size", 0) > 0 or any(r > 1 for r in ranks)
    for axis in range(rank):
        sources = [(0, axis)]
        if rank and axis == ir.attribute(node, "axis", 1) % rank and not blocked:
            sources += [(i, 0) for i, r in zip(parameters, ranks, strict=True) if r == 1]
        builder.merge(node, output, axis, sources, any_zero=True)
    if blocked:
        for made in builder.tracked(output).values():
            builder.freeze(made, f"node '{node.name}' ({node.op_type}) quantizes in blocks")
