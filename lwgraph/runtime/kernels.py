"""The kernels as functions of arrays: the compiled ones, or their NumPy stand-ins where they were not built.

Images are (N, C, *spatial) with one to three spatial dimensions. float16 and bfloat16 arrays are computed in float32
and rounded once at the end. `precise` accumulates float32 in float64. `threads` splits the work; results do not depend
on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lwgraph.arrays import Array
from lwgraph.runtime.backend import BFLOAT16, backend, compiled, compute_type, plain, run
from lwgraph.runtime.geometry import Convolution, Product, check_window, output_size, pads_of, three, window_sizes
from lwgraph.runtime.kernels_integer import conv_integer, dequantize, matmul_integer, quantize


def conv(
    x: Array,
    w: Array,
    bias: Array | None = None,
    *,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    group: int = 1,
    precise: bool = False,
    threads: int = 1,
) -> Array:
    """Convolution of x (N, C, *spatial) with w (O, C / group, *kernel), plus bias (O,).

    pads: all begins, then all ends; negative ones crop.

    Raises:
        ValueError: the shapes do not fit each other, or a size is out of range.
    """
    kind = compute_type(x.dtype, "convolution")
    g = Convolution(x, w, strides, dilations, pads, group)
    y = np.empty(g.shape, kind)
    if bias is not None:
        bias = plain(bias, kind)
    args = (kind.itemsize == 8, precise, plain(x, kind), plain(w, kind), bias, y, g.sizes)
    run("convolve", args, threads, g.work)
    return y if kind == x.dtype else y.astype(x.dtype)


def conv_transpose(
    x: Array,
    w: Array,
    bias: Array | None = None,
    *,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    output_padding: Sequence[int],
    group: int = 1,
    precise: bool = False,
    threads: int = 1,
) -> Array:
    """Transposed convolution of x (N, C, *spatial) with w (C, O / group, *kernel).

    Each phase of the output (positions equal modulo the strides) is a plain convolution with the kernel positions that
    meet it, so no product with an inserted zero is computed.

    Raises:
        ValueError: as raised by `conv`.
    """
    spatial = x.ndim - 2
    if not 1 <= spatial <= 3 or w.ndim != x.ndim:
        raise ValueError(f"convolution of a {x.ndim}-D image with a {w.ndim}-D kernel; both need 3 to 5 dimensions")
    check_window(
        "transposed convolution",
        spatial,
        strides=strides,
        dilations=dilations,
        pads=pads,
        output_padding=output_padding,
    )
    if group < 1 or x.shape[1] != w.shape[0] or w.shape[0] % group:
        raise ValueError(
            f"transposed convolution: {x.shape[1]} channels, kernel {list(w.shape)}, {group} groups do not fit"
        )
    if min((*strides, *dilations, *w.shape[2:])) < 1:
        raise ValueError("kernel sizes, strides and dilations must be at least 1")
    out = [
        max(
            (x.shape[2 + i] - 1) * strides[i]
            + output_padding[i]
            + (w.shape[2 + i] - 1) * dilations[i]
            + 1
            - pads[i]
            - pads[spatial + i],
            0,
        )
        for i in range(spatial)
    ]
    outputs = w.shape[1] * group
    y = np.empty((x.shape[0], outputs, *out), x.dtype)
    y[...] = 0 if bias is None else np.reshape(bias, (1, -1, *[1] * spatial))
    # (C, O/g, *k) -> (O, C/g, *k), taps reversed: the correlation that the transposed convolution is
    kernel = w.reshape(group, w.shape[0] // group, *w.shape[1:]).swapaxes(1, 2).reshape(outputs, -1, *w.shape[2:])
    kernel = np.flip(kernel, tuple(range(2, kernel.ndim)))
    every = (slice(None), slice(None))
    phases = [
        [_phase(r, *axis) for r in range(min(axis[3], axis[0]))]
        for axis in zip(out, w.shape[2:], dilations, strides, pads[:spatial], x.shape[2:], strict=True)
    ]
    for index in np.ndindex(*(len(p) for p in phases)):
        chosen = [axis[i] for axis, i in zip(phases, index, strict=True)]
        if any(phase is None for phase in chosen):
            continue
        taps, places, steps, begins, ends = zip(*(phase for phase in chosen if phase is not None), strict=True)
        chosen_taps, chosen_places = (*every, *taps), (*every, *places)
        part = conv(
            x,
            np.ascontiguousarray(kernel[chosen_taps]),
            bias,
            strides=[1] * spatial,
            dilations=steps,
            pads=[*begins, *ends],
            group=group,
            precise=precise,
            threads=threads,
        )
        y[chosen_places] = part
    return y


def _phase(
    r: int, out: int, kernel: int, dilation: int, stride: int, pad: int, size: int
) -> tuple[slice, slice, int, int, int] | None:
    """One axis of one phase: taps (of the reversed kernel), output places, dilation, begin and end pads; None: no tap.

    Output o = r + stride * q reads input (o + pad - k * dilation) / stride for each k that divides.
    """
    taps = [k for k in range(kernel) if (r + pad - k * dilation) % stride == 0]
    if not taps:
        return None
    step = taps[1] - taps[0] if len(taps) > 1 else 1
    reversed_taps = slice(kernel - 1 - taps[-1], kernel - taps[0], step)
    first = (r + pad - taps[-1] * dilation) // stride  # input read by the first reversed tap at q = 0
    last = (r + pad - taps[0] * dilation) // stride
    count = len(range(r, out, stride))
    gap = step * dilation // stride if len(taps) > 1 else 1
    return reversed_taps, slice(r, None, stride), gap, -first, last + count - size


def pool(
    kind: str,
    x: Array,
    *,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    ceil: bool = False,
    count_pad: bool = False,
    p: float = 2,
    threads: int = 1,
) -> Array:
    """Pooling of x (N, C, *spatial); kind: "max" (also uint8 and int8; NaN wins), "average" or "norm" (p-norm).

    ceil: round the output size up, but start no window in the end padding. count_pad: averages count padding.

    Raises:
        ValueError: the shapes do not fit each other, or the type or a size is out of range.
    """
    spatial = x.ndim - 2
    if not 1 <= spatial <= 3:
        raise ValueError(f"pooling of a {x.ndim}-D image; it needs 3 to 5 dimensions")
    check_window("pooling", spatial, kernel=kernel, strides=strides, dilations=dilations, pads=pads)
    if min((*strides, *dilations, *kernel)) < 1:
        raise ValueError("kernel sizes, strides and dilations must be at least 1")
    number = {"max": 0, "average": 1, "norm": 2}[kind]
    dtype = x.dtype if kind == "max" and x.dtype in (np.uint8, np.int8) else compute_type(x.dtype, "pooling")
    out = []
    for i in range(spatial):
        size = x.shape[2 + i]
        positions = output_size(size, kernel[i], strides[i], dilations[i], pads[i] + pads[spatial + i], ceil)
        if ceil and (positions - 1) * strides[i] >= size + pads[i]:
            positions -= 1
        out.append(max(positions, 0))
    sizes = window_sizes(
        x.shape[2:],
        tuple(out),
        tuple(kernel),
        tuple(strides),
        tuple(dilations),
        tuple(pads[:spatial]),
        (x.shape[0] * x.shape[1],),
        tuple(three(pads[spatial:], 0)),
    )
    y = np.empty((*x.shape[:2], *out), dtype)
    args = (
        number,
        {"f4": "f", "f8": "d", "u1": "B", "i1": "b"}[dtype.str[1:]],
        plain(x, dtype),
        y,
        sizes,
        count_pad,
        float(p),
    )
    run("pool", args, threads, y.size * math.prod(kernel))
    return y if dtype == x.dtype else y.astype(x.dtype)


def shift(x: Array, offsets: Array, *, strides: Sequence[int] | None = None, threads: int = 1) -> Array:
    """y[n, c, o] = x[n, c, o * stride + offsets[c]], 0 outside the image: a depthwise convolution with one tap of 1.

    x (N, C, *spatial); offsets (C, spatial dimensions), integers; the output has ceil(size / stride) positions.

    Raises:
        ValueError: the shapes do not fit each other, or a size is out of range.
    """
    spatial = x.ndim - 2
    strides = [1] * spatial if strides is None else strides
    if not 1 <= spatial <= 3 or len(strides) != spatial or min(strides) < 1 or offsets.shape != (x.shape[1], spatial):
        raise ValueError(f"shift of image {list(x.shape)} by offsets {list(offsets.shape)}, strides {list(strides)}")
    out = [-(-size // step) for size, step in zip(x.shape[2:], strides, strict=True)]
    sizes = np.array([*x.shape[:2], *three(x.shape[2:], 1), *three(out, 1), *three(strides, 1)], np.int64)
    moves = np.zeros((x.shape[1], 3), np.int64)
    moves[:, 3 - spatial :] = offsets
    y = np.empty((*x.shape[:2], *out), x.dtype)
    source = plain(x, x.dtype)
    args = (
        x.dtype.itemsize,
        source.view(np.uint16) if x.dtype == BFLOAT16 else source,
        y.view(np.uint16) if x.dtype == BFLOAT16 else y,
        sizes,
        moves,
    )
    run("shift", args, threads, y.size)
    return y


def matmul(a: Array, b: Array, c: Array | None = None, *, precise: bool = False, threads: int = 1) -> Array:
    """a (..., M, K) times b (..., K, N), batches broadcast, plus c, which must broadcast to the result.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    kind = compute_type(a.dtype, "matrix product")
    p = Product(a if a.dtype == kind else a.astype(kind), b if b.dtype == kind else b.astype(kind))
    y = np.empty(p.shape, kind)
    if c is not None:
        y[...] = c
    run("multiply", (kind.itemsize == 8, precise, c is not None, p.a, p.b, y, p.sizes, p.offsets), threads, p.work)
    return y if kind == a.dtype else y.astype(a.dtype)


__all__ = [
    "backend",
    "compiled",
    "conv",
    "conv_integer",
    "conv_transpose",
    "dequantize",
    "matmul",
    "matmul_integer",
    "output_size",
    "pads_of",
    "pool",
    "quantize",
    "shift",
]
