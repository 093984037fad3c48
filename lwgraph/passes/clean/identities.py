"""identities: removes nodes that give back their input, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.passes.clean.sizes import axes_of, slice_parts
from lwgraph.rewrite import Contract, RewritePass, Rule

_INFINITY = 2**31 - 1  # an end at least this large is the end of the axis
_LARGEST = 1 << 16  # elements of a constant that is looked at


@dataclass(frozen=True)
class RemoveIdentities(RewritePass):
    """Remove Identity, Dropout at inference, and Reshape, Transpose, Cast, Pad, Slice ... that change nothing.

    What is empty along the axis of a Concat goes, too.
    """

    name = "identities"
    contract = Contract.EXACT
    min_opset = 1

    def rules(self) -> Sequence[Rule]:
        """Whole operators, then parts of a Concat."""
        return (Rule(self.pattern, self.replace), Rule(self.concat, self.without_empty))

    def concat(self, op: Any, *inputs: Any) -> Any:
        """Any Concat."""
        return op.Concat(*inputs, _name="node")

    def without_empty(self, op: Any, inputs: tuple[ir.Value, ...], node: ir.Node) -> Any:
        """The Concat of what is not empty; where all is, of the first."""
        axis = ir.attribute(node, "axis", 1)
        kept = [value for value in inputs if _size(value, axis) != 0] or [inputs[0]]
        if len(kept) == len(inputs):
            return None
        return kept[0] if len(kept) == 1 else op.copy(node, *kept)

    def pattern(self, op: Any, *inputs: Any) -> Any:
        """Any operator that may be an identity."""
        return op.any_of(*_IS_IDENTITY)(*inputs, _name="node")

    def replace(self, op: Any, inputs: tuple[ir.Value | None, ...], node: ir.Node) -> Any:
        """The node's data input, which takes the place of the node."""
        try:
            same = _IS_IDENTITY[node.op_type](node)
        except ir.ReferenceAttributeError:
            return None
        return inputs[0] if same else None


def _size(value: ir.Value, axis: int) -> int | None:
    """The size along an axis, None where it is not a known number."""
    shape = value.shape
    size = None if shape is None or not -len(shape) <= axis < len(shape) else shape[axis]
    return size if isinstance(size, int) else None


def _always(node: ir.Node) -> bool:
    return True


def _one_input(node: ir.Node) -> bool:
    return len(node.inputs) == 1


def _dropout(node: ir.Node) -> bool:
    version = ir.opset(node)
    if version < 7:
        return bool(ir.attribute(node, "is_test", 0))
    if version < 12 or len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    training = ir.constant(node.inputs[2])
    return training is not None and not training.any()


def _batch_of(value: ir.Value | None) -> ir.Shape | None:
    return None if value is None else value.shape


def _cast(node: ir.Node) -> bool:
    source = node.inputs[0]
    return source is not None and source.dtype is not None and source.dtype == ir.attribute(node, "to")


def _cast_like(node: ir.Node) -> bool:
    a, b = node.inputs
    return a is not None and b is not None and a.dtype is not None and a.dtype == b.dtype


def _reshape(node: ir.Node) -> bool:
    shape = _batch_of(node.inputs[0])
    target = ir.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if target is None or shape is None or target.size != len(shape):
        return False
    zero_is_copy = not ir.attribute(node, "allowzero", 0)
    differing = 0
    for wanted, size in zip(target.tolist(), shape, strict=True):
        if (wanted == 0 and zero_is_copy) or (isinstance(size, int) and wanted == size):
            continue
        if wanted != -1:
            return False
        differing += 1
    return differing <= 1  # one -1: all other sizes are the same, so it is, too


def _transpose(node: ir.Node) -> bool:
    perm = ir.attribute(node, "perm")
    return perm is not None and tuple(perm) == tuple(range(len(perm)))


def _flatten(node: ir.Node) -> bool:
    shape = _batch_of(node.inputs[0])
    return shape is not None and len(shape) == 2 and ir.attribute(node, "axis", 1) in (1, -1)


