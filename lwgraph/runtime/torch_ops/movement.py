"""Shapes and movement of data: reshape, transpose, slice, pad, concatenate, gather, scatter."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from lwgraph import ir
from lwgraph.runtime.torch_ops.table import Compute, Op, Tensor, axes_of, integers, operator, simple, to_torch


def _int64(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


@operator("Constant")
def _constant(op: Op) -> Compute:
    array = ir.constant_of(op.node)
    if array is None:
        raise op.refuse("its value is a function's parameter")
    tensor = to_torch(array.numpy())
    if op.precise and tensor.dtype == torch.float32:
        tensor = tensor.double()
    return lambda: tensor


@operator("ConstantOfShape")
def _constant_of_shape(op: Op) -> Compute:
    fill = op.attr("value")
    tensor = torch.zeros((), dtype=torch.float32) if fill is None else to_torch(fill).reshape(())
    if op.precise and tensor.dtype == torch.float32:
        tensor = tensor.double()
    return lambda shape: tensor.expand(integers(shape)).clone()


@operator("Shape")
def _shape(op: Op) -> Compute:
    start, end = op.attr("start", 0), op.attr("end")
    return lambda x: _int64(list(x.shape)[slice(start, end)])


simple(
    Size=lambda x: torch.tensor(x.numel(), dtype=torch.int64),
    Expand=lambda x, shape: x.expand(torch.broadcast_shapes(x.shape, tuple(integers(shape)))),
    NonZero=lambda x: torch.nonzero(x).T.contiguous(),
    Range=lambda start, limit, step: _range(start, limit, step),
)


def _range(start: Tensor, limit: Tensor, step: Tensor) -> Tensor:
    count = max(0, math.ceil((limit.item() - start.item()) / step.item()))
    return (start + torch.arange(count) * step).to(start.dtype)


@operator("Reshape")
def _reshape(op: Op) -> Compute:
    fixed, allow_zero = op.ints("shape"), op.attr("allowzero", 0)

    def compute(x: Tensor, shape: Tensor | None = None) -> Tensor:
        wanted = fixed if shape is None else integers(shape)
        assert wanted is not None
        if not allow_zero:
            wanted = [x.shape[i] if n == 0 else n for i, n in enumerate(wanted)]
        if -1 in wanted and 0 in wanted:  # torch calls this ambiguous
            wanted = [0 if n == -1 else n for n in wanted]
        return x.reshape(wanted)

    return compute


@operator("Flatten")
def _flatten(op: Op) -> Compute:
    axis = op.attr("axis", 1)

    def compute(x: Tensor) -> Tensor:
        at = axis + x.ndim if axis < 0 else axis
        return x.reshape(math.prod(x.shape[:at]), math.prod(x.shape[at:]))

    return compute


@operator("Transpose")
def _transpose(op: Op) -> Compute:
    order = op.ints("perm")
    return lambda x: x.permute(order if order is not None else list(range(x.ndim))[::-1])


@operator("Squeeze")
def _squeeze(op: Op) -> Compute:
    fixed = op.ints("axes")

    def compute(x: Tensor, axes: Tensor | None = None) -> Tensor:
        wanted = integers(axes) if axes is not None else fixed
        if wanted is None:
            return x.squeeze()
        drop = axes_of(wanted, x.ndim)
        if any(x.shape[a] != 1 for a in drop):
            raise op.refuse(f"cannot squeeze axes {drop} of shape {list(x.shape)}")
        return x.reshape([n for i, n in enumerate(x.shape) if i not in drop])

    return compute


@operator("Unsqueeze")
def _unsqueeze(op: Op) -> Compute:
    fixed = op.ints("axes")

    def compute(x: Tensor, axes: Tensor | None = None) -> Tensor:
        wanted = integers(axes) if axes is not None else fixed
        assert wanted is not None
        new = set(axes_of(wanted, x.ndim + len(wanted)))
        sizes = iter(x.shape)
        return x.reshape([1 if i in new else next(sizes) for i in range(x.ndim + len(new))])

    return compute


@operator("Concat")
def _concat(op: Op) -> Compute:
    axis = op.attr("axis", 1)
    return lambda *tensors: torch.cat(tensors, axis)


@operator("Split")
def _split(op: Op) -> Compute:
    axis, fixed, count = op.attr("axis", 0), op.ints("split"), len(op.node.outputs)

    def compute(x: Tensor, split: Tensor | None = None) -> Any:
        sizes = integers(split) if split is not None else fixed
        if sizes is None:
            step = -(-x.shape[axis] // count)
            sizes = [max(0, min(step, x.shape[axis] - step * i)) for i in range(count)]
        return tuple(torch.split(x, sizes, axis))

    return compute


@operator("Slice")
def _slice(op: Op) -> Compute:
    fixed = [op.ints(name) for name in ("starts", "ends", "axes")]

    def compute(x: Tensor, *given: Tensor | None) -> Tensor:
        starts, ends, axes, steps = (
            [*(None if t is None else integers(t) for t in given), None, None, None, None][:4]
            if given
            else [*fixed, None]
        )
        assert starts is not None and ends is not None
        axes = axes_of(list(range(len(starts))) if axes is None else axes, x.ndim)
        for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(starts), strict=True):
            chosen = range(x.shape[axis])[slice(start, None if step < 0 and end < -x.shape[axis] else end, step)]
            if step > 0:
                index = [slice(None)] * axis + [slice(chosen.start, chosen.stop, step)]
                x = x[tuple(index)]
            else:
                x = x.index_select(axis, _int64(list(chosen)))
        return x

    return compute


@operator("Pad")
def _pad(op: Op) -> Compute:
    mode, fixed, fill = op.attr("mode", "constant"), op.ints("pads") or op.ints("paddings"), op.attr("value", 0.0)

    def compute(
        x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
    ) -> Tensor:
        flat = integers(pads) if pads is not None else fixed
        assert flat is not None
        where = list(range(x.ndim)) if axes is None else axes_of(integers(axes), x.ndim)
        pairs = {axis: (flat[i], flat[i + len(where)]) for i, axis in enumerate(where)}
        if mode == "constant":
            each = [n for axis in reversed(range(x.ndim)) for n in pairs.get(axis, (0, 0))]
            number = fill if value is None else value.item()
            if x.dtype == torch.bool:
                return F.pad(x.to(torch.uint8), each, value=int(number)).to(torch.bool)
            return F.pad(x, each, value=number) if any(each) else x
        for axis, (before, after) in pairs.items():
            if before < 0 or after < 0:
                keep = x.shape[axis] + min(before, 0) + min(after, 0)
                x, before, after = x.narrow(axis, -min(before, 0), keep), max(before, 0), max(after, 0)
            if before or after:
                x = x.index_select(axis, _outside(torch.arange(-before, x.shape[axis] + after), x.shape[axis], mode))
        return x

    return compute


def _outside(index: Tensor, size: int, mode: str) -> Tensor:
    """The positions that stand for those outside 0..size-1."""
    if mode == "edge":
        return index.clamp(0, size - 1)
    if mode == "wrap":
        return index.remainder(size)
    period = max(2 * (size - 1), 1)
    folded = index.remainder(period)
    return torch.where(folded >= size, period - folded, folded)


@operator("Tile")
def _tile(op: Op) -> Compute:
    return lambda x, repeats: x.repeat(integers(repeats))


@operator("DepthToSpace", "SpaceToDepth")
def _depth_space(op: Op) -> Compute:
    b, mode = op.attr("blocksize"), op.attr("mode", "DCR")

    def to_space(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        shape, order = (
            ((n, b, b, c // b**2, h, w), (0, 3, 4, 1, 5, 2))
            if mode == "DCR"
            else ((n, c // b**2, b, b, h, w), (0, 1, 4, 2, 5, 3))
        )
        return x.reshape(shape).permute(order).reshape(n, c // b**2, h * b, w * b)

    def to_depth(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
        return x.reshape(n, c, h // b, b, w // b, b).permute(order).reshape(n, c * b**2, h // b, w // b)

    return to_space if op.node.op_type == "DepthToSpace" else to_depth


@operator("Trilu")
def _trilu(op: Op) -> Compute:
    pick = torch.triu if op.attr("upper", 1) else torch.tril
    return lambda x, k=None: pick(x, 0 if k is None else int(k))


@operator("EyeLike")
def _eye_like(op: Op) -> Compute:
    k, kind = op.attr("k", 0), op.attr("dtype")

    def compute(x: Tensor) -> Tensor:
        dtype = x.dtype if kind is None else op.dtype(kind)
        rows, columns = torch.arange(x.shape[0])[:, None], torch.arange(x.shape[1])
        return (columns - rows == k).to(dtype)

    return compute


@operator("OneHot")
def _one_hot(op: Op) -> Compute:
    axis = op.attr("axis", -1)

    def compute(indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
        count = int(depth)
        at = axis + indices.ndim + 1 if axis < 0 else axis
        index = indices.to(torch.int64)
        index = torch.where((index < 0) & (index >= -count), index + count, index)
        classes = torch.arange(count).reshape([count] + [1] * (indices.ndim - at))
        hit = index.unsqueeze(at) == classes
        return torch.where(hit, values[1], values[0])

    return compute


@operator("ReverseSequence")
def _reverse_sequence(op: Op) -> Compute:
    time, batch = op.attr("time_axis", 0), op.attr("batch_axis", 1)

    def compute(x: Tensor, lengths: Tensor) -> Tensor:
        y = x.movedim((batch, time), (0, 1))
        steps = torch.arange(y.shape[1])
        reversed_ = lengths[:, None] - 1 - steps
        index = torch.where(reversed_ >= 0, reversed_, steps)
        return y[torch.arange(y.shape[0])[:, None], index].movedim((0, 1), (batch, time))

    return compute
