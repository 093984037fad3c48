"""MaxPool, AveragePool, LpPool and the global pools."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from lwgraph.arrays import Array
from lwgraph.runtime import kernels
from lwgraph.runtime.ops.base import (
    Function,
    Spec,
    Unsupported,
    floating,
    integers,
    operator,
    spatial_attributes,
    wider,
)

_KINDS = {"MaxPool": "max", "AveragePool": "average", "LpPool": "norm"}


@operator("MaxPool", "AveragePool", "LpPool")
def pool(spec: Spec) -> Function:
    """MaxPool-1 to 22, AveragePool-1 to 22, LpPool-2 to 22."""
    if spec.op_type == "LpPool" and spec.version < 2:
        raise Unsupported
    kind = _KINDS[spec.op_type]
    kernel = tuple(spec.get("kernel_shape"))

    def run(x: Array) -> Array | tuple[Array, Array]:
        if kind != "max" or x.dtype not in (np.uint8, np.int8):
            floating(x)
        rank = x.ndim - 2
        if not 1 <= rank <= 3:
            raise Unsupported
        strides, dilations = spatial_attributes(spec, rank, "strides", "dilations")
        auto_pad = spec.get("auto_pad", "NOTSET")
        pads = kernels.pads_of(auto_pad, spec.get("pads"), x.shape[2:], kernel, strides, dilations)
        y = kernels.pool(
            kind,
            x,
            kernel=kernel,
            strides=strides,
            dilations=dilations,
            pads=pads,
            ceil=bool(spec.get("ceil_mode", 0)) and not auto_pad.startswith("SAME"),
            count_pad=bool(spec.get("count_include_pad", 0)),
            p=spec.get("p", 2),
            threads=spec.options.threads,
        )
        if spec.outputs == 1:
            return y
        windows = kernel, strides, dilations, pads
        return y, _places(x, y.shape[2:], *windows, by_columns=bool(spec.get("storage_order", 0)))

    return run


def _places(
    x: Array,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    by_columns: bool,
) -> Array:
    """Where in `x`, as if it were flat, the largest element of each window lies; the first of equals.

    Args:
        x: (n, c, *spatial).
        sizes: of the output's spatial axes.
        pads: all first ones, then all last ones.
        by_columns: whether the spatial axes count the other way round, the first one fastest.
    """
    spatial, rank = x.shape[2:], len(kernel)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    needed = [(o - 1) * s + r for o, s, r in zip(sizes, strides, reach, strict=True)]
    ends = [max(0, n - p - size) for n, p, size in zip(needed, pads, spatial, strict=False)]
    around = list(zip(pads[:rank], ends, strict=True))
    at = np.arange(math.prod(spatial)).reshape(spatial, order="F" if by_columns else "C")

    def windows(array: Array, fill: float) -> Array:
        leading = array.ndim - rank
        padded = np.pad(array, [(0, 0)] * leading + around, constant_values=fill)
        seen = np.lib.stride_tricks.sliding_window_view(padded, reach, tuple(range(leading, array.ndim)))
        steps = [slice(0, (o - 1) * s + 1, s) for o, s in zip(sizes, strides, strict=True)]
        taken = seen[(slice(None),) * leading + (*steps, *(slice(None, None, d) for d in dilations))]
        return taken.reshape(*taken.shape[: leading + rank], -1)

    least = -np.inf if x.dtype.kind not in "iu" else np.iinfo(x.dtype).min
    best = windows(x, least).argmax(axis=-1)
    inside = np.take_along_axis(np.broadcast_to(windows(at, -1), (*best.shape, math.prod(kernel))), best[..., None], -1)
    planes = np.arange(math.prod(x.shape[:2])).reshape(*x.shape[:2], *[1] * rank)
    return inside[..., 0] + planes * math.prod(spatial)


@operator("MaxRoiPool")
def max_roi_pool(spec: Spec) -> Function:
    """MaxRoiPool-1, 22: the largest element in each of the cells of a region."""
    rows, columns = spec.get("pooled_shape")
    scale = spec.get("spatial_scale", 1.0)

    def run(x: Array, rois: Array) -> Array:
        floating(x, rois)
        y = np.zeros((len(rois), x.shape[1], rows, columns), x.dtype)
        for roi, out in zip(rois, y, strict=True):
            image = x[int(roi[0])]
            corners = np.round(roi[1:].astype(np.float32) * np.float32(scale)).astype(int)
            spans = [_cells(corners[k], corners[k + 2], n, image.shape[2 - k]) for k, n in ((1, rows), (0, columns))]
            for i, (top, bottom) in enumerate(spans[0]):
                for j, (left, right) in enumerate(spans[1]):
                    if top < bottom and left < right:
                        out[:, i, j] = image[:, top:bottom, left:right].max(axis=(1, 2))
        return y

    return run


def _cells(first: int, last: int, count: int, size: int) -> list[tuple[int, int]]:
    """The bounds of the cells along one axis, within it; they may overlap by one element."""
    each = np.float32(max(last - first + 1, 1)) / np.float32(count)
    ends = np.arange(count + 1, dtype=np.float32) * each
    bounds = [(int(np.floor(a)) + first, int(np.ceil(b)) + first) for a, b in pairwise(ends)]
    return [(min(max(a, 0), size), min(max(b, 0), size)) for a, b in bounds]


def _spatial(x: Array) -> Array:
    floating(x)
    return x.reshape(*x.shape[:2], -1)


def _with_ones(y: Array, x: Array) -> Array:
    return y.astype(x.dtype, copy=False).reshape(*x.shape[:2], *[1] * (x.ndim - 2))


@operator("MaxUnpool")
def max_unpool(spec: Spec) -> Function:
    """MaxUnpool-9, 11, 22: each value at its place in the whole output.

    ONNX counts places in the size that kernel and strides say, runtimes in the size that is given. They are read as
    ONNX does where that is possible, by onnx's own operator.
    """
    kernel = spec.get("kernel_shape")

    def run(x: Array, places: Array, given: Array | None = None) -> Array:
        rank = x.ndim - 2
        strides, pads = spec.get("strides") or (1,) * rank, spec.get("pads") or (0,) * (2 * rank)
        sizes = [(x.shape[k + 2] - 1) * strides[k] - pads[k] - pads[rank + k] + kernel[k] for k in range(rank)]
        if given is not None and places.max(initial=0) < math.prod((*x.shape[:2], *sizes)):
            raise Unsupported
        y = np.zeros((*x.shape[:2], *sizes) if given is None else integers(given), x.dtype)
        y.reshape(-1)[places.reshape(-1)] = x.reshape(-1)
        return y

    return run


@operator("GlobalAveragePool")
def global_average(spec: Spec) -> Function:
    """GlobalAveragePool-1, 22."""
    precise = spec.options.precise
    return lambda x: _with_ones(wider(_spatial(x), precise).mean(2), x)


@operator("GlobalMaxPool")
def global_max(spec: Spec) -> Function:
    """GlobalMaxPool-1, 22."""
    return lambda x: _with_ones(_spatial(x).max(2), x)


@operator("GlobalLpPool")
def global_norm(spec: Spec) -> Function:
    """GlobalLpPool-2, 22."""
    if spec.version < 2:
        raise Unsupported
    p = spec.get("p", 2)
    return lambda x: _with_ones((np.abs(_spatial(x)).astype(np.float64) ** p).sum(2) ** (1 / p), x)
