"""MaxPool, AveragePool, LpPool and the global pools."""

from __future__ import annotations

import numpy as np

from lwgraph.arrays import Array
from lwgraph.runtime import kernels
from lwgraph.runtime.ops.base import Function, Spec, Unsupported, floating, operator, spatial_attributes, wider

_KINDS = {"MaxPool": "max", "AveragePool": "average", "LpPool": "norm"}


@operator("MaxPool", "AveragePool", "LpPool")
def pool(spec: Spec) -> Function:
    """MaxPool-1 to 22 without indices, AveragePool-1 to 22, LpPool-2 to 22."""
    if spec.outputs > 1 or (spec.op_type == "LpPool" and spec.version < 2):
        raise Unsupported
    kind = _KINDS[spec.op_type]
    kernel = tuple(spec.get("kernel_shape"))

    def run(x: Array) -> Array:
        if kind != "max" or x.dtype not in (np.uint8, np.int8):
            floating(x)
        rank = x.ndim - 2
        if not 1 <= rank <= 3:
            raise Unsupported
        strides, dilations = spatial_attributes(spec, rank, "strides", "dilations")
        auto_pad = spec.get("auto_pad", "NOTSET")
        pads = kernels.pads_of(auto_pad, spec.get("pads"), x.shape[2:], kernel, strides, dilations)
        return kernels.pool(
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

    return run


def _spatial(x: Array) -> Array:
    floating(x)
    return x.reshape(*x.shape[:2], -1)


def _with_ones(y: Array, x: Array) -> Array:
    return y.astype(x.dtype, copy=False).reshape(*x.shape[:2], *[1] * (x.ndim - 2))


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
