"""Quantize-dequantize groups as integer operators, as runtimes compute DQ - Conv, MatMul, Gemm, Add or Mul - Q.

The rules are those by which ONNX Runtime fuses on the CPU: every input is dequantized from 8 bits (a bias from int32),
the result has no other use, and input and output have one type. A Relu or Clip before the Q disappears when saturation
does its work.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.runtime import kernels
from lwgraph.runtime.delegate import plain_attributes
from lwgraph.runtime.ops import BUILDERS, Options, Spec
from lwgraph.runtime.ops.convolution import combined_scale, zero_of
from lwgraph.runtime.program import Replacement
from lwgraph.runtime.quantized_binary import quantized_product, quantized_sum

_BYTES = (ir.DataType.UINT8, ir.DataType.INT8)


@dataclass(frozen=True)
class _Quantized:
    """A tensor stored as integers: its values are (stored - zero) * scale."""

    stored: ir.Value
    scale: ir.Value
    zero: ir.Value | None
    dtype: ir.DataType | None
    axis: int


def integer_groups(model: ir.Model, names: Collection[str], options: Options) -> dict[ir.Node, Replacement]:
    """The integer operator that stands for a whole group, by the QuantizeLinear that ends it.

    A group is left in floats when one of its inner values is in `names`.
    """
    wanted = set(names)
    found = {}
    for node in model.graph:
        if node.op_type == "QuantizeLinear" and node.domain in ("", "ai.onnx"):
            replacement = _group(node, wanted, options)
            if replacement is not None:
                found[node] = replacement
    return found


def _group(quantize: ir.Node, wanted: set[str], options: Options) -> Replacement | None:
    scale, zero = quantize.inputs[1], quantize.inputs[2] if len(quantize.inputs) > 2 else None
    dtype = ir.DataType.UINT8 if zero is None else _stored_dtype(zero)
    if scale is None or dtype not in _BYTES or not _is_scalar(scale) or _other(quantize):
        return None
    value = quantize.inputs[0]
    node = _only_producer(value, wanted)
    if node is not None and node.op_type in ("Relu", "Clip") and _saturates(node, scale, zero, dtype):
        node = _only_producer(node.inputs[0], wanted)
    if node is None or node.op_type not in (*_PRODUCTS, *_BINARY) or node.domain not in ("", "ai.onnx"):
        return None
    inputs = [_dequantized(value) for value in node.inputs]
    if any(entry is None for entry in inputs):
        return None
    return _replacement(node, [entry for entry in inputs if entry is not None], quantize, scale, zero, dtype, options)


def _replacement(
    node: ir.Node,
    inputs: list[_Quantized],
    quantize: ir.Node,
    scale: ir.Value,
    zero: ir.Value | None,
    dtype: ir.DataType,
    options: Options,
) -> Replacement | None:
    left, right = inputs[0], inputs[1]
    if left.dtype != dtype or right.dtype not in _BYTES or not _is_scalar(left.scale):
        return None
    if len(inputs) > 2 and inputs[2].dtype != ir.DataType.INT32:
        return None
    default = np.zeros((), dtype.numpy())
    if node.op_type in _BINARY:
        run = _binary(node, right, dtype, default)
    else:
        run = _PRODUCTS[node.op_type](node, right, options, default)
    if run is None:
        return None
    values = [left.stored, left.scale, left.zero, right.stored, right.scale, right.zero, scale, zero]
    if len(inputs) > 2:
        values.append(inputs[2].stored)
    return Replacement(run, values, quantize.outputs[0])


def _conv(node: ir.Node, right: _Quantized, options: Options, default: Array) -> Any:
    if not _is_scalar(right.scale) and right.axis != 0:
        return None
    attributes = plain_attributes(node.attributes)
    assert attributes is not None
    function = BUILDERS["QLinearConv"](Spec("QLinearConv", 10, attributes, (True,) * 8, 1, options=options))

    def run(x: Array, xs: Array, xz: Any, w: Array, ws: Array, wz: Any, ys: Array, yz: Any, bias: Any = None) -> Array:
        zero = np.zeros((), w.dtype) if wz is None else wz
        result: Array = function(x, xs, xz, w, ws, zero, ys, default if yz is None else yz, bias)
        return result

    return run


def _matmul(node: ir.Node, right: _Quantized, options: Options, default: Array) -> Any:
    if not _is_scalar(right.scale) and right.axis != -1 and right.axis != _rank(right.stored) - 1:
        return None
    function = BUILDERS["QLinearMatMul"](Spec("QLinearMatMul", 10, {}, (True,) * 8, 1, options=options))

    def run(x: Array, xs: Array, xz: Any, w: Array, ws: Array, wz: Any, ys: Array, yz: Any) -> Array:
        zero = np.zeros((), w.dtype) if wz is None else wz
        result: Array = function(x, xs, xz, w, ws, zero, ys, default if yz is None else yz)
        return result

    return run


def _gemm(node: ir.Node, right: _Quantized, options: Options, default: Array) -> Any:
    transposed = bool(ir.attribute(node, "transB", 0))
    if ir.attribute(node, "transA", 0) or ir.attribute(node, "alpha", 1.0) != 1 or ir.attribute(node, "beta", 1.0) != 1:
        return None
    if not _is_scalar(right.scale) and right.axis % 2 != (0 if transposed else 1):
        return None

    def run(x: Array, xs: Array, xz: Any, w: Array, ws: Array, wz: Any, ys: Array, yz: Any, bias: Any = None) -> Array:
        columns, rows = x.T[None], (w if transposed else w.T)[..., None]  # a convolution over the rows of x
        y_zero = default if yz is None else yz.reshape(())
        y = kernels.conv_integer(
            columns,
            rows,
            zero_of(xz),
            0 if wz is None else wz,
            None if bias is None else np.broadcast_to(bias.ravel(), rows.shape[0]),
            strides=[1],
            dilations=[1],
            pads=[0, 0],
            scale=combined_scale(xs, ws, ys).ravel(),
            y_zero=y_zero,
            saturate=options.saturate,
            threads=options.threads,
        )
        return np.ascontiguousarray(y[0].T)

    return run


def _binary(node: ir.Node, right: _Quantized, dtype: ir.DataType, default: Array) -> Any:
    if right.dtype != dtype or not _is_scalar(right.scale):
        return None
    function = _BINARY[node.op_type]

    def run(
        a: Array, a_scale: Array, a_zero: Any, b: Array, b_scale: Array, b_zero: Any, scale: Array, zero: Any
    ) -> Array:
        return function(a, a_scale, a_zero, b, b_scale, b_zero, scale, default if zero is None else zero)

    return run


_PRODUCTS = {"Conv": _conv, "MatMul": _matmul, "Gemm": _gemm}
_BINARY = {"Add": quantized_sum, "Mul": quantized_product}


def _only_producer(value: ir.Value | None, wanted: set[str]) -> ir.Node | None:
    """The producer of a value that has one use and that nobody asked for."""
    if value is None or value.name in wanted or value.is_graph_output() or len(value.uses()) != 1:
        return None
    return value.producer()


def _dequantized(value: ir.Value | None) -> _Quantized | None:
    node = None if value is None else value.producer()
    if node is None or node.op_type != "DequantizeLinear" or node.domain not in ("", "ai.onnx") or _other(node):
        return None
    stored, scale = node.inputs[0], node.inputs[1]
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if stored is None or scale is None:
        return None
    dtype = _stored_dtype(stored) or (None if zero is None else _stored_dtype(zero))
    return _Quantized(stored, scale, zero, dtype, ir.attribute(node, "axis", 1))


def _other(node: ir.Node) -> bool:
    """Whether a node quantizes in blocks or to a type that no integer operator takes."""
    return bool(ir.attribute(node, "block_size", 0) or ir.attribute(node, "output_dtype", 0) not in (0, 1, 2, 3))


def _stored_dtype(value: ir.Value) -> ir.DataType | None:
    known = ir.constant_dtype(value) or value.dtype
    node = value.producer()
    if known is None and node is not None and node.op_type == "QuantizeLinear":
        zero = node.inputs[2] if len(node.inputs) > 2 else None
        return ir.DataType.UINT8 if zero is None else _stored_dtype(zero)
    return known


def _is_scalar(value: ir.Value) -> bool:
    shape = ir.constant_shape(value)
    if shape is None and value.shape is not None and all(isinstance(d, int) for d in value.shape):
        shape = value.shape.numpy()
    return shape is not None and int(np.prod(shape, dtype=np.int64)) == 1


def _rank(value: ir.Value) -> int:
    return 0 if value.shape is None else len(value.shape)


def _saturates(node: ir.Node, scale: ir.Value, zero: ir.Value | None, dtype: ir.DataType) -> bool:
    """Whether a Relu or Clip changes nothing that the saturation after it does not change."""
    factor, offset = ir.constant(scale), None if zero is None else ir.constant(zero)
    if factor is None or (zero is not None and offset is None):
        return False
    limits = np.iinfo(dtype.numpy())
    middle = 0 if offset is None else int(offset.reshape(()))
    low, high = (limits.min - middle) * float(factor.reshape(())), (limits.max - middle) * float(factor.reshape(()))
    if node.op_type == "Relu":
        return low >= 0
    bounds: list[float | None] = [ir.attribute(node, "min", None), ir.attribute(node, "max", None)]
    for i, value in enumerate(node.inputs[1:3]):
        array = None if value is None else ir.constant(value)
        if value is not None and array is None:
            return False
        bounds[i] = None if array is None else float(array.reshape(()))
    return (bounds[0] is None or low >= bounds[0]) and (bounds[1] is None or high <= bounds[1])


__all__ = ["integer_groups"]
