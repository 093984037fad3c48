"""Integer vectors made of sizes: where the number of channels itself is computed with.

Elements of such a vector are followed while they are picked, joined, multiplied and so on. A Reshape may ask for them:
its target is rewritten in numbers. Anywhere else, a size of tracked channels freezes them: after removal it would mean
something else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.views.coupling.builder import Axis, Coupler
from lwgraph.views.coupling.rules import rule
from lwgraph.views.coupling.rules.asked import expanded

_MOVES = ("Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Cast", "Identity", "Reshape", "Where")
_COMPUTES = (
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Mod",
    "Floor",
    "Ceil",
    "Min",
    "Max",
    "Sqrt",
    "Neg",
    "ReduceProd",
    "Where",
    "Equal",
    "Greater",
    "Less",
)


@rule("Shape")
def shape(node: ir.Node, builder: Coupler) -> None:
    """Each element is the size of an axis."""
    value = node.inputs[0]
    dims = builder.dims(value)
    if value is None or dims is None:
        builder.freeze_inputs(node, f"the shape that node '{node.name}' (Shape) gives is not known")
        return
    elements: list[Any] = [builder.get(value, axis) or dims[axis] for axis in range(len(dims))]
    end = ir.attribute(node, "end")
    builder.sizes[node.outputs[0]] = elements[ir.attribute(node, "start", 0) : len(dims) if end is None else end]


@rule("Size")
def size(node: ir.Node, builder: Coupler) -> None:
    """The product of all sizes."""
    builder.freeze_inputs(node, f"node '{node.name}' (Size) computes with the number of channels")


def follow(node: ir.Node, builder: Coupler) -> None:
    """Called for every node: pass sizes on, or freeze what is computed with."""
    if not any(value in builder.sizes for value in node.inputs):
        return
    elements = _carried(node, builder) if node.op_type in _MOVES else None
    if elements is None and node.op_type in (*_MOVES, *_COMPUTES) and len(builder.dims(node.outputs[0]) or ()) < 2:
        # What is computed from sizes depends on all of them.
        elements = [
            frozenset(axis for value in node.inputs if value is not None for axis in axes_of_sizes(value, builder))
        ]
    if elements is not None and not (node.op_type == "Reshape" and builder.tracked(node.inputs[0])):
        builder.sizes[node.outputs[0]] = elements
        return
    for index, value in enumerate(node.inputs):
        if value is not None and value in builder.sizes and not _harmless(node, builder, index):
            for axis in axes_of_sizes(value, builder):
                builder.freeze(axis, f"node '{node.name}' ({node.op_type}) computes with the number of channels")


def axes_of_sizes(value: ir.Value, builder: Coupler) -> list[Axis]:
    """The tracked axes whose sizes a vector holds, or is computed from."""
    found: list[Axis] = []
    for element in builder.sizes.get(value, ()):
        found += [element] if isinstance(element, Axis) else element if isinstance(element, frozenset) else []
    return found


def _harmless(node: ir.Node, builder: Coupler, index: int) -> bool:
    """Whether a vector of sizes asks for a shape that follows the channels by itself, or that is rewritten anyway."""
    if node.op_type == "Reshape" and index == 1:
        return True
    if node.op_type not in ("Resize", "Upsample", "Expand"):
        return False
    value, sizes = node.inputs[0], builder.sizes[node.inputs[index]]  # type: ignore[index]
    repeated = expanded(node, builder) if node.op_type == "Expand" else {}
    for place, element in enumerate(sizes, len(builder.dims(node.outputs[0]) or ()) - len(sizes)):
        if place in repeated:
            continue
        found = builder.get(value, place - len(builder.dims(node.outputs[0]) or ()) + len(builder.dims(value) or ()))
        if isinstance(element, frozenset) and element:
            return False
        if isinstance(element, Axis) and (found is None or found.root() is not element.root()):
            return False
    return True


def _carried(node: ir.Node, builder: Coupler) -> list[Any] | None:
    """The elements of the output of an operator that only moves them; None when it does more."""
    first = node.inputs[0]
    elements = builder.sizes.get(first) if first is not None else None
    if node.op_type == "Concat":
        parts = [_elements(value, builder) for value in node.inputs]
        return None if any(part is None for part in parts) else [e for part in parts for e in part or []]
    if node.op_type == "Where":
        which, one, two = ir.constant(first), _elements(node.inputs[1], builder), _elements(node.inputs[2], builder)
        if which is None or one is None or two is None or not which.size == len(one) == len(two):
            return None
        return [a if taken else b for taken, a, b in zip(which.reshape(-1), one, two, strict=True)]
    if elements is None or (node.op_type == "Reshape" and len(builder.dims(node.outputs[0]) or ()) > 1):
        return None
    if node.op_type not in ("Gather", "Slice"):
        return elements
    array = np.empty(len(elements), object)
    array[:] = elements
    if node.op_type == "Gather":
        picks = ir.constant(node.inputs[1])
        return None if picks is None else list(np.atleast_1d(array[picks]).reshape(-1))
    from lwgraph.views.coupling.rules.layout import slice_indices

    taken = slice_indices(node, builder)
    picked = None if taken is None else taken.get(0, np.arange(len(elements)))
    return None if picked is None else list(array[picked])


def _elements(value: ir.Value | None, builder: Coupler) -> list[Any] | None:
    if value is None:
        return None
    if value in builder.sizes:
        return builder.sizes[value]
    constant = ir.constant(value)
    if constant is not None:
        return list(constant.reshape(-1))
    dims = builder.dims(value)
    count = dims[0] if dims else 1
    return [None] * count if isinstance(count, int) else None  # numbers from elsewhere: nothing to follow


# Values that are zero whatever their shape: initial states of recurrent layers, mostly.


@rule("ConstantOfShape")
def constant_of_shape(node: ir.Node, builder: Coupler) -> None:
    """Leave the output untracked, and mark it zero if it is filled with zeros."""
    fill = ir.attribute(node, "value")
    if fill is None or not np.any(fill):
        builder.zeros.add(node.outputs[0])


def follow_zeros(node: ir.Node, builder: Coupler) -> None:
    """Called for every node: what is zero stays zero when it is only moved or repeated."""
    if node.op_type not in ir.MOVES - {"Concat"} | {"Identity", "Cast"}:
        return
    value = node.inputs[0]
    constant = ir.constant(value) if node.op_type in ("Expand", "Tile") else None
    if value in builder.zeros or (constant is not None and not np.any(constant)):
        builder.zeros.update(node.outputs)
