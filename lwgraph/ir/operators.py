"""Standard operators by what they do with elements. docs/operators.md says what else a new one must be taught."""

from __future__ import annotations

from onnx_ir import Node

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
PRODUCTS = frozenset({"Gemm", "MatMul"})
LINEAR = CONVOLUTIONS | PRODUCTS  # what multiplies by a matrix; with constant weights, a layer

GATED = frozenset({"GRU", "LSTM"})
RECURRENT = GATED | {"RNN"}  # what multiplies by matrices once per step of a sequence

RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})  # the same elements in the same order
# Every element of the result is an element of the input. A Resize is none of these: it may interpolate.
MOVES = RESHAPES | {
    "Concat",
    "DepthToSpace",
    "Expand",
    "Gather",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Tile",
    "Transpose",
}


def operator(node: Node) -> str:
    """The name that stands for a node's operator in these sets: "Conv", and "domain::Conv" for one of another domain.

    A function or a custom operator may be named like one of ONNX's own and mean something else.
    """
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def in_floats(name: str) -> str:
    """The operator that does the same work in floats: "MatMul" for "MatMulInteger", "Conv" for "QLinearConv"."""
    return name.removeprefix("QLinear").removeprefix("Fused").removesuffix("Integer")


__all__ = ["CONVOLUTIONS", "GATED", "LINEAR", "MOVES", "PRODUCTS", "RECURRENT", "RESHAPES", "in_floats", "operator"]
