"""BatchNormalization, LayerNormalization, LpNormalization, Softmax and reductions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lwgraph.arrays import Array
from lwgraph.runtime.backend import HALVES
from lwgraph.runtime.ops.base import Function, Spec, Unsupported, floating, integers, normalized, operator, wider


@operator("BatchNormalization")
def batch_normalization(spec: Spec) -> Function:
    """BatchNormalization at inference; before version 14 that is when it has one output.

    With spatial = 0 (before version 9), each element of a sample has its own statistics.
    """
    if spec.outputs > 1 or spec.get("training_mode", 0):
        raise Unsupported
    epsilon, precise = spec.get("epsilon", 1e-5), spec.options.precise
    per_element = spec.version < 9 and not spec.get("spatial", 1)

    def run(x: Array, scale: Array, bias: Array, mean: Array, variance: Array) -> Array:
        floating(x)
        shape = x.shape[1:] if per_element else (-1,) + (1,) * (x.ndim - 2) if x.ndim > 1 else ()
        factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
        offset = bias.astype(np.float64) - mean.astype(np.float64) * factor
        source = wider(x, precise)
        y: Array = source * factor.astype(source.dtype).reshape(shape)
        y += offset.astype(source.dtype).reshape(shape)
        return y.astype(x.dtype, copy=False)

    return run


@operator("LayerNormalization")
def layer_normalization(spec: Spec) -> Function:
    """LayerNormalization-17 with one output."""
    if spec.outputs > 1:
        raise Unsupported
    axis, epsilon, precise = spec.get("axis", -1), spec.get("epsilon", 1e-5), spec.options.precise

    def run(x: Array, scale: Array, bias: Array | None = None) -> Array:
        floating(x)
        axes = tuple(range(normalized(axis, x.ndim), x.ndim))
        source = wider(x, precise)
        centred = source - source.mean(axes, keepdims=True)
        deviation = np.sqrt(np.square(centred).mean(axes, keepdims=True) + source.dtype.type(epsilon))
        y: Array = (centred / deviation).astype(x.dtype, copy=False) * scale
        return y if bias is None else np.add(y, bias)

    return run


@operator("Softmax", "LogSoftmax")
def softmax(spec: Spec) -> Function:
    """Softmax and LogSoftmax; before version 13 all axes from `axis` on are one."""
    old = spec.version < 13
    axis, precise, logarithm = spec.get("axis", 1 if old else -1), spec.options.precise, spec.op_type == "LogSoftmax"

    def run(x: Array) -> Array:
        floating(x)
        if x.dtype in HALVES and not precise:
            raise Unsupported  # onnx's own rounds after every step, which its tests expect
        at = normalized(axis, x.ndim)
        source = wider(x, precise)
        if old:
            source = source.reshape(*x.shape[:at], -1)
        shifted = source - source.max(at, keepdims=True, initial=-np.inf)
        exponents = np.exp(shifted)
        total = exponents.sum(at, keepdims=True)
        y: Array = shifted - np.log(total) if logarithm else np.divide(exponents, total, out=exponents)
        return y.reshape(x.shape).astype(x.dtype, copy=False)

    return run


@operator("LpNormalization")
def lp_normalization(spec: Spec) -> Function:
    """LpNormalization-1, 22: along one axis, by the sum of absolute values or by the length; 0 stays 0."""
    axis, p, precise = spec.get("axis", -1), spec.get("p", 2), spec.options.precise

    def run(x: Array) -> Array:
        floating(x)
        source = wider(x, precise)
        at = normalized(axis, x.ndim)
        size = np.abs(source).sum(at, keepdims=True) if p == 1 else np.sqrt(np.square(source).sum(at, keepdims=True))
        y: Array = source / np.where(size == 0, 1, size).astype(source.dtype)
        return y.astype(x.dtype, copy=False)

    return run


@operator("CumSum")
def cumulative_sum(spec: Spec) -> Function:
    """CumSum-11, 14: along one axis, whose number runtimes also take as a vector of one element."""
    exclusive, reverse = spec.get("exclusive", 0), spec.get("reverse", 0)

    def run(x: Array, axis: Array) -> Array:
        at = normalized(int(np.asarray(axis).reshape(-1)[0]), x.ndim)
        source = np.flip(x, at) if reverse else x
        y: Array = np.cumsum(source, at, dtype=x.dtype)
        if exclusive:
            y = np.roll(y, 1, at)
            y[(slice(None),) * at + (slice(0, 1),)] = 0
        return np.flip(y, at) if reverse else y

    return run


_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceMean": np.mean,
    "ReduceSum": np.sum,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
}


@operator(*_REDUCTIONS)
def reduction(spec: Spec) -> Function:
    """ReduceMean, ReduceSum, ReduceMax, ReduceMin over floating-point numbers; axes as attribute or input."""
    function, keep = _REDUCTIONS[spec.op_type], bool(spec.get("keepdims", 1))
    sums, precise = spec.op_type in ("ReduceMean", "ReduceSum"), spec.options.precise
    nothing = bool(spec.get("noop_with_empty_axes", 0))

    def run(x: Array, given: Array | None = None) -> Array:
        floating(x)
        axes = spec.get("axes") if given is None else integers(given)
        if not axes and nothing:
            return x
        if x.size == 0:
            raise Unsupported
        chosen = tuple(normalized(axis, x.ndim) for axis in axes) if axes else None
        source = wider(x, precise and sums)
        return np.asarray(function(source, axis=chosen, keepdims=keep)).astype(x.dtype, copy=False)

    return run