def _pad(node: ir.Node) -> bool:
    if ir.opset(node) < 11:
        return not any(ir.attribute(node, "pads") or ir.attribute(node, "paddings") or (1,))
    pads = ir.constant(node.inputs[1])
    return pads is not None and not pads.any()


def _slice(node: ir.Node) -> bool:
    parts = slice_parts(node, ir.constant)
    shape = _batch_of(node.inputs[0])
    if parts is None:
        return False
    for axis, start, end, step in parts:
        size = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
        if step != 1 or start != 0 or not (end >= _INFINITY or (isinstance(size, int) and end >= size)):
            return False
    return True


def _expand(node: ir.Node) -> bool:
    target, shape = ir.constant(node.inputs[1]), _batch_of(node.inputs[0])
    if target is None or shape is None or target.size > len(shape):
        return False
    tail = list(shape)[len(shape) - target.size :]
    return all(wanted == 1 or wanted == size for wanted, size in zip(target.tolist(), tail, strict=True))


def _tile(node: ir.Node) -> bool:
    repeats = ir.constant(node.inputs[1]) if ir.opset(node) >= 6 else None
    return repeats is not None and bool((repeats == 1).all())


def _neutral(number: float, *, positive_zero: bool = False) -> Callable[[ir.Node], bool]:
    """The second input is `number` everywhere and does not broadcast the first. x - 0 keeps -0, x + 0 does not."""

    def check(node: ir.Node) -> bool:
        tensor = ir.constant_tensor(node.inputs[1])
        if tensor is None or ir.opset(node) < 7:
            return False
        array = tensor.numpy()
        if array.size == 0 or array.dtype.kind in "OSUb" or array.reshape(-1)[0] != number or array.size > _LARGEST:
            return False  # the common case, told by one element
        shape, source = array.shape, _batch_of(node.inputs[0])
        if not all(d == 1 for d in shape):
            if source is None or len(shape) > len(source):
                return False
            tail = list(source)[len(source) - len(shape) :]
            if not all(d in (1, size) for d, size in zip(shape, tail, strict=True)):
                return False
        elif shape and (source is None or len(source) < len(shape)):
            return False
        if not bool((array == number).all()):
            return False
        return not (positive_zero and bool(np.signbit(array.astype(np.float64)).any()))

    return check


_is_zero = _neutral(0)


def _add(node: ir.Node) -> bool:
    """x + 0 is x for integers, and for floats when the zero is negative (0 + 0 = 0, but -0 + 0 = 0)."""
    if not _is_zero(node):
        return False
    array = ir.constant(node.inputs[1])
    assert array is not None
    return array.dtype.kind in "iu" or bool(np.signbit(array.astype(np.float64)).all())


def _squeeze(node: ir.Node) -> bool:
    return axes_of(node, ir.constant) == []


def _pool(node: ir.Node) -> bool:
    ones, zeros = ir.attribute(node, "kernel_shape"), ir.attribute(node, "pads") or (0,)
    strides = ir.attribute(node, "strides") or (1,)
    auto = ir.attribute(node, "auto_pad", "NOTSET")
    return (
        set(ones) == {1}
        and set(strides) == {1}
        and not any(zeros)
        and auto in ("NOTSET", "VALID")
        and len(node.outputs) == 1
    )


def _resize(node: ir.Node) -> bool:
    if ir.attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return False
    scales = ir.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    return scales is not None and scales.size > 0 and bool((scales == 1).all())


def _block_of_one(node: ir.Node) -> bool:
    return bool(ir.attribute(node, "blocksize") == 1)


_IS_IDENTITY: dict[str, Callable[[ir.Node], bool]] = {
    "Add": _add,
    "AveragePool": _pool,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Concat": _one_input,
    "DepthToSpace": _block_of_one,
    "Div": _neutral(1),
    "Dropout": _dropout,
    "Expand": _expand,
    "Flatten": _flatten,
    "Identity": _always,
    "Max": _one_input,
    "MaxPool": _pool,
    "Mean": _one_input,
    "Min": _one_input,
    "Mul": _neutral(1),
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "SpaceToDepth": _block_of_one,
    "Squeeze": _squeeze,
    "Sub": _neutral(0, positive_zero=True),
    "Sum": _one_input,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _squeeze,
}
