"""Convolution in float32 whose derivatives are computed in bfloat16.

A model whose error is small beside what bfloat16 rounds cannot be trained in it: the rounding of the forward run would
be what is learned. In the backward run a relative error of 2^-9 is noise, far below that of the choice of the batch;
and there two thirds of the work are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from lwgraph.runtime.torch_ops.table import Tensor

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class _RoundedConvolution(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor,
        b: Tensor | None,
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int],
        group: int,
    ) -> Tensor:
        ctx.save_for_backward(x.bfloat16(), w.bfloat16())
        ctx.geometry = (list(strides), list(pads), list(dilations), group)
        ctx.bias = None if b is None else [b.shape[0]]
        return _CONV[w.ndim - 2](x, w, b, strides, pads, dilations, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        strides, pads, dilations, group = ctx.geometry
        needed = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False]
        of_bias = gradient.sum([0, *range(2, gradient.ndim)]) if ctx.bias and ctx.needs_input_grad[2] else None
        of_x, of_w, _ = torch.ops.aten.convolution_backward(
            gradient.bfloat16(), x, w, None, strides, pads, dilations, False, [0] * (w.ndim - 2), group, needed
        )
        return None if of_x is None else of_x.float(), None if of_w is None else of_w.float(), of_bias, *[None] * 4


def convolution(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
) -> Tensor:
    """A Conv (n, c, *spatial) in float32; gradients of x and w have the relative error of bfloat16, that of b none."""
    result: Tensor = _RoundedConvolution.apply(x, w, b, strides, pads, dilations, group)
    return result


__all__ = ["convolution"]
