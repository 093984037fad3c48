"""Resize and Upsample by separable interpolation: every axis is a small matrix of weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lwgraph.arrays import Array
from lwgraph.runtime.ops.base import Function, Spec, Unsupported, floating, integers, normalized, operator, wider


def _coordinates(mode: str, size: int, out: int, scale: float) -> Array:
    """Positions of output elements in the input. ONNX takes size * scale, not rounded, for the output's length."""
    o = np.arange(out, dtype=np.float64)
    if mode == "asymmetric":
        return o / scale
    if mode == "align_corners":
        length = size * scale
        return np.zeros(out) if length == 1 else o * (size - 1) / (length - 1)
    if mode == "half_pixel":
        return (o + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return (o + 0.5) / scale - 0.5 if size * scale > 1 else np.zeros(out)
    if mode == "half_pixel_symmetric":
        adjusted = out / (scale * size)
        return size / 2 * (1 - adjusted) + (o + 0.5) / scale - 0.5
    raise Unsupported


def _nearest(mode: str, x: Array) -> Array:
    if mode == "round_prefer_floor":
        return np.ceil(x - 0.5)
    if mode == "round_prefer_ceil":
        return np.floor(x + 0.5)
    return np.floor(x) if mode == "floor" else np.ceil(x)


def _cubic(distance: Array, a: float) -> Array:
    """The weight at a distance (Keys, "Cubic convolution interpolation", 1981)."""
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _weights(mode: str, x: Array, size: int, a: float, exclude: bool) -> tuple[Array, Array]:
    """(taps, out) indices into the input and their weights."""
    base = np.floor(x).astype(np.int64)
    taps = np.arange(2) if mode == "linear" else np.arange(-1, 3)
    at = base + taps[:, None]
    distance = x - at
    weights = 1 - np.abs(distance) if mode == "linear" else _cubic(distance, a)
    if exclude:
        weights = np.where((at >= 0) & (at < size), weights, 0)
        weights = weights / weights.sum(0)
    return np.clip(at, 0, size - 1), weights


@operator("Resize", "Upsample")
def resize(spec: Spec) -> Function:
    """Resize-10 to 19 (nearest, linear, cubic; without antialias and crops), Upsample-1 to 9.

    Resize-10 is Upsample-9, but takes the next pixel where it shrinks. The scales of Upsample are an attribute before
    version 9, those of height and width before version 7.
    """
    shrinks = spec.op_type == "Resize" and spec.version < 11
    upsample = spec.op_type == "Upsample" or shrinks
    if spec.get("antialias", 0):
        raise Unsupported
    mode = spec.get("mode", "nearest")
    mode = "linear" if mode == "bilinear" and upsample else mode
    stated: list[float] | None = None
    if upsample and spec.version < 9:
        stated = spec.get("scales") or [1.0, 1.0, spec.get("height_scale"), spec.get("width_scale")]
    transform = "asymmetric" if upsample else spec.get("coordinate_transformation_mode", "half_pixel")
    rounding = "floor" if upsample else spec.get("nearest_mode", "round_prefer_floor")
    if mode not in ("nearest", "linear", "cubic") or transform == "tf_crop_and_resize":
        raise Unsupported
    if spec.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Unsupported
    a, exclude, axes = spec.get("cubic_coeff_a", -0.75), bool(spec.get("exclude_outside", 0)), spec.get("axes")
    precise = spec.options.precise

    def run(x: Array, *rest: Any) -> Array:
        if mode != "nearest":
            floating(x)
        if stated is not None:
            rest = (np.array(stated, np.float32),)
        scales, sizes = (rest[0], None) if upsample else (*rest[1:], None, None)[:2]
        along = range(x.ndim) if axes is None else [normalized(axis, x.ndim) for axis in axes]
        y = x if mode == "nearest" else wider(x, precise)
        for i, axis in enumerate(along):
            size = x.shape[axis]
            if sizes is not None and sizes.size:
                out = integers(sizes)[i]
                scale = out / size
            else:
                scale = float(scales.ravel()[i])
                out = math.floor(size * scale)
            if out != size or scale != 1:
                y = _along(y, axis, _coordinates(transform, size, out, scale), size)
        return y.astype(x.dtype, copy=False)

    def _along(y: Array, axis: int, x: Array, size: int) -> Array:
        if mode == "nearest":
            nearest = "ceil" if shrinks and len(x) < size else rounding
            return np.take(y, np.clip(_nearest(nearest, x), 0, size - 1).astype(np.int64), axis)
        at, weights = _weights(mode, x, size, a, exclude)
        shape = [1] * y.ndim
        shape[axis] = -1
        total = np.zeros((), y.dtype)
        for index, weight in zip(at, weights, strict=True):
            total = total + np.take(y, index, axis) * weight.astype(y.dtype).reshape(shape)
        return total

    return run
