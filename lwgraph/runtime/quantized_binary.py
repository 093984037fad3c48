"""Sums and products of 8-bit tensors as ONNX Runtime's x86 kernels compute them, to the last bit.

They work on integers and ratios of scales in float32 with fused multiply-adds, which rounds other ties than
dequantizing both sides, adding and quantizing again: of 9.8 million sums with random scales, 1,232 differ by a step.
What is said here was compared with ONNX Runtime 1.31 over all pairs of bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lwgraph.arrays import Array


def quantized_sum(
    a: Array, a_scale: Array, a_zero: Any, b: Array, b_scale: Array, b_zero: Any, scale: Array, zero: Array
) -> Array:
    """Q(DQ(a) + DQ(b)), uint8 or int8 with numpy's broadcasting; scales and zeros are scalars.

    rint(fma(a, p, fma(b, q, zero - fma(p, a_zero, q b_zero)))) with p and q the inputs' scales over that of the result.
    A side that is constant along the last axis stands for b.
    """
    if _constant_inside(a, b):
        a, a_scale, a_zero, b, b_scale, b_zero = b, b_scale, b_zero, a, a_scale, a_zero
    p, q = (np.float32(np.float32(s.reshape(())) / np.float32(scale.reshape(()))) for s in (a_scale, b_scale))
    first, second = _single(a_zero), _single(b_zero)
    fixed = np.float32(_single(zero) - _fused(first, p, np.float32(q * second)))
    return _stored(_fused(a.astype(np.float32), p, _fused(b.astype(np.float32), q, fixed)), zero)


def quantized_product(
    a: Array, a_scale: Array, a_zero: Any, b: Array, b_scale: Array, b_zero: Any, scale: Array, zero: Array
) -> Array:
    """Q(DQ(a) DQ(b)), in the same way: rint((a - a_zero)(b - b_zero) * ratio + zero), with two roundings to float32."""
    factors = (np.float32(s.reshape(())) for s in (a_scale, b_scale))
    ratio = np.float32(np.multiply(*factors) / np.float32(scale.reshape(())))
    left, right = (x.astype(np.int32) - int(_single(z)) for x, z in ((a, a_zero), (b, b_zero)))
    return _stored((left * right).astype(np.float32) * ratio + _single(zero), zero)


def _constant_inside(x: Array, other: Array) -> bool:
    """Whether `x` has one element where `other` runs over its last axis of more than one."""
    rank = max(x.ndim, other.ndim)
    mine, theirs = ((1,) * (rank - y.ndim) + y.shape for y in (x, other))
    last = next((i for i in range(rank - 1, -1, -1) if mine[i] > 1 or theirs[i] > 1), None)
    return last is not None and mine[last] == 1


def _single(zero: Any) -> np.float32:
    value: np.float32 = np.float32(0 if zero is None else int(np.asarray(zero).reshape(())))
    return value


def _fused(x: Any, factor: Any, term: Any) -> Any:
    """x * factor + term rounded once, for x of 8 bits: the product is exact in float64."""
    return (np.asarray(x, np.float64) * np.float64(factor) + np.asarray(term, np.float64)).astype(np.float32)


def _stored(x: Array, zero: Array) -> Array:
    limits = np.iinfo(zero.dtype)
    return np.asarray(np.clip(np.rint(x), limits.min, limits.max).astype(zero.dtype))


__all__ = ["quantized_product", "quantized_sum"]
