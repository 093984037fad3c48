"""Pooling."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from lwgraph.runtime.torch_ops.conv import _CONV, Window, window
from lwgraph.runtime.torch_ops.table import Compute, Op, Tensor, operator, simple

_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.ndim))


def _power_mean(x: Tensor, p: int) -> Tensor:
    return x.abs().pow(p).sum(_spatial(x), keepdim=True).pow(1 / p)


simple(
    GlobalAveragePool=lambda x: x.mean(_spatial(x), keepdim=True),
    GlobalMaxPool=lambda x: x.amax(_spatial(x), keepdim=True),
)


@operator("GlobalLpPool")
def _global_lp_pool(op: Op) -> Compute:
    p = op.attr("p", 2)
    return lambda x: _power_mean(x, p)


def _checked(op: Op, x: Tensor, ceil: bool) -> Window:
    kernel = op.ints("kernel_shape")
    if kernel is None or len(kernel) != x.ndim - 2 or not 1 <= len(kernel) <= 3:
        raise op.refuse(f"kernel_shape {kernel} over an input of shape {list(x.shape)}; 1 to 3 spatial axes")
    return window(op, kernel, x.shape[2:], ceil)


def _overhang(view: Window, x: Tensor, sizes: list[int]) -> list[int]:
    """The overhang of the last windows beyond the padded input, along each axis."""
    return [
        max(0, (size - 1) * s + reach - (n + before + after))
        for size, s, reach, n, before, after in zip(
            sizes, view.strides, view.reach, x.shape[2:], view.begin, view.end, strict=True
        )
    ]


@operator("MaxPool")
def _max_pool(op: Op) -> Compute:
    ceil, column_major, wants_index = bool(op.attr("ceil_mode", 0)), op.attr("storage_order", 0), op.gives(1)

    def compute(x: Tensor) -> Any:
        view, dtype = _checked(op, x, ceil), x.dtype
        rank, y = x.ndim - 2, x if x.is_floating_point() else x.to(torch.float32)
        small = all(2 * p <= k for p, k in zip(view.begin, view.kernel, strict=True))
        if view.symmetric and small and not ceil and not wants_index:
            return _MAX[rank](y, view.kernel, view.strides, view.begin, view.dilations).to(dtype)
        sizes = view.sizes(x.shape[2:], ceil)
        over = _overhang(view, x, sizes)
        pads = [n for i in reversed(range(rank)) for n in (view.begin[i], view.end[i] + over[i])]
        padded = F.pad(y, pads, value=float("-inf"))
        pooled, where = _MAX[rank](padded, view.kernel, view.strides, 0, view.dilations, return_indices=True)
        cut = (slice(None), slice(None), *(slice(0, n) for n in sizes))
        pooled, where = pooled[cut].to(dtype), where[cut]
        return (pooled, _flat_index(where, view, x, padded, column_major)) if wants_index else pooled

    return compute


def _flat_index(where: Tensor, view: Window, x: Tensor, padded: Tensor, column_major: int) -> Tensor:
    """Indices into one channel of the padded input -> indices into the whole unpadded tensor, as ONNX counts them."""
    positions: list[Tensor] = []
    for size, before in reversed(list(zip(padded.shape[2:], view.begin, strict=True))):
        positions.insert(0, where % size - before)
        where = where // size
    order = list(range(len(positions)))
    flat = torch.zeros_like(where)
    for i in reversed(order) if column_major else order:
        flat = flat * x.shape[2 + i] + positions[i]
    channels = torch.arange(x.shape[0] * x.shape[1]).reshape([*x.shape[:2]] + [1] * len(positions))
    return flat + channels * x.shape[2:].numel()


@operator("AveragePool", "LpPool")
def _average_pool(op: Op) -> Compute:
    ceil, include = bool(op.attr("ceil_mode", 0)), bool(op.attr("count_include_pad", 0))
    p = op.attr("p", 2) if op.node.op_type == "LpPool" else None

    def compute(x: Tensor) -> Tensor:
        view = _checked(op, x, ceil)
        if p is not None:
            return _window_sums(x.abs().pow(p), view, ceil).pow(1 / p)
        small = all(2 * a <= k for a, k in zip(view.begin, view.kernel, strict=True))
        if view.symmetric and small and not ceil and set(view.dilations) == {1}:
            return _AVERAGE[x.ndim - 2](x, view.kernel, view.strides, view.begin, False, include)
        ones = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
        if include:  # the declared padding counts, an overhang of ceil_mode does not
            ones = F.pad(ones, view.flat_pads, value=1)
            bare = Window(view.kernel, view.strides, view.dilations, (0,) * (x.ndim - 2), (0,) * (x.ndim - 2))
            counts = _window_sums(ones, bare, ceil, view.sizes(x.shape[2:], ceil))
        else:
            counts = _window_sums(ones, view, ceil)
        return _window_sums(x, view, ceil) / counts

    return compute


def _window_sums(x: Tensor, view: Window, ceil: bool, sizes: list[int] | None = None) -> Tensor:
    """The sum over each window, zeros outside, as a depthwise convolution with ones."""
    rank, channels = x.ndim - 2, x.shape[1]
    sizes = view.sizes(x.shape[2:], ceil) if sizes is None else sizes
    over = _overhang(view, x, sizes)
    padded = F.pad(x, [n for i in reversed(range(rank)) for n in (view.begin[i], view.end[i] + over[i])])
    ones = torch.ones((channels, 1, *view.kernel), dtype=x.dtype)
    y = _CONV[rank](padded, ones, None, view.strides, 0, view.dilations, channels)
    cut = (slice(None), slice(None), *(slice(0, n) for n in sizes))
    return y[cut]


@operator("MaxUnpool")
def _max_unpool(op: Op) -> Compute:
    kernel = op.ints("kernel_shape") or []
    strides, pads = op.ints("strides") or [1] * len(kernel), op.ints("pads") or [0] * (2 * len(kernel))

    def compute(x: Tensor, index: Tensor, shape: Tensor | None = None) -> Tensor:
        rank = len(kernel)
        natural = [
            *x.shape[:2],
            *((n - 1) * strides[i] - pads[i] - pads[i + rank] + kernel[i] for i, n in enumerate(x.shape[2:])),
        ]
        flat = torch.zeros(torch.Size(natural).numel(), dtype=x.dtype).scatter(0, index.reshape(-1), x.reshape(-1))
        y = flat.reshape(natural)
        if shape is None:
            return y
        wanted = [int(n) for n in shape.tolist()]
        return F.pad(y, [n for i in reversed(range(2, y.ndim)) for n in (0, wanted[i] - natural[i])])

    return compute
