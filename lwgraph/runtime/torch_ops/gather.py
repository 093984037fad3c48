"""Gather and scatter in all their forms."""

from __future__ import annotations

from typing import Any

import torch

from lwgraph.runtime.torch_ops.table import Compute, Op, Tensor, operator

_HOW = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _positive(index: Tensor, size: int) -> Tensor:
    index = index.to(torch.int64)
    return torch.where(index < 0, index + size, index)


@operator("Gather")
def _gather(op: Op) -> Compute:
    axis = op.attr("axis", 0)

    def compute(x: Tensor, index: Tensor) -> Tensor:
        at = axis + x.ndim if axis < 0 else axis
        picked = x.index_select(at, _positive(index, x.shape[at]).reshape(-1))
        return picked.reshape(x.shape[:at] + index.shape + x.shape[at + 1 :])

    return compute


@operator("GatherElements")
def _gather_elements(op: Op) -> Compute:
    axis = op.attr("axis", 0)
    return lambda x, index: torch.gather(x, axis, _positive(index, x.shape[axis]))


def _along(shape: Any, index: Tensor) -> tuple[Tensor, ...]:
    """The last axis of `index` as one index tensor per leading axis of `shape`."""
    return tuple(_positive(index[..., i], shape[i]) for i in range(index.shape[-1]))


@operator("GatherND")
def _gather_nd(op: Op) -> Compute:
    batch = op.attr("batch_dims", 0)

    def compute(x: Tensor, index: Tensor) -> Tensor:
        if not batch:
            return x[_along(x.shape, index)]
        lead = x.shape[:batch]
        flat_x, flat_i = x.reshape((-1, *x.shape[batch:])), index.reshape((-1, *index.shape[batch:]))
        rows = torch.arange(flat_x.shape[0]).reshape([-1] + [1] * (flat_i.ndim - 2))
        where = (rows, *_along(flat_x.shape[1:], flat_i))
        picked = flat_x[where]
        return picked.reshape(lead + picked.shape[1:])

    return compute


@operator("ScatterElements", "Scatter")
def _scatter_elements(op: Op) -> Compute:
    axis, how = op.attr("axis", 0), op.attr("reduction", "none")

    def compute(x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        where = _positive(index, x.shape[axis])
        if how == "none":
            return x.scatter(axis, where, updates)
        return x.scatter_reduce(axis, where, updates, _HOW[how], include_self=True)

    return compute


@operator("ScatterND")
def _scatter_nd(op: Op) -> Compute:
    how = op.attr("reduction", "none")

    def compute(x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        depth = index.shape[-1]
        if how in ("none", "add"):
            return x.index_put(_along(x.shape, index), updates, accumulate=how == "add")
        # One flat row number per slice, then a scatter along the rows.
        row = torch.zeros(index.shape[:-1], dtype=torch.int64)
        for i, part in enumerate(_along(x.shape, index)):
            row = row * x.shape[i] + part
        flat = x.reshape((-1, x.shape[depth:].numel()))
        where = row.reshape(-1, 1).expand(-1, flat.shape[1])
        flat = flat.scatter_reduce(0, where, updates.reshape(where.shape), _HOW[how], include_self=True)
        return flat.reshape(x.shape)

    return compute


@operator("Compress")
def _compress(op: Op) -> Compute:
    axis = op.attr("axis")

    def compute(x: Tensor, condition: Tensor) -> Tensor:
        x, at = (x.reshape(-1), 0) if axis is None else (x, axis)
        return x.index_select(at, torch.nonzero(condition).reshape(-1))

    return compute
