"""The roles of nodes in an integer region, and which of their inputs are activations."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from lwgraph import ir
from lwgraph.passes.quantize.placing.target import Target

OTHER_TYPE = "its input is not float32"

# Operators of which only some inputs carry data; the rest are shapes, indices and the like. Others: all inputs.
_DATA_INPUTS = dict.fromkeys(
    ir.MOVES - {"Concat"}
    | {"AveragePool", "Clip", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Pad", "PRelu", "ReduceMean", "Resize"},
    (0,),
)


@dataclass(frozen=True)
class Role:
    """A node's part.

    Attributes:
        kind: "compute", "convert", "keep", "free" or "clip".
        data: the inputs that carry activations.
        constants: the inputs that are constants to be quantized with the node (not a compute node's weight and bias).
        factor: for "free": output = factor * input.
    """

    kind: str
    data: tuple[int, ...]
    constants: tuple[int, ...] = ()
    factor: float = 1.0


def roles_of(
    graph: ir.Graph, target: Target, refused: Mapping[ir.Node, str], opset: int
) -> tuple[dict[ir.Node, Role], dict[ir.Node, str]]:
    """The role of every node of `graph` that has one, and why the compute operators without one have none."""
    roles: dict[ir.Node, Role] = {}
    reasons: dict[ir.Node, str] = {}
    for node in graph:
        if node.domain not in ("", "ai.onnx"):
            continue
        try:
            role = _role(node, target, opset)
        except _UnfitError as reason:
            role = None
            if "compute" in target.roles.get(node.op_type, ()):
                reasons[node] = str(reason)
        if role is None:
            continue
        if node in refused:
            if role.kind == "compute":
                reasons[node] = refused[node]
            continue
        roles[node] = role
    return roles, reasons


class _UnfitError(Exception):
    """Why a node cannot be quantized."""


def _role(node: ir.Node, target: Target, opset: int) -> Role | None:
    op = node.op_type
    if not any(target.has(op, kind, opset) for kind in ("compute", "convert", "keep", "free", "clip")):
        return None
    if any(v.dtype not in (None, ir.DataType.FLOAT) for v in node.outputs):
        raise _UnfitError(OTHER_TYPE)
    if target.has(op, "compute", opset):
        return _compute(node)
    data = tuple(
        i for i in _DATA_INPUTS.get(op, range(len(node.inputs))) if i < len(node.inputs) and node.inputs[i] is not None
    )
    constants = tuple(i for i in data if ir.constant_tensor(node.inputs[i]) is not None)
    data = tuple(i for i in data if i not in constants)
    if not data or any(not is_float(node.inputs[i]) for i in (*data, *constants)):
        return None
    if constants and target.has(op, "free", opset):
        factor = _factor(node, constants[0])
        if factor is not None:
            return Role("free", data, (), factor)
    if target.has(op, "clip", opset):
        low, high = clip_range(node)
        return Role("clip", data) if low is not None and high is not None and low <= 0 <= high else None
    if target.has(op, "convert", opset):
        return Role("convert", data, constants)
    if target.has(op, "keep", opset) and not constants and _keeps(node, target):
        return Role("keep", data)
    return None


def is_float(value: ir.Value | None) -> bool:
    """Whether `value` is a float32 tensor (an unknown type is not)."""
    return value is not None and value.dtype == ir.DataType.FLOAT


def _compute(node: ir.Node) -> Role:
    if not is_float(node.inputs[0]):
        raise _UnfitError(OTHER_TYPE)
    if ir.constant_tensor(node.inputs[0]) is not None:
        raise _UnfitError("its input is a constant")
    weight = ir.constant_tensor(node.inputs[1])
    if node.op_type != "MatMul":
        if weight is None:
            raise _UnfitError("its weight is not a constant")
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None and ir.constant_tensor(bias) is None:
            raise _UnfitError("its bias is not a constant")
    if node.op_type == "Gemm":
        if ir.attribute(node, "transA", 0):
            raise _UnfitError("its first input is transposed (transA)")
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        shape = ir.constant_shape(bias)
        outputs = ir.constant_shape(node.inputs[1])
        assert outputs is not None
        if shape is not None and shape != (outputs[0 if ir.attribute(node, "transB", 0) else 1],):
            raise _UnfitError(f"its bias has shape {list(shape)}, not one number per output")
    if weight is None:
        if not is_float(node.inputs[1]):
            raise _UnfitError("its second input is not float32")
        return Role("compute", (0, 1))
    if node.op_type == "MatMul" and len(weight.shape) != 2:
        raise _UnfitError(f"its weight has {len(weight.shape)} axes, not 2")
    return Role("compute", (0,))


def _factor(node: ir.Node, place: int) -> float | None:
    """The positive c of x * c or x / c with one constant number; None for anything else."""
    constant = ir.constant(node.inputs[place])
    if constant is None or constant.size != 1 or node.op_type not in ("Mul", "Div"):
        return None
    other = node.inputs[1 - place]
    if other is not None and other.shape is not None and len(other.shape) < constant.ndim:
        return None  # the constant adds axes
    number = float(constant.reshape(()))
    if not number > 0 or not np.isfinite(number):
        return None
    if node.op_type == "Mul":
        return number
    return 1 / number if place == 1 else None


def clip_range(node: ir.Node) -> tuple[float | None, float | None]:
    """The bounds of Relu or Clip; None where a bound is computed."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    found: list[float | None] = []
    for index, name, default in ((1, "min", float("-inf")), (2, "max", float("inf"))):
        if name in node.attributes:
            found.append(float(ir.attribute(node, name)))
        elif len(node.inputs) > index and node.inputs[index] is not None:
            constant = ir.constant(node.inputs[index])
            found.append(None if constant is None else float(constant.reshape(-1)[0]))
        else:
            found.append(default)
    return found[0], found[1]


def _keeps(node: ir.Node, target: Target) -> bool:
    """Whether the output's elements are elements of the input (or lie between them)."""
    if node.op_type == "MaxPool":
        return len(node.outputs) == 1
    if node.op_type == "Pad":  # with zeros, which every grid has, or with elements
        return ir.attribute(node, "mode", "constant") != "constant" or _pads_zeros(node)
    if node.op_type == "Resize":
        # cubic overshoots; a crop with a fill value brings in new numbers
        crop = ir.attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
        mode = ir.attribute(node, "mode", "nearest")
        return (mode == "nearest" or (mode == "linear" and not target.linear_in_floats)) and not crop
    return True


def _pads_zeros(node: ir.Node) -> bool:
    if "value" in node.attributes:
        return float(ir.attribute(node, "value")) == 0
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    constant = ir.constant(node.inputs[2])
    return constant is not None and not constant.any()


def channel_axis(node: ir.Node) -> int:
    """The axis of the input's channels of a compute node."""
    return 1 if node.op_type in ir.CONVOLUTIONS else -1


def weight_axis(node: ir.Node) -> int:
    """The axis of the output channels in the weight of a compute node."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if ir.attribute(node, "transB", 0) else 1
    return 1  # MatMul (K, N); ConvTranspose (C, M/group, ...)


def excluded(graph: ir.Graph, names: Collection[str], why: str) -> dict[ir.Node, str]:
    """The nodes of these names, each with the reason `why`."""
    wanted = set(names)
    return {node: why for node in graph if node.name in wanted}


__all__ = ["OTHER_TYPE", "Role", "channel_axis", "clip_range", "excluded", "is_float", "roles_of", "weight_axis"]
