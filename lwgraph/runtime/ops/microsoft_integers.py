"""Operators of com.microsoft that compute in 8-bit integers, as ONNX Runtime's quantization tools write them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from lwgraph.arrays import Array
from lwgraph.runtime import kernels
from lwgraph.runtime.ops.base import Function, Spec, Unsupported, operator
from lwgraph.runtime.ops.convolution import is_byte
from lwgraph.runtime.ops.microsoft import DOMAIN, projected, standard
from lwgraph.runtime.ops.recurrent import Products, unrolled


def _real(x: Array, scale: Array, zero: Array | None) -> Array:
    """What integers of one grid stand for, as float32."""
    is_byte(x)
    if scale.size != 1 or scale.dtype != np.float32:
        raise Unsupported
    return kernels.dequantize(x, scale.reshape(()), None if zero is None else zero.reshape(()))


def _on_grid(y: Array, scale: Array, zero: Array | None, dtype: Any) -> Array:
    return kernels.quantize(y, scale.reshape(()), None if zero is None else zero.reshape(()), dtype)


def _triples(given: tuple[Array | None, ...]) -> Iterator[Array]:
    """Of (integers, scale, zero point) after each other: what each stands for."""
    for x, scale, zero in zip(*(iter(given),) * 3, strict=True):
        assert x is not None and scale is not None
        yield _real(x, scale, zero)


@operator(f"{DOMAIN}::QLinearAdd", f"{DOMAIN}::QLinearMul")
def qlinear_binary(spec: Spec) -> Function:
    """Sums and products of two tensors."""
    function = np.add if spec.op_type == "QLinearAdd" else np.multiply

    def run(*inputs: Array | None) -> Array:
        a, b = _triples(inputs[:6])
        scale, zero = (*inputs[6:], None)[:2]
        assert inputs[0] is not None and scale is not None
        return _on_grid(function(a, b), scale, zero, inputs[0].dtype)

    return run


@operator(f"{DOMAIN}::QLinearConcat")
def qlinear_concat(spec: Spec) -> Function:
    """Tensors along an axis, each from its own grid."""
    axis = spec.get("axis")

    def run(scale: Array, zero: Array, *inputs: Array | None) -> Array:
        return _on_grid(np.concatenate(list(_triples(inputs)), axis), scale, zero, zero.dtype)

    return run


@operator(f"{DOMAIN}::QLinearWhere")
def qlinear_where(spec: Spec) -> Function:
    """One tensor where a condition holds, another elsewhere."""

    def run(condition: Array, *inputs: Array | None) -> Array:
        a, b = _triples(inputs[:6])
        scale, zero = inputs[6:]
        assert scale is not None and zero is not None
        return _on_grid(np.where(condition, a, b), scale, zero, zero.dtype)

    return run


def _first(x: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def _last(x: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def _channels(spec: Spec, function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return (lambda x: _last(function(_first(x)))) if spec.get("channels_last", 0) else function


def _softmax(spec: Spec) -> Function:
    return standard(spec, "Softmax", spec.get("opset"), axis=spec.get("axis", -1))


_ONE_INPUT: dict[str, Callable[[Spec], Function]] = {
    "QLinearSigmoid": lambda spec: standard(spec, "Sigmoid", 13),
    "QLinearLeakyRelu": lambda spec: standard(spec, "LeakyRelu", 16),
    "QLinearAveragePool": lambda spec: _channels(spec, standard(spec, "AveragePool", 11)),
    "QLinearGlobalAveragePool": lambda spec: _channels(spec, standard(spec, "GlobalAveragePool", 1)),
    "QLinearSoftmax": _softmax,
}


@operator(*(f"{DOMAIN}::{name}" for name in _ONE_INPUT))
def qlinear_one_input(spec: Spec) -> Function:
    """A function of floats between two grids."""
    function = _ONE_INPUT[spec.op_type](spec)

    def run(x: Array, scale: Array, zero: Array | None, y_scale: Array, y_zero: Array | None = None) -> Array:
        return _on_grid(function(_real(x, scale, zero)), y_scale, y_zero, x.dtype)

    return run


@operator(f"{DOMAIN}::QLinearConv")
def qlinear_conv(spec: Spec) -> Function:
    """ONNX's QLinearConv, with channels as the last axis of activations where that is said."""
    function = standard(spec, "QLinearConv", 10)
    if not spec.get("channels_last", 0):
        return function
    return lambda x, *others: _last(function(_first(x), *others))


