"""Reductions: over other axes channels go through, over channels they end."""

from __future__ import annotations

from lwgraph import ir
from lwgraph.views.coupling.builder import Coupler
from lwgraph.views.coupling.rules import rule
from lwgraph.views.coupling.rules.layout import axes_of

# A zero adds nothing to these. (A mean of fewer channels is scaled when channels are removed.)
NEUTRAL = ("ReduceL1", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare")
OTHERS = ("ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMin", "ReduceProd")


def reduced_axes(node: ir.Node, builder: Coupler) -> list[int] | None:
    """The axes over which a Reduce works, None when they are computed."""
    rank = len(builder.dims(node.inputs[0]) or ())
    axes = axes_of(node, builder, 1, max(rank, 1))
    if axes == [] and not ir.attribute(node, "noop_with_empty_axes", 0):
        return list(range(rank))
    return axes


@rule(*NEUTRAL, *OTHERS)
def reduce(node: ir.Node, builder: Coupler) -> None:
    """Channels that are reduced over are read, and free to go; where a zero would count, with a caveat."""
    value, output = node.inputs[0], node.outputs[0]
    axes = reduced_axes(node, builder)
    if axes is None or builder.dims(value) is None:
        builder.freeze_inputs(node, f"node '{node.name}' ({node.op_type}) computes its axes")
        return
    rank = len(builder.dims(value) or ())
    keep = ir.attribute(node, "keepdims", 1)
    kept = [axis for axis in range(rank) if axis not in axes]
    places = {axis if keep else place: axis for place, axis in enumerate(kept)}
    builder.passes(node, output, 0, places, keeps_zero=node.op_type in NEUTRAL)
    for axis in axes:
        found = builder.get(value, axis)
        if found is not None and not (node.op_type in NEUTRAL and found.zero):
            builder.caveat(found, f"node '{node.name}' ({node.op_type}) is over it")


@rule("ArgMax", "ArgMin")
def arg(node: ir.Node, builder: Coupler) -> None:
    """An index among channels has a meaning outside: frozen. Other axes go through."""
    value, output = node.inputs[0], node.outputs[0]
    rank = len(builder.dims(value) or ())
    over = ir.attribute(node, "axis", 0) % max(rank, 1)
    builder.freeze(builder.get(value, over), f"node '{node.name}' ({node.op_type}) gives indices of it")
    kept = [axis for axis in range(rank) if axis != over]
    keep = ir.attribute(node, "keepdims", 1)
    builder.passes(
        node, output, 0, {axis if keep else place: axis for place, axis in enumerate(kept)}, keeps_zero=False
    )
