"""What shape a vector of sizes asks for: where it follows the channels by itself, and where it is a number."""

from __future__ import annotations

from lwgraph import ir
from lwgraph.views.coupling.builder import Axis, Coupler


def asked(target: ir.Value | None, builder: Coupler) -> list[Axis | None] | None:
    """For each size that a vector asks for the tracked axis whose size it is, or None for another number; None where
    not even their count is known, or a constant asks."""
    if builder.is_constant(target) or target is None:
        return None
    elements = builder.sizes.get(target, [])
    if elements and not any(isinstance(element, frozenset) for element in elements):
        return [element if isinstance(element, Axis) else None for element in elements]
    dims = builder.dims(target)
    return [None] * dims[0] if dims and isinstance(dims[0], int) else None


def expanded(node: ir.Node, builder: Coupler) -> dict[int, Axis]:
    """The axes of an Expand's output that repeat a single element -> the axis whose size is asked for there."""
    dims, wide, sizes = builder.dims(node.inputs[0]), builder.dims(node.outputs[0]), asked(node.inputs[1], builder)
    if dims is None or wide is None or sizes is None:
        return {}
    shift = len(wide) - len(dims)
    return {
        place: axis
        for place, axis in enumerate(sizes, len(wide) - len(sizes))
        if axis is not None and (place < shift or dims[place - shift] == 1)
    }


__all__ = ["asked", "expanded"]
