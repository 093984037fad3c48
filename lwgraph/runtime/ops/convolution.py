"""Conv, ConvTranspose, and the integer convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np

from lwgraph.arrays import Array
from lwgraph.runtime import kernels
from lwgraph.runtime.ops.base import Function, Spec, Unsupported, floating, operator, spatial_attributes


def _geometry(spec: Spec, x: Array, w: Array) -> dict[str, Any]:
    rank = x.ndim - 2
    if not 1 <= rank <= 3:
        raise Unsupported
    strides, dilations = spatial_attributes(spec, rank, "strides", "dilations")
    pads = kernels.pads_of(
        spec.get("auto_pad", "NOTSET"), spec.get("pads"), x.shape[2:], w.shape[2:], strides, dilations
    )
    return {"strides": strides, "dilations": dilations, "pads": pads, "group": spec.get("group", 1)}


@operator("Conv")
def conv(spec: Spec) -> Function:
    """Conv-1, 11, 22."""
    options = spec.options

    def run(x: Array, w: Array, bias: Array | None = None) -> Array:
        floating(x)
        return kernels.conv(x, w, bias, **_geometry(spec, x, w), precise=options.precise, threads=options.threads)

    return run


@operator("ConvTranspose")
def conv_transpose(spec: Spec) -> Function:
    """ConvTranspose-1, 11, 22."""
    options = spec.options

    def run(x: Array, w: Array, bias: Array | None = None) -> Array:
        floating(x)
        rank = x.ndim - 2
        if not 1 <= rank <= 3:
            raise Unsupported
        strides, dilations = spatial_attributes(spec, rank, "strides", "dilations")
        extra = list(spec.get("output_padding") or (0,) * rank)
        pads = list(spec.get("pads") or (0,) * 2 * rank)
        shape, auto_pad = spec.get("output_shape"), spec.get("auto_pad", "NOTSET")
        if shape or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            wanted = list(shape)[-rank:] if shape else [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
            total = [
                strides[i] * (x.shape[2 + i] - 1) + extra[i] + (w.shape[2 + i] - 1) * dilations[i] + 1 - wanted[i]
                for i in range(rank)
            ]
            small = [t // 2 for t in total]
            large = [t - s for t, s in zip(total, small, strict=True)]
            pads = [*small, *large] if auto_pad == "SAME_UPPER" else [*large, *small]
        elif auto_pad == "VALID":
            pads = [0] * 2 * rank
        return kernels.conv_transpose(
            x,
            w,
            bias,
            strides=strides,
            dilations=dilations,
            pads=pads,
            output_padding=extra,
            group=spec.get("group", 1),
            precise=options.precise,
            threads=options.threads,
        )

    return run


def zero_of(zero: Array | None) -> int:
    """A per-tensor zero point as an integer, 0 when absent."""
    if zero is None:
        return 0
    if zero.size != 1:
        raise Unsupported
    return int(zero.reshape(()))


def is_byte(*arrays: Array) -> None:
    """Unsupported unless all are uint8 or int8."""
    if any(array.dtype not in (np.uint8, np.int8) for array in arrays):
        raise Unsupported


@operator("ConvInteger")
def conv_integer(spec: Spec) -> Function:
    """ConvInteger-10."""
    options = spec.options

    def run(x: Array, w: Array, x_zero: Array | None = None, w_zero: Array | None = None) -> Array:
        is_byte(x, w)
        return kernels.conv_integer(
            x,
            w,
            zero_of(x_zero),
            0 if w_zero is None else w_zero,
            **_geometry(spec, x, w),
            saturate=options.saturate,
            threads=options.threads,
        )

    return run


@operator("QLinearConv")
def qlinear_conv(spec: Spec) -> Function:
    """QLinearConv-10."""
    options = spec.options

    def run(
        x: Array,
        x_scale: Array,
        x_zero: Array,
        w: Array,
        w_scale: Array,
        w_zero: Array,
        y_scale: Array,
        y_zero: Array,
        bias: Array | None = None,
    ) -> Array:
        is_byte(x, w, y_zero)
        scale = combined_scale(x_scale, w_scale, y_scale)
        return kernels.conv_integer(
            x,
            w,
            zero_of(x_zero),
            w_zero,
            bias,
            **_geometry(spec, x, w),
            scale=scale,
            y_zero=y_zero.reshape(()),
            saturate=options.saturate,
            threads=options.threads,
        )

    return run


def combined_scale(x_scale: Array, w_scale: Array, y_scale: Array) -> Array:
    """The factor of int32 sums, in float32 and in the order in which runtimes compute it."""
    if x_scale.size != 1 or y_scale.size != 1:
        raise Unsupported
    x, w, y = (np.asarray(scale, np.float32) for scale in (x_scale, w_scale, y_scale))
    result: Array = x.reshape(()) * w / y.reshape(())
    return result
