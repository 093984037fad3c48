"""merge-movement: merges neighbours that only move data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.passes.clean.sizes import axes_of
from lwgraph.rewrite import Const, Contract, RewritePass, Rule


@dataclass(frozen=True)
class MergeDataMovement(RewritePass):
    """Merge Transpose of Transpose, Reshape of Reshape, widening Cast and back, and the like into one node or none.

    The inner node may have other users: the outer one then reads past it, and the graph does not grow.
    """

    name = "merge-movement"
    contract = Contract.EXACT
    min_opset = 5  # Reshape takes its target as an input

    def rules(self) -> Sequence[Rule]:
        """One rule for each outer operator."""
        return (
            Rule(self.transposes, self.transpose),
            Rule(self.pattern, self.replace),
            Rule(self.reshapes, self.reshape),
            Rule(self.squeezes, self.squeeze),
            Rule(self.casts, self.cast),
            Rule(self.slices, self.slice),
        )

    def transposes(self, op: Any, x: Any, *, perm: Any) -> Any:
        """A Transpose of anything."""
        return op.Transpose(x, perm=perm)

    def transpose(self, op: Any, x: ir.Value, perm: tuple[int, ...] | None) -> Any:
        """The two permutations as one."""
        inner = _producer(x, "Transpose")
        if inner is None:
            return None
        first = ir.attribute(inner, "perm")
        if first is None and perm is None:
            return inner.inputs[0]
        rank = len(first if first is not None else perm or ())
        first = tuple(reversed(range(rank))) if first is None else tuple(first)
        second = tuple(reversed(range(rank))) if perm is None else perm
        both = tuple(first[axis] for axis in second)
        return inner.inputs[0] if both == tuple(range(rank)) else op.Transpose(inner.inputs[0], perm=both)

    def pattern(self, op: Any, x: Any, shape: Any) -> Any:
        """A Reshape of anything."""
        return op.Reshape(x, shape)

    def replace(self, op: Any, x: ir.Value, shape: Const) -> Any:
        """The outer target alone decides, unless a 0 in it copies a size of the inner result."""
        inner = next((p for kind in ir.RESHAPES if (p := _producer(x, kind)) is not None), None)
        if inner is None:
            return None
        target = shape.numpy().copy()
        for axis in np.flatnonzero(target == 0):
            size = None if x.shape is None else x.shape[int(axis)]
            outer = inner.inputs[0].shape if inner.inputs[0] is not None else None
            if outer is not None and axis < len(outer) and _same(outer[int(axis)], size):
                continue  # the inner node leaves this size where it is
            if not isinstance(size, int) or size == 0:
                return None
            target[axis] = size
        return op.Reshape(inner.inputs[0], shape if (target == shape.numpy()).all() else op.const(target))

    def reshapes(self, op: Any, x: Any, shape: Any) -> Any:
        """A Reshape of anything, to a target that may be computed."""
        return op.Reshape(x, shape, _name="node")

    def reshape(self, op: Any, x: ir.Value, shape: ir.Value, node: ir.Node) -> Any:
        """Axes that are split behind a Transpose are split before it, by the Reshape that is there.

        Exporters transpose the keys of an attention so: (b, h, s, d) -> (b h, s, d) -> (b h, d, s) -> (b, h, d, s); and
        PyTorch's MultiheadAttention makes its heads so: (s, b, h d) -> (s, b h, d) -> (b h, s, d) -> (b, h, s, d).
        """
        middle = _producer(x, "Transpose")
        inner = None if middle is None or middle.inputs[0] is None else _producer(middle.inputs[0], "Reshape")
        source = None if inner is None else inner.inputs[0]
        if middle is None or inner is None or source is None:
            return None
        before, merged, after = source.shape, inner.outputs[0].shape, node.outputs[0].shape
        if before is None or merged is None or after is None or len(after) <= len(merged):
            return None
        perm = ir.attribute(middle, "perm", tuple(reversed(range(len(merged)))))
        pieces = _pieces(list(after), [merged[axis] for axis in perm])
        if pieces is None:
            return None
        order = [piece for axis in range(len(merged)) for piece in pieces[perm.index(axis)]]
        target = _target(list(before), [after[piece] for piece in order])
        if target is None:
            return None
        moved = tuple(order.index(piece) for piece in range(len(order)))
        same = len(target) == len(before) and not any(target)
        return op.Transpose(source if same else op.Reshape(source, op.const(np.array(target, np.int64))), perm=moved)

    def squeezes(self, op: Any, *inputs: Any) -> Any:
        """A Squeeze or Unsqueeze of anything."""
        return op.any_of("Squeeze", "Unsqueeze")(*inputs, _name="node")

    def squeeze(self, op: Any, inputs: tuple[ir.Value, ...], node: ir.Node) -> Any:
        """Undone by its inverse on the same axes."""
        inner = _producer(inputs[0], "Unsqueeze" if node.op_type == "Squeeze" else "Squeeze")
        if inner is None:
            return None
        axes = axes_of(node, ir.constant)
        before = axes_of(inner, ir.constant)
        return inner.inputs[0] if axes and before and sorted(axes) == sorted(before) else None

    def casts(self, op: Any, x: Any, *, to: Any) -> Any:
        """A Cast of anything."""
        return op.Cast(x, to=to)

    def cast(self, op: Any, x: ir.Value, to: int) -> Any:
        """A Cast that loses nothing, and the Cast after it, are one Cast."""
        inner = _producer(x, "Cast")
        source = inner.inputs[0] if inner is not None else None
        if (
            source is None
            or source.dtype is None
            or x.dtype is None
            or to == ir.DataType.STRING
            or not _lossless(source.dtype, x.dtype)
        ):
            return None
        return source if source.dtype == to else op.Cast(source, to=to)

    def slices(self, op: Any, x: Any, *places: Any) -> Any:
        """A Slice of anything."""
        return op.Slice(x, *places)

    def slice(self, op: Any, x: ir.Value, places: tuple[ir.Value | None, ...]) -> Any:
        """Slices along different axes are one."""
        inner = _producer(x, "Slice")
        if inner is None or op.opset < 10 or len(inner.inputs) < 4 or len(places) < 3:
            return None
        first = _slice_table(inner.inputs[1:])
        second = _slice_table(places)
        if first is None or second is None or (first[2] < 0).any() or (second[2] < 0).any():
            return None
        if set(first[2].tolist()) & set(second[2].tolist()):
            return None
        return op.Slice(inner.inputs[0], *(np.concatenate([a, b]) for a, b in zip(first, second, strict=True)))


def _pieces(split: list[Any], whole: list[Any]) -> list[list[int]] | None:
    """The axes of `split` that each axis of `whole` is split into, in order; at most one of these is several.

    What is left when equal sizes are matched from both ends is that one, since no element is lost; so its own size need
    not be known.
    """
    front = 0
    while front < len(whole) - 1 and _same(split[front], whole[front]):
        front += 1
    behind = 0
    while behind < len(whole) - 1 - front and _same(split[-1 - behind], whole[-1 - behind]):
        behind += 1
    if front + behind != len(whole) - 1:
        return None
    last = len(split) - behind
    return [*([axis] for axis in range(front)), list(range(front, last)), *([axis] for axis in range(last, len(split)))]


def _target(before: list[Any], sizes: list[Any]) -> list[int] | None:
    """The target of a Reshape from `before` to `sizes`: 0 where a size stays in its place, else a number, once -1.

    A -1 stands beside numbers only: beside a size that may be zero it could not be divided out.
    """
    target: list[int] = []
    for axis, size in enumerate(sizes):
        if axis < len(before) and _same(before[axis], size):
            target.append(0)
        elif isinstance(size, int) and size > 0:
            target.append(size)
        else:
            target.append(-1)
    if -1 not in target:
        return target
    rest = [size for size, asked in zip(sizes, target, strict=True) if asked != -1]
    if len(rest) < len(sizes) - 1 or not all(isinstance(size, int) and size > 0 for size in rest):
        return None
    return target


def _slice_table(places: Sequence[ir.Value | None]) -> list[Any] | None:
    """Starts, ends, axes and steps as vectors, when they are constants."""
    found = [ir.constant(value) for value in places]
    if any(a is None for a in found[:3]) or (len(places) > 3 and places[3] is not None and found[3] is None):
        return None
    table = [np.asarray(a, np.int64).reshape(-1) for a in found if a is not None]
    return table if len(table) == 4 else [*table, np.ones_like(table[0])]


def _producer(value: ir.Value, op_type: str) -> ir.Node | None:
    node = value.producer()
    if node is None or node.op_type != op_type or node.domain != "" or node.inputs[0] is None:
        return None
    return node


def _same(a: Any, b: Any) -> bool:
    return bool(a == b) and (isinstance(a, int) or a.value is not None)


def _lossless(narrow: ir.DataType, wide: ir.DataType) -> bool:
    """Whether every value of `narrow` is one of `wide`."""
    return wide.name in _WIDER.get(narrow.name, ())


_WIDER = {
    "BOOL": ("INT8", "UINT8", "INT16", "INT32", "INT64", "FLOAT", "DOUBLE", "FLOAT16"),
    "UINT8": ("INT16", "UINT16", "INT32", "UINT32", "INT64", "FLOAT", "DOUBLE"),
    "INT8": ("INT16", "INT32", "INT64", "FLOAT", "DOUBLE"),
    "INT16": ("INT32", "INT64", "FLOAT", "DOUBLE"), "INT32": ("INT64", "DOUBLE"),
    "FLOAT16": ("FLOAT", "DOUBLE"), "BFLOAT16": ("FLOAT", "DOUBLE"), "FLOAT": ("DOUBLE",),
}  # fmt: skip
