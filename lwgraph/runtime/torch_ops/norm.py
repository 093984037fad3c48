"""Normalizations."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from lwgraph.runtime.torch_ops.table import Compute, Op, Tensor, operator


def _per_channel(t: Tensor, rank: int) -> Tensor:
    return t.reshape([1, -1] + [1] * (rank - 2))


@operator("BatchNormalization")
def _batch_norm(op: Op) -> Compute:
    epsilon, momentum = op.attr("epsilon", 1e-5), op.attr("momentum", 0.9)
    training = bool(op.attr("training_mode", 0)) if op.version >= 14 else op.gives(1)

    def compute(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Any:
        if not training and not op.mode.batch_statistics:
            return F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)
        y, batch_mean, batch_var = batch_statistics_norm(x, scale, bias, epsilon)
        if not training:
            with torch.no_grad():
                mean.mul_(momentum).add_(batch_mean, alpha=1 - momentum)
                var.mul_(momentum).add_(batch_var, alpha=1 - momentum)
            return y
        running = (mean * momentum + batch_mean * (1 - momentum), var * momentum + batch_var * (1 - momentum))
        return (y, *running)

    return compute


def batch_statistics_norm(x: Tensor, scale: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """x normalized by the batch's own mean and (biased) variance per channel; also returns those two."""
    axes = [0, *range(2, x.ndim)]
    var, mean = torch.var_mean(x, axes, correction=0)
    y = (x - _per_channel(mean, x.ndim)) * torch.rsqrt(_per_channel(var, x.ndim) + epsilon)
    return y * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim), mean, var


@operator("InstanceNormalization")
def _instance_norm(op: Op) -> Compute:
    epsilon = op.attr("epsilon", 1e-5)

    def compute(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        var, mean = torch.var_mean(x, list(range(2, x.ndim)), correction=0, keepdim=True)
        y = (x - mean) * torch.rsqrt(var + epsilon)
        return y * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim)

    return compute


@operator("GroupNormalization")
def _group_norm(op: Op) -> Compute:
    epsilon, groups = op.attr("epsilon", 1e-5), op.attr("num_groups")

    def compute(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        if scale.shape[0] != x.shape[1]:  # opset 18: one scale per group
            scale, bias = (t.repeat_interleave(x.shape[1] // groups) for t in (scale, bias))
        return F.group_norm(x, groups, scale, bias, epsilon)

    return compute


@operator("LayerNormalization")
def _layer_norm(op: Op) -> Compute:
    epsilon, axis = op.attr("epsilon", 1e-5), op.attr("axis", -1)

    def compute(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
        axes = list(range(axis % x.ndim, x.ndim))
        wide = x if x.dtype == torch.float64 else x.float()  # stash_type: statistics in float32
        var, mean = torch.var_mean(wide, axes, correction=0, keepdim=True)
        inverse = torch.rsqrt(var + epsilon)
        y = ((wide - mean) * inverse).to(x.dtype) * scale
        y = y if bias is None else y + bias
        return (y, mean, inverse) if op.gives(1) or op.gives(2) else y

    return compute


@operator("RMSNormalization")
def _rms_norm(op: Op) -> Compute:
    epsilon, axis = op.attr("epsilon", 1e-5), op.attr("axis", -1)

    def compute(x: Tensor, scale: Tensor) -> Tensor:
        axes = list(range(axis % x.ndim, x.ndim))
        wide = x if x.dtype == torch.float64 else x.float()
        return (wide * torch.rsqrt((wide * wide).mean(axes, keepdim=True) + epsilon)).to(x.dtype) * scale

    return compute


@operator("LRN")
def _local_response_norm(op: Op) -> Compute:
    size, alpha, beta, bias = op.attr("size"), op.attr("alpha", 1e-4), op.attr("beta", 0.75), op.attr("bias", 1.0)

    def compute(x: Tensor) -> Tensor:
        square = F.pad((x * x).flatten(2).transpose(1, 2), ((size - 1) // 2, size // 2))
        total = square.unfold(-1, size, 1).sum(-1).transpose(1, 2).reshape(x.shape)
        return x / (bias + alpha / size * total) ** beta

    return compute


@operator("LpNormalization")
def _lp_norm(op: Op) -> Compute:
    axis, p = op.attr("axis", -1), op.attr("p", 2)

    def compute(x: Tensor) -> Tensor:
        total = (x.abs() if p == 1 else x * x).sum(axis, keepdim=True)
        empty = total == 0
        total = torch.where(empty, 1, total)  # before the root, whose slope at zero is infinite
        return torch.where(empty, torch.zeros_like(x), x / (total if p == 1 else total.sqrt()))

    return compute


@operator("MeanVarianceNormalization")
def _mean_variance_norm(op: Op) -> Compute:
    axes = op.ints("axes") or [0, 2, 3]

    def compute(x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        return (x - mean) / (var.sqrt() + 1e-9)

    return compute
