"""The C kernels' stand-ins in NumPy: the same functions, arguments and results, for machines without a compiler.

Every function writes into its output buffer, checks sizes as the C ones do (ValueError), and does all the work when
`part` is 0 and none otherwise. `sizes` hold, for a window: in, out, kernel, stride, dilation and pad, three each
(depth, height, width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lwgraph.arrays import Array

LIMIT = 1 << 30
STORED = (np.uint8, np.int8, np.uint16, np.int16, np.int32)


def level(name: str | None = None) -> str:
    """The one instruction set there is."""
    if name not in (None, "numpy"):
        raise ValueError(f"this processor has no instruction set '{name}'")
    return "numpy"


def levels() -> tuple[str, ...]:
    """The instruction sets that `level` accepts."""
    return ("numpy",)


def _sizes(sizes: Array, count: int) -> list[int]:
    if sizes.size != count:
        raise ValueError("wrong number of sizes")
    values: list[int] = sizes.ravel().tolist()
    if any(abs(v) > LIMIT for v in values):
        raise ValueError("a size, stride, dilation or pad is above 2^30")
    return values


def _holds(array: Array, shape: Sequence[int], what: str) -> Array:
    if array.size != math.prod(shape):
        raise ValueError(f"{what} has {array.size} elements, not {math.prod(shape)}")
    shaped: Array = array.reshape(tuple(shape))
    return shaped


def _part(part: int, parts: int) -> None:
    if not 0 <= part < parts:
        raise ValueError("part is not in [0, parts)")


class _KernelWindow:
    def __init__(self, values: Sequence[int]) -> None:
        fields = [values[i : i + 3] for i in range(0, 18, 3)]
        self.input, self.output, self.kernel, self.stride, self.dilation, self.pad = fields
        if min(self.input) < 0 or min(self.output) < 0:
            raise ValueError("an image size is negative")
        if min((*self.kernel, *self.stride, *self.dilation)) < 1:
            raise ValueError("kernel sizes, strides and dilations must be at least 1")

    def indices(self, axis: int) -> Array:
        """(kernel, output): the input coordinate each kernel position reads, in the image or not."""
        taps = np.arange(self.kernel[axis], dtype=np.int64)[:, None] * self.dilation[axis]
        return taps + np.arange(self.output[axis], dtype=np.int64) * self.stride[axis] - self.pad[axis]

    def patches(self, image: Array, padding: Any) -> Array:
        """(C, D, H, W) -> (C, *kernel, *output), `padding` outside the image."""
        for axis in range(3):
            at = self.indices(axis)
            inside = (at >= 0) & (at < self.input[axis])
            where = 1 + 2 * axis
            if self.input[axis]:
                image = np.take(image, np.clip(at, 0, self.input[axis] - 1), axis=where)
            else:
                image = np.zeros((*image.shape[:where], *at.shape, *image.shape[where + 1 :]), image.dtype)
            mask = inside.reshape((1,) * where + at.shape + (1,) * (image.ndim - where - 2))
            image = np.where(mask, image, np.asarray(padding, image.dtype))
        gathered: Array = image.transpose(0, 1, 3, 5, 2, 4, 6)
        return gathered


def _convolution(x: Array, w: Array, y: Array, sizes: Array) -> tuple[_KernelWindow, Array, Array, Array]:
    values = _sizes(sizes, 22)
    batch, groups, channels, outputs = values[:4]
    if batch < 0 or groups < 1 or channels < 0 or outputs < 0:
        raise ValueError("batch, groups or channels are negative")
    window = _KernelWindow(values[4:])
    return (
        window,
        _holds(x, (batch, groups, channels, *window.input), "x"),
        _holds(w, (groups, outputs, channels * math.prod(window.kernel)), "w"),
        _holds(y, (batch, groups, outputs, math.prod(window.output)), "y"),
    )


def convolve(
    is_double: bool,
    precise: bool,
    x: Array,
    w: Array,
    bias: Array | None,
    y: Array,
    sizes: Array,
    part: int,
    parts: int,
) -> None:
    """Grouped convolution; sizes: batch, groups, channels and outputs of a group, window."""
    _part(part, parts)
    window, x, w, out = _convolution(x, w, y, sizes)
    if bias is not None:
        bias = _holds(bias, w.shape[:2], "bias")
    if part:
        return
    kind = np.float64 if is_double or precise else np.float32
    for b in range(x.shape[0]):
        for g in range(x.shape[1]):
            columns = window.patches(x[b, g], 0).reshape(w.shape[2], out.shape[3])
            result = w[g].astype(kind) @ columns.astype(kind)
            out[b, g] = result if bias is None else result + bias[g][:, None]


def _multiplication(
    sizes: Array, offsets: Array, a: Array, b: Array, y: Array
) -> tuple[list[Array], list[Array], Array]:
    values = _sizes(sizes, 7)
    if min(values) < 0:
        raise ValueError("sizes and strides of a matrix must not be negative")
    batch, rows, columns, depth, a_row, b_row, b_column = values
    starts = _holds(offsets, (2, batch), "offsets")
    out = _holds(y, (batch, rows, columns), "y")
    lefts, rights = [], []
    for i in range(batch if out.size and depth else 0):
        a_at, b_at = int(starts[0, i]), int(starts[1, i])
        a_span, b_span = (rows - 1) * a_row + depth, (depth - 1) * b_row + (columns - 1) * b_column + 1
        if a_at < 0 or b_at < 0 or a_at + a_span > a.size or b_at + b_span > b.size:
            raise ValueError("a matrix lies outside its buffer")
        strided = np.lib.stride_tricks.as_strided
        lefts.append(strided(a.ravel()[a_at:], (rows, depth), (a_row * a.itemsize, a.itemsize), writeable=False))
        rights.append(
            strided(b.ravel()[b_at:], (depth, columns), (b_row * b.itemsize, b_column * b.itemsize), writeable=False)
        )
    empty = [np.zeros((rows, 0), a.dtype)] * batch, [np.zeros((0, columns), b.dtype)] * batch
    return lefts or empty[0], rights or empty[1], out


def multiply(
    is_double: bool,
    precise: bool,
    accumulate: bool,
    a: Array,
    b: Array,
    y: Array,
    sizes: Array,
    offsets: Array,
    part: int,
    parts: int,
) -> None:
    """Matrix products; sizes: batch, M, N, K, row stride of a, row and column stride of b; offsets: (2, batch)."""
    _part(part, parts)
    lefts, rights, out = _multiplication(sizes, offsets, a, b, y)
    if part or not out.size:
        return
    kind = np.float64 if is_double or precise else np.float32
    for i, (left, right) in enumerate(zip(lefts, rights, strict=True)):
        result = left.astype(kind) @ right.astype(kind)
        out[i] = result + out[i] if accumulate else result


def _clamped(pairs: Array) -> Array:
    return np.clip(pairs, -32768, 32767)


def _sum_products(left: Array, right: Array, saturate: bool) -> Array:
    """(M, K) int64 times (K, N) int64, exact; saturate: sums of adjacent pairs are clamped to 16 bits."""
    if not saturate:
        return (left.astype(np.float64) @ right.astype(np.float64)).astype(np.int64)  # below 2^53: exact
    total = np.zeros((left.shape[0], right.shape[1]), np.int64)
    for k in range(0, left.shape[1], 2):
        total += _clamped(left[:, k : k + 2] @ right[k : k + 2])
    return total


def _requantize(sums: Array, scale: Array, zero: int, signed: bool) -> Array:
    low, high = (-128 - zero, 127 - zero) if signed else (-zero, 255 - zero)
    scaled = sums.astype(np.int32).astype(np.float32) * scale.astype(np.float32)
    return (_round_clamped(scaled, low, high) + zero).astype(np.int8 if signed else np.uint8)


def _round_clamped(values: Array, low: int | Array, high: int | Array) -> Array:
    low = np.asarray(low, np.float32)
    with np.errstate(invalid="ignore"):
        values = np.where(values > low, values, low)  # NaN becomes the lowest value
    return np.rint(np.minimum(values, np.asarray(high, np.float32))).astype(np.int32)


def _wrapped(sums: Array) -> Array:
    return sums.astype(np.uint64).astype(np.uint32).view(np.int32)


def _bytes(array: Array, signed: bool) -> Array:
    return array.view(np.int8 if signed else np.uint8).astype(np.int64)


def _check_output(kind: int, zero: int, scale: Array | None) -> None:
    if kind not in (0, 1, 2):
        raise ValueError("the output is 0 (int32), 1 (uint8) or 2 (int8)")
    low = -128 if kind == 2 else 0
    if kind and not low <= zero <= low + 255:
        raise ValueError("the output's zero point is outside its type")
    if kind and scale is None:
        raise ValueError("scale is missing")


def integer_convolve(
    x: Array,
    w: Array,
    y: Array,
    sizes: Array,
    w_zero: Array,
    bias: Array | None,
    scale: Array | None,
    x_signed: bool,
    w_signed: bool,
    kind: int,
    x_zero: int,
    zero: int,
    saturate: bool,
    part: int,
    parts: int,
) -> None:
    """Convolution of bytes into int32 (kind 0), or scaled into uint8 (1) or int8 (2); sizes as for `convolve`."""
    _part(part, parts)
    _check_output(kind, zero, scale)
    if not (-128 if x_signed else 0) <= x_zero <= (127 if x_signed else 255):
        raise ValueError("the input's zero point is outside its type")
    window, x, w, out = _convolution(x, w, y, sizes)
    zeros = _holds(w_zero, w.shape[:2], "w_zero").astype(np.int64)
    bias = None if bias is None else _holds(bias, w.shape[:2], "bias")
    scale = None if scale is None or not kind else _holds(scale, w.shape[:2], "scale")
    if part:
        return
    saturate = saturate and w_signed
    flip = 128 if saturate and x_signed else 0
    groups, outputs, depth = w.shape
    taps = math.prod(window.kernel)
    for b in range(x.shape[0]):
        for g in range(groups):
            columns = window.patches(_bytes(x[b, g], x_signed), x_zero).reshape(depth, out.shape[3]) + flip
            rows = _bytes(w[g], w_signed)
            if saturate:  # neighbours are the channels of one kernel position
                rows = rows.reshape(outputs, depth // taps, taps).transpose(0, 2, 1).reshape(outputs, depth)
                columns = columns.reshape(depth // taps, taps, -1 if columns.size else 0).transpose(1, 0, 2)
                columns = columns.reshape(depth, out.shape[3])
            sums = _sum_products(rows, columns, saturate)
            p, q = zeros[g][:, None], x_zero + flip
            sums = sums - p * columns.sum(0) - q * rows.sum(1, keepdims=True) + depth * p * q
            if bias is not None:
                sums = sums + bias[g][:, None]
            wrapped = _wrapped(sums)
            out[b, g] = wrapped if scale is None else _requantize(wrapped, scale[g][:, None], zero, kind == 2)


def shift_multiply(x: Array, terms: Array, y: Array, sizes: Array, part: int, parts: int) -> None:
    """y (M, N) = x (M, K) times weights whose terms (T, K, N), +-(s + 1), are +-2^s: by shifts and additions."""
    _part(part, parts)
    m, k, n, t = _sizes(sizes, 4)
    if x.shape != (m, k) or terms.shape != (t, k, n) or y.shape != (m, n):
        raise ValueError("the arrays do not have the sizes that are stated")
    if terms.size and int(np.abs(terms.astype(np.int32)).max()) > 32:
        raise ValueError("a shift is over 31")
    rows = slice(*(m * p // parts for p in (part, part + 1)))
    left, to = x[rows].astype(np.int64), y[rows]
    to[...] = 0
    for term in terms:
        for at, row in enumerate(term):
            shifted = np.left_shift(left[:, at, None], np.maximum(np.abs(row.astype(np.int64)) - 1, 0)[None])
            to += np.where(row > 0, shifted, 0)
            to -= np.where(row < 0, shifted, 0)


def integer_multiply(
    a: Array,
    b: Array,
    y: Array,
    sizes: Array,
    offsets: Array,
    a_zero: Array,
    b_zero: Array,
    scale: Array | None,
    a_signed: bool,
    b_signed: bool,
    kind: int,
    zero: int,
    scale_row: bool,
    scale_column: bool,
    saturate: bool,
    part: int,
    parts: int,
) -> None:
    """Products of byte matrices into int32 (kind 0), or scaled into uint8 (1) or int8 (2); sizes as for `multiply`."""
    _part(part, parts)
    _check_output(kind, zero, scale)
    values = _sizes(sizes, 7)
    if values[4] != values[3] and values[1] > 1:
        raise ValueError("rows of a must follow each other")
    lefts, rights, out = _multiplication(sizes, offsets, a.view(np.uint8), b.view(np.uint8), y)
    rows, columns, depth = values[1:4]
    p = _holds(a_zero, (rows, 1), "a_zero").astype(np.int64)
    q = (b_zero if b_zero.size == 1 else _holds(b_zero, (columns,), "b_zero")).astype(np.int64).reshape(1, -1)
    if scale_row and scale_column:
        raise ValueError("scale varies over rows or over columns")
    if scale is not None and kind:
        shape = (rows, 1) if scale_row else (1, columns) if scale_column else (1, 1)
        scale = _holds(scale, shape, "scale")
    if part or not out.size:
        return
    saturate = saturate and b_signed
    flip = 128 if saturate and a_signed else 0
    for i, (left, right) in enumerate(zip(lefts, rights, strict=True)):
        u, v = _bytes(np.ascontiguousarray(left), a_signed) + flip, _bytes(np.ascontiguousarray(right), b_signed)
        sums = _sum_products(u, v, saturate) - (p + flip) * v.sum(0) - q * u.sum(1, keepdims=True)
        wrapped = _wrapped(sums + depth * (p + flip) * q)
        out[i] = wrapped if scale is None or not kind else _requantize(wrapped, scale, zero, kind == 2)


def pool(
    kind: int, kind_of_element: str, x: Array, y: Array, sizes: Array, count_pad: bool, p: float, part: int, parts: int
) -> None:
    """Maximum (kind 0; NaN wins), average (1) or p-norm (2); sizes: channels, window, padding after the image."""
    _part(part, parts)
    values = _sizes(sizes, 22)
    window, end = _KernelWindow(values[1:19]), values[19:]
    if values[0] < 0:
        raise ValueError("channels are negative")
    if kind_of_element not in ("f", "d", "B", "b"):
        raise ValueError("the type is none of f, d, B, b")
    if kind and kind_of_element in "Bb":
        raise ValueError("averages and norms are of floating-point numbers")
    if kind not in (0, 1) and not (kind == 2 and p > 0):
        raise ValueError("the norm's p must be above 0")
    x = _holds(x, (values[0], *window.input), "x")
    out = _holds(y, (values[0], *window.output), "y")
    if part or not out.size:
        return
    axes = (1, 2, 3)
    if kind == 0:
        lowest = np.iinfo(x.dtype).min if kind_of_element in "Bb" else -np.inf
        with np.errstate(invalid="ignore"):
            out[...] = window.patches(x, lowest).max(axes)
        return
    patches = window.patches(x, 0).astype(np.float64)
    with np.errstate(all="ignore"):
        if kind == 2:
            out[...] = (np.abs(patches) ** p).sum(axes) ** (1 / p)
            return
        counts = []
        for axis in range(3):
            at = window.indices(axis)
            low, high = (-window.pad[axis], window.input[axis] + end[axis]) if count_pad else (0, window.input[axis])
            counts.append(((at >= low) & (at < high)).sum(0))
        positions = counts[0][:, None, None] * counts[1][:, None] * counts[2]
        out[...] = patches.sum(axes) / positions


def shift(item: int, x: Array, y: Array, sizes: Array, offset: Array, part: int, parts: int) -> None:
    """y[b][c][o] = x[b][c][o * stride + offset[c]], 0 outside; sizes: batch, channels, in, out, stride (three each)."""
    _part(part, parts)
    values = _sizes(sizes, 11)
    if item < 1:
        raise ValueError("the element size is not positive")
    if min(values) < 0 or min(values[8:]) < 1:
        raise ValueError("sizes must not be negative, strides at least 1")
    batch, channels = values[:2]
    offsets = _holds(offset, (channels, 3), "offset")
    if offsets.size and np.abs(offsets).max() > LIMIT:
        raise ValueError("an offset is above 2^30")
    x = _holds(x, (batch, channels, *values[2:5]), "x")
    out = _holds(y, (batch, channels, *values[5:8]), "y")
    if part:
        return
    for c in range(channels):
        pads = [-int(v) for v in offsets[c]]
        window = _KernelWindow([*values[2:5], *values[5:8], 1, 1, 1, *values[8:], 1, 1, 1, *pads])
        out[:, c] = window.patches(x[:, c], 0).reshape(batch, *values[5:8])


def _affine(
    x: Array, y: Array, kind: int, scale: Array, zero: Array, sizes: Array, last_kind: int
) -> tuple[Array, Array, Array, Array] | None:
    values = _sizes(sizes, 7)
    if not 0 <= kind <= last_kind:
        raise ValueError("the integer type is unknown")
    outer, axis, inner, block, per_outer, per_block, per_inner = values
    if min(values) < 0 or block < 1:
        raise ValueError("sizes must not be negative, blocks at least 1")
    if per_inner > 1:
        raise ValueError("scales of neighbours must be neighbours")
    source, out = _holds(x, (outer, axis, inner), "x"), _holds(y, (outer, axis, inner), "y")
    if zero.size != scale.size:
        raise ValueError(f"zero point has {zero.size} elements, not {scale.size}")
    if not source.size:
        return None
    at = (
        np.arange(outer)[:, None, None] * per_outer
        + np.arange(axis)[:, None] // block * per_block
        + np.arange(inner) * per_inner
    )
    if at.max() >= scale.size:
        raise ValueError("scale has too few elements")
    return source, out, scale.ravel()[at], zero.ravel()[at]


def quantize(kind: int, x: Array, y: Array, scale: Array, zero: Array, sizes: Array, part: int, parts: int) -> None:
    """saturate(round half to even(x / scale) + zero); NaN gives the lowest value; kind: index into STORED.

    Element (o, a, i) uses scale number o * per_outer + a // block * per_block + i * per_inner; sizes: outer, axis,
    inner, block, per_outer, per_block, per_inner.
    """
    _part(part, parts)
    found = _affine(x, y, kind, scale, zero, sizes, 3)
    if zero.size and np.abs(zero.astype(np.int64)).max() > 65535:
        raise ValueError("a zero point is outside its type")
    if part or found is None:
        return
    source, out, factors, zeros = found
    limits = np.iinfo(STORED[kind])
    with np.errstate(all="ignore"):
        rounded = _round_clamped(source / factors, limits.min - zeros, limits.max - zeros)
    out[...] = rounded + zeros


def dequantize(kind: int, x: Array, y: Array, scale: Array, zero: Array, sizes: Array, part: int, parts: int) -> None:
    """(x - zero) * scale; arguments as for `quantize`."""
    _part(part, parts)
    found = _affine(x, y, kind, scale, zero, sizes, 4)
    if part or found is None:
        return
    source, out, factors, zeros = found
    with np.errstate(all="ignore"):
        out[...] = (source.astype(np.int64) - zeros).astype(np.int32).astype(np.float32) * factors


__all__ = [
    "STORED",
    "convolve",
    "dequantize",
    "integer_convolve",
    "integer_multiply",
    "level",
    "levels",
    "multiply",
    "pool",
    "quantize",
    "shift",
]