@operator(f"{DOMAIN}::NhwcMaxPool")
def nhwc_max_pool(spec: Spec) -> Function:
    """MaxPool with channels as the last axis."""
    function = standard(spec, "MaxPool", 12)
    return lambda x: _last(function(_first(x)))


def _product(spec: Spec, a: Array, b: Array, a_zero: Array | None, b_zero: Array | None) -> Array:
    """The int32 product of byte matrices."""
    sums: Array = standard(spec, "MatMulInteger", 10)(a, b, a_zero, b_zero)
    return sums


def _scaled(sums: Array, a_scale: Array, b_scale: Array, bias: Array | None) -> Array:
    if a_scale.size != 1 or b_scale.ndim > 1:
        raise Unsupported
    y: Array = sums.astype(np.float32) * (a_scale.reshape(()) * b_scale)
    return y if bias is None else y + bias


@operator(f"{DOMAIN}::MatMulIntegerToFloat")
def matmul_integer_to_float(spec: Spec) -> Function:
    """A product of integers and its scales; b may have a grid for each column."""

    def run(
        a: Array,
        b: Array,
        a_scale: Array,
        b_scale: Array,
        a_zero: Array | None = None,
        b_zero: Array | None = None,
        bias: Array | None = None,
    ) -> Array:
        return _scaled(_product(spec, a, b, a_zero, b_zero), a_scale, b_scale, bias)

    return run


def _dynamic(x: Array) -> tuple[Array, Array, Array]:
    """Integers of 8 bits with a scale and a zero point by the range of x and 0; of zeros the scale is 1."""
    low, high = np.float32(x.min(initial=0)), np.float32(x.max(initial=0))
    scale = np.asarray((high - low) / np.float32(255) or np.float32(1), np.float32)
    zero = np.asarray(np.clip(np.rint(-low / scale), 0, 255), np.uint8)
    return kernels.quantize(x.astype(np.float32, copy=False), scale, zero, np.uint8), scale, zero


def _dynamic_product(spec: Spec, a: Array, b: Array, b_scale: Array, b_zero: Array | None, bias: Array | None) -> Array:
    given, scale, zero = _dynamic(a)
    return _scaled(_product(spec, given, b, zero, b_zero), scale, b_scale, bias)


@operator(f"{DOMAIN}::DynamicQuantizeMatMul")
def dynamic_quantize_matmul(spec: Spec) -> Function:
    """A product of floats, which are put on a grid of their own range in each run, and integers."""

    def run(a: Array, b: Array, scale: Array, zero: Array | None = None, bias: Array | None = None) -> Array:
        return _dynamic_product(spec, a, b, scale, zero, bias)

    return run


@operator(f"{DOMAIN}::DynamicQuantizeLSTM")
def dynamic_quantize_lstm(spec: Spec) -> Function:
    """LSTM whose weights, transposed, are integers; the whole input has one grid, and so have the states of each step.

    ONNX Runtime on several threads may give parts of a batch grids of their own.
    """
    walk = unrolled(replace(spec, op_type="LSTM"))

    def run(x: Array, w: Array, r: Array, *others: Array | None) -> tuple[Array, ...]:
        w_scale, w_zero, r_scale, r_zero = others[5:]

        def products(d: int, kind: np.dtype[Any]) -> Products:
            def product(a: Array, b: Array, scale: Array, zero: Array | None, bias: Array | None) -> Array:
                one = scale[d].reshape(-1) if scale[d].size > 1 else scale[d].reshape(())
                zeros = None if zero is None else zero[d].reshape(one.shape)
                return _dynamic_product(spec, a, b, one, zeros, bias).astype(kind, copy=False)

            assert w_scale is not None and r_scale is not None
            return (
                lambda steps, bias: product(steps, w[d], w_scale, w_zero, bias),
                r[d],
                lambda h, b: product(h, b, r_scale, r_zero, None),
            )

        return walk(x, products, *others[:5])

    return run


