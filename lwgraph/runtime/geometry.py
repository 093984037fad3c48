"""Sizes of windows and matrix products as the kernels want them, checked against the arrays."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from lwgraph.arrays import Array
from lwgraph.runtime import kernels_numpy


def three(values: Sequence[int], fill: int) -> list[int]:
    """Pad up to three values with `fill` in front for the missing dimensions."""
    return [fill] * (3 - len(values)) + list(values)


def output_size(size: int, kernel: int, stride: int, dilation: int, pads: int, ceil: bool = False) -> int:
    """Positions of a window along one axis; pads: before plus after."""
    room = size + pads - ((kernel - 1) * dilation + 1)
    return (-(-room // stride) if ceil else room // stride) + 1 if room >= 0 or ceil else 0


def pads_of(
    auto_pad: str,
    pads: Sequence[int] | None,
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    """Explicit pads (all begins, then all ends) of a convolution or pooling, after `auto_pad`."""
    if auto_pad in ("NOTSET", ""):
        return list(pads) if pads else [0] * (2 * len(kernel))
    if auto_pad == "VALID":
        return [0] * (2 * len(kernel))
    begins, ends = [], []
    for size, k, s, d in zip(spatial, kernel, strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small = total // 2
        begins.append(small if auto_pad == "SAME_UPPER" else total - small)
        ends.append(total - begins[-1])
    return begins + ends


@functools.lru_cache(4096)
def window_sizes(
    spatial: tuple[int, ...],
    out: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    begins: tuple[int, ...],
    head: tuple[int, ...],
    tail: tuple[int, ...] = (),
) -> Array:
    """A window (and what a kernel wants before and after it) as one array of int64."""
    fields = [(spatial, 1), (out, 1), (kernel, 1), (strides, 1), (dilations, 1), (begins, 0)]
    sizes = [v for values, fill in fields for v in three(values, fill)]
    return np.array([*head, *sizes, *tail], np.int64)


def check_window(what: str, spatial: int, **fields: Sequence[int]) -> None:
    """ValueError when a field has the wrong number of entries, or one that no kernel accepts."""
    for name, values in fields.items():
        want = 2 * spatial if name == "pads" else spatial
        if len(values) != want:
            raise ValueError(f"{what}: {name} has {len(values)} entries; {spatial} spatial dimensions need {want}")
        if any(abs(v) > kernels_numpy.LIMIT for v in values):
            raise ValueError(f"{what}: {name} {list(values)} has an entry above 2^30")


class Convolution:
    """The geometry of one convolution, checked."""

    def __init__(
        self, x: Array, w: Array, strides: Sequence[int], dilations: Sequence[int], pads: Sequence[int], group: int
    ) -> None:
        spatial = x.ndim - 2
        if not 1 <= spatial <= 3 or w.ndim != x.ndim:
            raise ValueError(f"convolution of a {x.ndim}-D image with a {w.ndim}-D kernel; both need 3 to 5 dimensions")
        check_window("convolution", spatial, strides=strides, dilations=dilations, pads=pads)
        if group < 1 or x.shape[1] != w.shape[1] * group or w.shape[0] % group:
            raise ValueError(
                f"convolution: {x.shape[1]} channels, kernel {list(w.shape)}, {group} groups do not fit each other"
            )
        if min((*strides, *dilations, *w.shape[2:])) < 1:
            raise ValueError("kernel sizes, strides and dilations must be at least 1")
        kernel = w.shape[2:]
        self.out = tuple(
            output_size(x.shape[2 + i], kernel[i], strides[i], dilations[i], pads[i] + pads[spatial + i])
            for i in range(spatial)
        )
        self.shape = (x.shape[0], w.shape[0], *self.out)
        head = (x.shape[0], group, w.shape[1], w.shape[0] // group)
        self.sizes = window_sizes(
            x.shape[2:], self.out, kernel, tuple(strides), tuple(dilations), tuple(pads[:spatial]), head
        )
        self.work = math.prod(self.shape) * math.prod(w.shape[1:])


class Product:
    """Broadcast batches of matrices as offsets into two buffers."""

    def __init__(self, a: Array, b: Array) -> None:
        if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
            raise ValueError(f"matrices {list(a.shape)} and {list(b.shape)} cannot be multiplied")
        self.a = a if a.flags.c_contiguous else np.ascontiguousarray(a)
        transposed = b.ndim == 2 and not b.flags.c_contiguous and b.flags.f_contiguous
        self.b = b if transposed or b.flags.c_contiguous else np.ascontiguousarray(b)
        m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
        if a.ndim == b.ndim == 2:
            self.batch: tuple[int, ...] = ()
            count, starts = 1, _NO_OFFSETS
        elif b.ndim == 2:  # one matrix for all rows: one product
            self.batch = a.shape[:-2]
            m, count, starts = m * math.prod(self.batch), 1, _NO_OFFSETS
        else:
            self.batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
            count = math.prod(self.batch)
            starts = np.array([_offsets(v.shape, self.batch) for v in (a, b)], np.int64).reshape(2, count)
        self.offsets = starts
        self.shape = (*self.batch, a.shape[-2], n)
        self.rows = m
        self.sizes = np.array([count, m, n, k, k, 1 if transposed else n, k if transposed else 1], np.int64)
        self.work = count * m * n * k
        if transposed:
            self.b = self.b.T


_NO_OFFSETS = np.zeros((2, 1), np.int64)


def _offsets(shape: tuple[int, ...], batch: tuple[int, ...]) -> Array:
    count = math.prod(shape[:-2])
    starts = np.arange(count, dtype=np.int64).reshape(shape[:-2]) * (shape[-2] * shape[-1])
    return np.broadcast_to(starts, batch).ravel()
