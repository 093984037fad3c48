"""The integer kernels as functions of arrays; see `kernels`."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lwgraph.arrays import Array
from lwgraph.runtime import kernels_numpy
from lwgraph.runtime.backend import plain, run
from lwgraph.runtime.geometry import Convolution, Product

_KINDS = {np.dtype(np.int32): 0, np.dtype(np.uint8): 1, np.dtype(np.int8): 2}


def _is_byte(*arrays: Array) -> None:
    for array in arrays:
        if array.dtype not in (np.uint8, np.int8):
            raise ValueError(f"integer product of {array.dtype}: uint8 and int8 are possible")


def _spread(values: Any, size: int, dtype: Any, what: str) -> Array:
    """A scalar or one value per channel, as (size,)."""
    array = np.asarray(values).astype(dtype).ravel()
    if array.size not in (1, size):
        raise ValueError(f"{what} has {array.size} values; 1 or {size} are possible")
    return np.full(size, array[0], dtype) if array.size == 1 else np.ascontiguousarray(array)


def conv_integer(
    x: Array,
    w: Array,
    x_zero: int = 0,
    w_zero: Any = 0,
    bias: Array | None = None,
    *,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    group: int = 1,
    scale: Any = None,
    y_zero: Any = None,
    saturate: bool = False,
    threads: int = 1,
) -> Array:
    """Convolution of bytes (uint8 or int8 each), sums in wrapping int32, padding with x_zero.

    With scale (one or one per output channel) and y_zero (uint8 or int8): the sums plus bias (int32) times scale,
    rounded half to even, plus y_zero, saturated; otherwise the int32 sums.
    saturate: clamp the sums of neighbouring products to 16 bits where the weights are signed, as vpmaddubsw does.

    Raises:
        ValueError: shapes, types or sizes are not possible.
    """
    _is_byte(x, w)
    g = Convolution(x, w, strides, dilations, pads, group)
    y = np.empty(g.shape, np.int32 if scale is None else np.asarray(y_zero).dtype)
    if y.dtype not in _KINDS:
        raise ValueError(f"integer output of {y.dtype}: uint8 and int8 are possible")
    outputs = w.shape[0]
    args = (
        plain(x, x.dtype),
        plain(w, w.dtype),
        y,
        g.sizes,
        _spread(w_zero, outputs, np.int32, "w_zero"),
        None if bias is None else plain(bias, np.int32),
        None if scale is None else _spread(scale, outputs, np.float32, "scale"),
        x.dtype == np.int8,
        w.dtype == np.int8,
        _KINDS[y.dtype],
        int(x_zero),
        int(y_zero if scale is not None else 0),
        saturate,
    )
    run("integer_convolve", args, threads, g.work)
    return y


def matmul_integer(
    a: Array,
    b: Array,
    a_zero: Any = 0,
    b_zero: Any = 0,
    *,
    scale: Any = None,
    y_zero: Any = None,
    saturate: bool = False,
    threads: int = 1,
) -> Array:
    """Product of byte matrices, batches broadcast, sums in wrapping int32; scale, y_zero, saturate as `conv_integer`.

    a_zero: one or one per row (M,); b_zero: one or one per column (N,); scale: one, per row (M, 1) or per column (N,).

    Raises:
        ValueError: shapes, types or sizes are not possible.
    """
    _is_byte(a, b)
    p = Product(a, b)
    y = np.empty(p.shape, np.int32 if scale is None else np.asarray(y_zero).dtype)
    if y.dtype not in _KINDS:
        raise ValueError(f"integer output of {y.dtype}: uint8 and int8 are possible")
    rows, per_matrix, columns = p.rows, a.shape[-2], b.shape[-1]
    zeros = _spread(a_zero, per_matrix, np.int32, "a_zero")
    factors = None if scale is None else np.ascontiguousarray(scale, np.float32)
    by_row = factors is not None and factors.ndim == 2 and factors.shape[1] == 1 and factors.size > 1
    by_column = factors is not None and factors.size > 1 and not by_row
    if factors is not None and by_row:
        factors = np.tile(_spread(factors, per_matrix, np.float32, "scale"), rows // max(per_matrix, 1))
    elif factors is not None and by_column:
        factors = _spread(factors, columns, np.float32, "scale")
    b_zeros = np.ascontiguousarray(b_zero, np.int32).ravel()
    args = (
        p.a,
        p.b,
        y,
        p.sizes,
        p.offsets,
        np.tile(zeros, rows // max(per_matrix, 1)),
        b_zeros if b_zeros.size == 1 else _spread(b_zeros, columns, np.int32, "b_zero"),
        factors,
        a.dtype == np.int8,
        b.dtype == np.int8,
        _KINDS[y.dtype],
        int(y_zero if scale is not None else 0),
        by_row,
        by_column,
        saturate,
    )
    run("integer_multiply", args, threads, p.work)
    return y


_STORED = {np.dtype(t): i for i, t in enumerate(kernels_numpy.STORED)}


@functools.lru_cache(4096)
def _affine_sizes(shape: tuple[int, ...], scale: tuple[int, ...], axis: int, block: int) -> Array:
    size = math.prod(scale)
    if len(scale) <= 1 and size == 1 and not (len(scale) == 1 and block):
        return np.array([math.prod(shape), 1, 1, 1, 0, 0, 0], np.int64)
    rank = len(shape)
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of a tensor with {rank} dimensions")
    axis %= rank
    outer, length, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    if block:
        blocks = -(-length // block)
        if scale != (*shape[:axis], blocks, *shape[axis + 1 :]):
            raise ValueError(f"scale {list(scale)} does not give blocks of {block} along axis {axis} of {list(shape)}")
        return np.array([outer, length, inner, block, blocks * inner, inner, 1], np.int64)
    if scale != (length,):
        raise ValueError(
            f"scale {list(scale)} is neither one value nor one per element of axis {axis} of {list(shape)}"
        )
    return np.array([outer, length, inner, 1, 0, 1, 0], np.int64)


def quantize(
    x: Array, scale: Array, zero: Array | None, dtype: Any, *, axis: int = 1, block: int = 0, threads: int = 1
) -> Array:
    """saturate(round half to even(x / scale) + zero) as uint8, int8, uint16 or int16.

    scale, zero: one value, one per element of `axis`, or (block > 0) of x's shape with ceil(size / block) along `axis`.

    Raises:
        ValueError: shapes or types are not possible.
    """
    dtype = np.dtype(dtype)
    if dtype not in _STORED or _STORED[dtype] > 3:
        raise ValueError(f"quantization to {dtype}: uint8, int8, uint16 or int16 are possible")
    sizes = _affine_sizes(x.shape, scale.shape, axis, block)
    zeros = np.zeros(scale.shape, np.int32) if zero is None else plain(zero, np.int32)
    y = np.empty(x.shape, dtype)
    args = (_STORED[dtype], plain(x, np.float32), y, plain(scale, np.float32), zeros, sizes)
    run("quantize", args, threads, x.size)
    return y


def dequantize(x: Array, scale: Array, zero: Array | None, *, axis: int = 1, block: int = 0, threads: int = 1) -> Array:
    """(x - zero) * scale as float32, for uint8, int8, uint16, int16 or int32; scale and zero as for `quantize`.

    Raises:
        ValueError: shapes or types are not possible.
    """
    if x.dtype not in _STORED:
        raise ValueError(f"dequantization of {x.dtype}: uint8, int8, uint16, int16 or int32 are possible")
    sizes = _affine_sizes(x.shape, scale.shape, axis, block)
    zeros = np.zeros(scale.shape, np.int32) if zero is None else plain(zero, np.int32)
    y = np.empty(x.shape, np.float32)
    args = (_STORED[x.dtype], plain(x, x.dtype), y, plain(scale, np.float32), zeros, sizes)
    run("dequantize", args, threads, x.size)
    return y


__all__ = ["conv_integer", "dequantize", "matmul_integer", "quantize"]