@operator(f"{DOMAIN}::QGemm")
def qgemm(spec: Spec) -> Function:
    """alpha a b + c of integers, c in steps of alpha and both scales, as integers or as floats."""
    alpha, left, right = np.float32(spec.get("alpha", 1.0)), spec.get("transA", 0), spec.get("transB", 0)

    def run(
        a: Array,
        a_scale: Array,
        a_zero: Array,
        b: Array,
        b_scale: Array,
        b_zero: Array,
        c: Array | None = None,
        y_scale: Array | None = None,
        y_zero: Array | None = None,
    ) -> Array:
        a, b = (np.ascontiguousarray(x.T) if turned else x for x, turned in ((a, left), (b, right)))
        sums = _product(spec, a, b, a_zero, b_zero)
        y = _scaled(sums if c is None else sums + c, a_scale, alpha * b_scale, None)
        return y if y_scale is None else _on_grid(y, y_scale, y_zero, np.uint8 if y_zero is None else y_zero.dtype)

    return run


@operator(f"{DOMAIN}::QAttention")
def qattention(spec: Spec) -> Function:
    """Attention whose input and projections are integers; what follows is in floats."""
    if spec.get("do_rotary", 0) or spec.get("past_present_share_buffer", 0):
        raise Unsupported

    def run(
        x: Array,
        w: Array,
        bias: Array,
        scale: Array,
        w_scale: Array,
        mask: Array | None = None,
        zero: Array | None = None,
        w_zero: Array | None = None,
        past: Array | None = None,
    ) -> Any:
        return projected(spec, _scaled(_product(spec, x, w, zero, w_zero), scale, w_scale, bias), mask, past, None)

    return run


def _unpacked(packed: Array, bits: int) -> Array:
    """Integers of 2, 4 or 8 bits along the last axis, the lowest bits of each byte first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    unpacked: Array = values.reshape(*packed.shape[:-1], -1)
    return unpacked


@operator(f"{DOMAIN}::MatMulNBits")
def matmul_n_bits(spec: Spec) -> Function:
    """x wᵀ + bias, where w (N, K) are integers of a few bits with a grid for each block along K."""
    n, k, block, bits = spec.get("N"), spec.get("K"), spec.get("block_size"), spec.get("bits", 4)
    threads, precise = spec.options.threads, spec.options.precise
    if bits not in (2, 4, 8) or spec.get("weight_prepacked", 0):
        raise Unsupported

    def run(
        x: Array,
        w: Array,
        scales: Array,
        zeros: Array | None = None,
        order: Array | None = None,
        bias: Array | None = None,
    ) -> Array:
        if order is not None or w.ndim != 3:
            raise Unsupported
        blocks = -(-k // block)
        levels = _unpacked(w, bits).astype(np.float32).reshape(n, blocks, block)
        if zeros is None:
            middle: Array = np.full((n, blocks), 1 << (bits - 1), np.float32)
        elif zeros.dtype == np.uint8:
            middle = _unpacked(zeros.reshape(n, -1), bits)[:, :blocks].astype(np.float32)
        else:
            middle = zeros.reshape(n, blocks).astype(np.float32)
        factors = scales.reshape(n, blocks, 1).astype(np.float32)
        dense = ((levels - middle[..., None]) * factors).reshape(n, -1)[:, :k].astype(x.dtype)
        return kernels.matmul(x, np.ascontiguousarray(dense.T), bias, precise=precise, threads=threads)

    return run
