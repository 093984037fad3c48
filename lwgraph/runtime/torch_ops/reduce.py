"""Reductions, softmax and friends, cumulative sums, sorting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from lwgraph.runtime.torch_ops.table import Compute, Op, Tensor, axes_of, integers, operator


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdim=keep, dtype=x.dtype)
    return x


def _extreme(pick: Compute) -> Callable[[Tensor, list[int], bool], Tensor]:
    def reduce(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if all(x.shape[a] for a in axes):
            return pick(x.to(torch.uint8), axes, keep).to(x.dtype) if x.dtype == torch.bool else pick(x, axes, keep)
        highest = pick is torch.amin  # nothing to reduce: the neutral element
        if x.dtype == torch.bool:
            neutral: Any = highest
        elif x.is_floating_point():
            neutral = float("inf" if highest else "-inf")
        else:
            neutral = torch.iinfo(x.dtype).max if highest else torch.iinfo(x.dtype).min
        shape = [1 if i in axes else n for i, n in enumerate(x.shape) if keep or i not in axes]
        return torch.full(shape, neutral, dtype=x.dtype)

    return reduce


_REDUCE: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceSum": lambda x, axes, keep: torch.sum(x, axes, keep, dtype=x.dtype),
    "ReduceMean": lambda x, axes, keep: _wide(x).mean(axes, keep).to(x.dtype),
    "ReduceMax": _extreme(torch.amax),
    "ReduceMin": _extreme(torch.amin),
    "ReduceProd": _prod,
    "ReduceL1": lambda x, axes, keep: torch.sum(x.abs(), axes, keep, dtype=x.dtype),
    "ReduceL2": lambda x, axes, keep: _wide(torch.sum(x * x, axes, keep, dtype=x.dtype)).sqrt().to(x.dtype),
    "ReduceSumSquare": lambda x, axes, keep: torch.sum(x * x, axes, keep, dtype=x.dtype),
    "ReduceLogSum": lambda x, axes, keep: torch.log(torch.sum(x, axes, keep, dtype=x.dtype)),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keep),
}


def _wide(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.double()


@operator(*_REDUCE)
def _reduce(op: Op) -> Compute:
    function, keep = _REDUCE[op.node.op_type], bool(op.attr("keepdims", 1))
    fixed, noop = op.ints("axes"), bool(op.attr("noop_with_empty_axes", 0))

    def compute(x: Tensor, axes: Tensor | None = None) -> Tensor:
        wanted = integers(axes) if axes is not None else (fixed or [])
        if not wanted:
            if noop:
                return function(x.unsqueeze(0), [0], False)
            wanted = list(range(x.ndim))
            if not wanted:
                return function(x.reshape(1), [0], False)
        return function(x, axes_of(wanted, x.ndim), keep)

    return compute


@operator("ArgMax", "ArgMin")
def _arg(op: Op) -> Compute:
    axis, keep, last = op.attr("axis", 0), bool(op.attr("keepdims", 1)), bool(op.attr("select_last_index", 0))
    largest = op.node.op_type == "ArgMax"

    def compute(x: Tensor) -> Tensor:
        # torch does not promise which of equal elements it takes; ONNX wants the first, or the last.
        best = x == (torch.amax if largest else torch.amin)(x, axis, keepdim=True)
        return x.shape[axis] - 1 - first(best.flip(axis)) if last else first(best)

    def first(mask: Tensor) -> Tensor:
        order = torch.arange(mask.shape[axis], 0, -1).reshape([-1] + [1] * (mask.ndim - 1 - axis % mask.ndim))
        return torch.argmax(mask * order, axis, keepdim=keep)

    return compute


@operator("Softmax", "LogSoftmax", "Hardmax")
def _softmax(op: Op) -> Compute:
    def hardmax(x: Tensor, axis: int) -> Tensor:
        return F.one_hot(torch.argmax(x, axis), x.shape[axis]).movedim(-1, axis).to(x.dtype)

    function: Any = {"Softmax": F.softmax, "LogSoftmax": F.log_softmax, "Hardmax": hardmax}[op.node.op_type]
    if op.version >= 13:
        axis = op.attr("axis", -1)
        return lambda x: function(x, axis)
    first = op.attr("axis", 1)  # before opset 13: over all axes from this one on

    def compute(x: Tensor) -> Tensor:
        at = first + x.ndim if first < 0 else first
        if at == x.ndim - 1:
            return function(x, at)
        return function(x.flatten(at), at).reshape(x.shape)

    return compute


@operator("CumSum", "CumProd")
def _cumulative(op: Op) -> Compute:
    exclusive, reverse = op.attr("exclusive", 0), op.attr("reverse", 0)
    total = torch.cumsum if op.node.op_type == "CumSum" else torch.cumprod
    start = 0 if op.node.op_type == "CumSum" else 1

    def compute(x: Tensor, axis: Tensor) -> Tensor:
        at = int(axis)
        y = x.flip(at) if reverse else x
        if exclusive:
            y = torch.cat([torch.full_like(y.narrow(at, 0, 1), start), y.narrow(at, 0, y.shape[at] - 1)], at)
        y = total(y, at, dtype=x.dtype)
        return y.flip(at) if reverse else y

    return compute


@operator("TopK")
def _top_k(op: Op) -> Compute:
    axis, largest, fixed = op.attr("axis", -1), bool(op.attr("largest", 1)), op.attr("k")

    def compute(x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
        count = fixed if k is None else int(k)
        if count > x.shape[axis]:
            raise op.refuse(f"k={count} is more than the {x.shape[axis]} elements of axis {axis}")
        # A stable sort keeps the lower index first among equals, which ONNX asks and torch.topk does not promise.
        values, where = torch.sort(x, dim=axis, descending=largest, stable=True)
        return values.narrow(axis, 0, count), where.narrow(axis, 0, count)

    return compute
