"""Resize, Upsample and GridSample. Resizing is separable: along each axis a few weighted taps per output position."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from lwgraph.arrays import Array
from lwgraph.runtime.torch_ops.table import Compute, Op, Tensor, axes_of, integers, operator


def _source(size: int, out: int, scale: float, mode: str, roi: tuple[float, float]) -> Array:
    """The place of each output position in the input, as ONNX defines coordinate_transformation_mode."""
    x = np.arange(out, dtype=np.float64)
    if mode == "asymmetric":
        return x / scale
    if mode == "align_corners":
        return x * (size - 1) / (out - 1) if out > 1 else np.zeros(out)
    if mode == "tf_crop_and_resize":
        start, end = roi
        if out == 1:
            return np.full(1, 0.5 * (start + end) * (size - 1))
        return start * (size - 1) + x * (end - start) * (size - 1) / (out - 1)
    if mode == "tf_half_pixel_for_nn":
        return (x + 0.5) / scale
    if mode == "pytorch_half_pixel":
        return (x + 0.5) / scale - 0.5 if out > 1 else np.zeros(out)
    if mode == "half_pixel_symmetric":
        adjustment = out / (scale * size)
        return size / 2 * (1 - adjustment) + (x + 0.5) / scale - 0.5
    return (x + 0.5) / scale - 0.5  # half_pixel


def _nearest(x: Array, how: str) -> Array:
    if how == "round_prefer_floor":
        return np.ceil(x - 0.5)
    if how == "round_prefer_ceil":
        return np.floor(x + 0.5)
    return np.floor(x) if how == "floor" else np.ceil(x)


def _kernel(distance: Array, mode: str, a: float) -> Array:
    d = np.abs(distance)
    if mode == "linear":
        tent: Array = np.maximum(0, 1 - d)
        return tent
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    result: Array = np.where(d <= 1, near, np.where(d < 2, far, 0))
    return result


@functools.lru_cache(maxsize=256)
def taps(
    size: int,
    out: int,
    scale: float,
    mode: str,
    coordinates: str,
    nearest: str,
    cubic: float,
    antialias: bool,
    exclude: bool,
    roi: tuple[float, float],
) -> tuple[Array, Array, Array]:
    """Indices (out, T), weights (out, T) of one axis, and which outputs lie outside the input (tf_crop_and_resize)."""
    x = _source(size, out, scale, coordinates, roi)
    outside = (x < 0) | (x > size - 1) if coordinates == "tf_crop_and_resize" else np.zeros(out, bool)
    if mode == "nearest":
        index = np.clip(_nearest(x, nearest), 0, size - 1)[:, None]
        return index.astype(np.int64), np.ones((out, 1)), outside
    stretch = min(scale, 1.0) if antialias else 1.0
    support = (1 if mode == "linear" else 2) / stretch
    first = np.floor(x - support) + 1 if antialias else np.floor(x) + 1 - support
    count = math.ceil(2 * support) + 1 if antialias else int(2 * support)
    index = first[:, None] + np.arange(count)
    weight = _kernel((index - x[:, None]) * stretch, mode, cubic)
    if exclude or antialias:
        weight = np.where((index < 0) | (index > size - 1), 0, weight) if exclude else weight
        weight = weight / weight.sum(1, keepdims=True)
    return np.clip(index, 0, size - 1).astype(np.int64), weight, outside


@operator("Resize", "Upsample")
def _resize(op: Op) -> Compute:
    old = op.node.op_type == "Upsample" or op.version < 11
    mode = op.attr("mode", "nearest")
    coordinates = "asymmetric" if old else op.attr("coordinate_transformation_mode", "half_pixel")
    nearest = "floor" if old else op.attr("nearest_mode", "round_prefer_floor")
    cubic, exclude = op.attr("cubic_coeff_a", -0.75), bool(op.attr("exclude_outside", 0))
    antialias, fill = bool(op.attr("antialias", 0)), op.attr("extrapolation_value", 0.0)
    policy, some = op.attr("keep_aspect_ratio_policy", "stretch"), op.ints("axes")
    if mode not in ("nearest", "linear", "cubic"):
        raise op.refuse(f"mode '{mode}' is not supported")

    def compute(x: Tensor, *rest: Tensor | None) -> Tensor:
        roi_tensor, scale_tensor, size_tensor = (None, *rest, None)[:3] if old else (*rest, None, None, None)[:3]
        axes = axes_of(some, x.ndim) if some is not None else list(range(x.ndim))
        sizes = [x.shape[a] for a in axes]
        if size_tensor is not None and size_tensor.numel():
            outs = integers(size_tensor)
            scales = [o / n for o, n in zip(outs, sizes, strict=True)]
            if policy != "stretch":
                same = (min if policy == "not_larger" else max)(scales)
                scales = [same] * len(axes)
                outs = [math.floor(same * n + 0.5) for n in sizes]
        else:
            scales = op.attr("scales") if scale_tensor is None else scale_tensor.tolist()
            outs = [math.floor(n * s) for n, s in zip(sizes, scales, strict=True)]
        roi = [0.0] * len(axes) + [1.0] * len(axes)
        if roi_tensor is not None and roi_tensor.numel():
            roi = roi_tensor.tolist()
        dtype = x.dtype
        y = x if x.is_floating_point() or mode == "nearest" else x.to(torch.float32)
        lost = None
        for i, axis in enumerate(axes):
            bounds = (roi[i], roi[i + len(axes)])
            if outs[i] == sizes[i] and scales[i] == 1 and coordinates != "tf_crop_and_resize":
                continue
            index, weight, outside = taps(
                sizes[i],
                outs[i],
                scales[i],
                mode,
                coordinates,
                nearest,
                cubic,
                antialias and scales[i] < 1,
                exclude,
                bounds,
            )
            y = _blend(y, axis, index, weight)
            if outside.any():
                mask = torch.from_numpy(outside).reshape([-1] + [1] * (x.ndim - 1 - axis))
                lost = mask if lost is None else lost | mask
        if lost is not None:
            y = torch.where(lost, torch.full((), fill, dtype=y.dtype), y)
        if y.dtype != dtype:
            limits = torch.iinfo(dtype)
            y = y.round().clamp(limits.min, limits.max).to(dtype)
        return y

    return compute


def _blend(x: Tensor, axis: int, index: Array, weight: Array) -> Tensor:
    shape = [-1] + [1] * (x.ndim - 1 - axis)
    total = None
    for t in range(index.shape[1]):
        w = weight[:, t]
        if not w.any():
            continue
        part = x.index_select(axis, torch.from_numpy(np.ascontiguousarray(index[:, t])))
        if not (w == 1).all():
            part = part * torch.from_numpy(w.copy()).to(x.dtype).reshape(shape)
        total = part if total is None else total + part
    assert total is not None
    return total


@operator("GridSample")
def _grid_sample(op: Op) -> Compute:
    names = {name: name for name in ("bilinear", "bicubic", "nearest")} | {"linear": "bilinear", "cubic": "bicubic"}
    mode, align = op.attr("mode", "linear"), bool(op.attr("align_corners", 0))
    padding = op.attr("padding_mode", "zeros")
    if mode not in names:
        raise op.refuse(f"mode '{mode}' is not supported")

    def compute(x: Tensor, grid: Tensor) -> Tensor:
        if x.ndim not in (4, 5) or (x.ndim == 5 and names[mode] == "bicubic"):
            raise op.refuse(f"mode '{mode}' over an input of rank {x.ndim} is not supported")
        return F.grid_sample(x, grid, names[mode], padding, align)

    return compute


@operator("AffineGrid")
def _affine_grid(op: Op) -> Compute:
    align = bool(op.attr("align_corners", 0))
    return lambda theta, size: F.affine_grid(theta, integers(size), align_corners=align)
