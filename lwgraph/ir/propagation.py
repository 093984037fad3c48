"""ONNX's shape inference, kept from writing out vectors that constants state to be of any length."""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx
from onnx import numpy_helper

_LONGEST = 1 << 20  # elements: far more than any shape has, and 50 MB as ONNX holds them
_LARGE = 1 << 16  # bytes of a constant that is not looked at: it states no length
_NUMBERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
# Operators whose integers are no larger than those of their first inputs; None: of all.
_MOVES = {
    "Abs": 1, "Cast": 1, "Ceil": 1, "Concat": None, "Div": 1, "Floor": 1, "Gather": 1, "Identity": 1, "Max": None,
    "Min": None, "Neg": 1, "Reshape": 1, "Slice": 1, "Squeeze": 1, "Unsqueeze": 1,
}  # fmt: skip


def infer(proto: onnx.ModelProto, *, strict: bool = False) -> onnx.ModelProto:
    """Shapes of the model's values, with integers followed through the graph.

    ONNX writes out what Range, ConstantOfShape, Expand and Tile make of constants, whatever their size: terabytes for a
    Range of 2^40. A model with such a node is inferred without following integers.
    """
    graphs = [proto.graph, *proto.functions]
    follow = not any(_is_long(graph.node, getattr(graph, "initializer", ()), {}) for graph in graphs)
    return onnx.shape_inference.infer_shapes(proto, strict_mode=strict, data_prop=follow)


def _is_long(nodes: Iterable[onnx.NodeProto], constants: Iterable[onnx.TensorProto], outer: dict[str, float]) -> bool:
    """Whether a node makes a vector of more than _LONGEST elements, by the greatest magnitudes of what is constant."""
    known = dict(outer)
    known.update((tensor.name, most) for tensor in constants if (most := _magnitude(tensor)) is not None)
    for node in nodes:
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                if _is_long(body.node, body.initializer, known):
                    return True
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type == "Constant":
            given = {attribute.name: attribute for attribute in node.attribute}
            if "value" in given and (most := _magnitude(given["value"].t)) is not None:
                known[node.output[0]] = most
            elif "value_int" in given or "value_ints" in given:
                values = [given["value_int"].i] if "value_int" in given else given["value_ints"].ints
                known[node.output[0]] = float(max(map(abs, values), default=0))
            continue
        sizes = [known.get(name) for name in node.input]
        if node.op_type in ("Range", "ConstantOfShape", "Expand", "Tile"):
            if _length(node.op_type, sizes) > _LONGEST:
                return True
            continue
        taken = [size for size in sizes[: _MOVES.get(node.op_type, 2)] if size is not None]
        if not taken or len(taken) < len(sizes[: _MOVES.get(node.op_type, 2)]):
            continue
        if node.op_type in _MOVES:
            known[node.output[0]] = max(taken)
        elif node.op_type in ("Add", "Sub"):
            known[node.output[0]] = sum(taken)
        elif node.op_type == "Mul":
            known[node.output[0]] = math.prod(taken)
    return False


def _length(op_type: str, sizes: list[float | None]) -> float:
    """At most how many elements a node makes of one element each; 0 where that is not known."""
    stated = sizes[:2] if op_type == "Range" else sizes[-1:] if op_type == "ConstantOfShape" else sizes[1:2]
    return sum(size for size in stated if size is not None) if None not in stated else 0


def _magnitude(tensor: onnx.TensorProto) -> float | None:
    """The greatest magnitude of a vector or scalar of numbers that may state a length; None where it is none."""
    inside = tensor.data_location != onnx.TensorProto.EXTERNAL and math.prod(tensor.dims) * 8 <= _LARGE
    if len(tensor.dims) > 1 or not inside or tensor.data_type not in _NUMBERS:
        return None
    array = numpy_helper.to_array(tensor)
    return float(abs(array.astype(float)).max(initial=0))
