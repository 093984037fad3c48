"""Quantization. Rounding has the gradient of the identity and clamping that of a clamp (straight-through estimation).

Bengio et al. 2013, arXiv 1308.3432; with the scale's gradient as in LSQ, Esser et al. 2020, arXiv 1902.08153.
"""

from __future__ import annotations

from typing import Any

import torch

from lwgraph import ir
from lwgraph.runtime.torch_ops.conv import window
from lwgraph.runtime.torch_ops.table import LIMITS, Compute, Op, Tensor, operator


class _Round(torch.autograd.Function):  # type: ignore[misc]
    """Round half to even; the gradient passes unchanged."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def round_through(x: Tensor) -> Tensor:
    """x rounded, half to even, with the gradient of x."""
    return _Round.apply(x)


def spread(t: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point (scalar, one per index of `axis`, or one per `block` of it) shaped against `x`."""
    if t.numel() == 1 and t.ndim <= 1:
        return t.reshape(())
    if block:
        return t.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return t.reshape([-1] + [1] * (x.ndim - 1 - axis % x.ndim))


def codes(x: Tensor, scale: Tensor, zero: Tensor | None, limits: tuple[int, int]) -> Tensor:
    """clamp(round(x / scale) + zero) as floats, differentiable; `scale` and `zero` already spread."""
    wide = x.to(scale.dtype) if x.dtype in (torch.bfloat16, torch.float16) else x  # autocast may have narrowed it
    rounded = round_through(wide / scale)
    return torch.clamp(rounded if zero is None else rounded + zero.to(rounded.dtype), *limits)


@operator("QuantizeLinear")
def _quantize(op: Op) -> Compute:
    axis, block = op.attr("axis", 1), op.attr("block_size", 0)
    kind = op.kind(op.node.inputs[2]) if op.has(2) else None
    stated = op.attr("output_dtype", 0)
    kind = kind or op.kind(op.node.outputs[0]) or (ir.DataType(stated) if stated else None)
    if kind is None and op.has(2):
        raise op.refuse("the element type of its zero point is not known")
    kind = kind or ir.DataType.UINT8
    if kind not in LIMITS:
        raise op.refuse(f"quantizing to {kind.name} is not supported")
    limits, dtype = LIMITS[kind], op.dtype(kind)

    def compute(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        wide = x.to(scale.dtype) if not x.is_floating_point() else x
        zero = None if zero is None else spread(zero, x, axis, block)
        found = codes(wide, spread(scale, x, axis, block), zero, limits)
        return found if op.soft else found.to(dtype)

    return compute


@operator("DequantizeLinear")
def _dequantize(op: Op) -> Compute:
    axis, block = op.attr("axis", 1), op.attr("block_size", 0)

    def compute(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        if zero is not None:
            zero = spread(zero, x, axis, block)
            x = x - zero.to(x.dtype) if x.is_floating_point() else x.to(torch.int64) - zero.to(torch.int64)
        return x.to(scale.dtype) * spread(scale, x, axis, block)

    return compute


def _exact(x: Tensor, zero: Tensor | None, axis: int | None = None) -> Tensor:
    """Integers minus their zero point in float64, in which their products and sums are exact."""
    if zero is None:
        return x.double()
    z = zero.double()
    if z.numel() > 1 and axis is not None:
        z = z.reshape([-1] + [1] * (x.ndim - 1 - axis % x.ndim))
    return x.double() - (z if z.numel() > 1 or z.ndim == 0 else z.reshape(()))


def _requantized(op: Op, y: Tensor, scale: Tensor, out_scale: Tensor, zero: Tensor) -> Tensor:
    kind = op.kind(op.node.inputs[7])
    low, high = LIMITS[kind] if kind in LIMITS else (torch.iinfo(zero.dtype).min, torch.iinfo(zero.dtype).max)
    real = torch.round((y * scale / out_scale.double()).to(torch.float32).double()) + zero.double()
    return torch.clamp(real, low, high).to(zero.dtype)


@operator("ConvInteger", "QLinearConv")
def _conv_integer(op: Op) -> Compute:
    group = op.attr("group", 1)

    def convolve(x: Tensor, w: Tensor) -> Tensor:
        view = window(op, w.shape[2:], x.shape[2:])
        padded = torch.nn.functional.pad(x, view.flat_pads)
        kernel = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}[w.ndim - 2]
        return kernel(padded, w, None, view.strides, 0, view.dilations, group)

    def integer(x: Tensor, w: Tensor, xz: Tensor | None = None, wz: Tensor | None = None) -> Tensor:
        return convolve(_exact(x, xz), _exact(w, wz, 0)).to(torch.int32)

    def linear(
        x: Tensor,
        xs: Tensor,
        xz: Tensor,
        w: Tensor,
        ws: Tensor,
        wz: Tensor,
        ys: Tensor,
        yz: Tensor,
        b: Tensor | None = None,
    ) -> Tensor:
        per_channel = [-1] + [1] * (w.ndim - 2)
        y = convolve(_exact(x, xz), _exact(w, wz, 0))
        y = y if b is None else y + b.double().reshape(per_channel)
        scale = xs.double() * ws.double()
        return _requantized(op, y, scale.reshape(per_channel) if scale.numel() > 1 else scale, ys, yz)

    return integer if op.node.op_type == "ConvInteger" else linear


@operator("MatMulInteger", "QLinearMatMul")
def _matmul_integer(op: Op) -> Compute:
    def rows(t: Tensor) -> Tensor:
        return t if t.numel() == 1 else t.unsqueeze(-1) if t.ndim == 1 else t

    def integer(a: Tensor, b: Tensor, az: Tensor | None = None, bz: Tensor | None = None) -> Tensor:
        x = a.double() - (0 if az is None else rows(az).double())
        return torch.matmul(x, b.double() - (0 if bz is None else bz.double())).to(torch.int32)

    def linear(a: Tensor, sa: Tensor, za: Tensor, b: Tensor, sb: Tensor, zb: Tensor, sy: Tensor, zy: Tensor) -> Tensor:
        y = torch.matmul(a.double() - rows(za).double(), b.double() - zb.double())
        return _requantized(op, y, rows(sa).double() * sb.double(), sy, zy)

    return integer if op.node.op_type == "MatMulInteger" else linear
