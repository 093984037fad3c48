"""Normalizations and softmax: per channel they pass channels on, over channels they couple their statistics."""

from __future__ import annotations

import numpy as np

from lwgraph import ir
from lwgraph.views.coupling.builder import Coupler
from lwgraph.views.coupling.rules import rule


def _gives_statistics(node: ir.Node, builder: Coupler) -> bool:
    """Whether more than the normalized values is used; the inputs are frozen then."""
    used = any(o.name and (ir.use_count(o) or o.is_graph_output()) for o in node.outputs[1:])
    if used:
        builder.freeze_inputs(node, f"node '{node.name}' ({node.op_type}) gives its statistics")
    return used


@rule("BatchNormalization", "InstanceNormalization")
def per_channel(node: ir.Node, builder: Coupler) -> None:
    """Scale, bias (and mean, variance) go with the channel. Instance statistics may be over what carries channels."""
    value, output = node.inputs[0], node.outputs[0]
    if _gives_statistics(node, builder):
        return
    for axis in range(len(builder.dims(value) or ())):
        sources = [(0, axis)]
        if axis == 1:
            sources += [(index, 0) for index in range(1, len(node.inputs))]
        # With scale and bias zero the output is zero.
        builder.merge(node, output, axis, sources, any_zero=axis == 1)
        if axis > 1 and node.op_type == "InstanceNormalization":
            builder.caveat(builder.get(value, axis), f"node '{node.name}' ({node.op_type}) normalizes over it")


@rule("LayerNormalization", "RMSNormalization")
def over_last(node: ir.Node, builder: Coupler) -> None:
    """Normalized over the axes from `axis` on: removing one of n channels changes the statistics of the others."""
    value, output = node.inputs[0], node.outputs[0]
    rank = len(builder.dims(value) or ())
    first = ir.attribute(node, "axis", -1) % max(rank, 1)
    if _gives_statistics(node, builder):
        return
    for axis in range(rank):
        sources = [(0, axis)]
        for index in range(1, len(node.inputs)):
            depth = len(builder.dims(node.inputs[index]) or ())
            if axis - rank + depth >= 0:
                sources.append((index, axis - rank + depth))
        builder.merge(node, output, axis, sources, any_zero=axis >= first)
        if axis >= first:
            builder.caveat(builder.get(value, axis), f"node '{node.name}' ({node.op_type}) normalizes over it")


@rule("GroupNormalization")
def group_normalization(node: ir.Node, builder: Coupler) -> None:
    """Groups stay equally large: index j of every group is one channel."""
    value, output = node.inputs[0], node.outputs[0]
    builder.passes(node, output, 0, {axis: axis for axis in range(len(builder.dims(value) or ())) if axis != 1})
    found = builder.get(value, 1)
    if found is None:
        builder.untracked(output, 1, "" if value is None else builder.why(value, 1))
        return
    groups = ir.attribute(node, "num_groups", 1)
    per_channel = builder.size(node.inputs[1], 0) == found.size if node.inputs[1] is not None else False  # opset 21
    builder.merge(node, output, 1, [(0, 1), *([(1, 0), (2, 0)] if per_channel else [])], any_zero=per_channel)
    builder.couple(found, np.arange(found.size) % (found.size // groups))
    builder.caveat(found, f"node '{node.name}' ({node.op_type}) normalizes over it")


@rule("LpNormalization", "MeanVarianceNormalization")
def over_axes(node: ir.Node, builder: Coupler) -> None:
    """A norm is not changed by a zero; a mean is."""
    value, output = node.inputs[0], node.outputs[0]
    rank = len(builder.dims(value) or ())
    norm = node.op_type == "LpNormalization"
    axes = [ir.attribute(node, "axis", -1)] if norm else ir.attribute(node, "axes", (0, 2, 3))
    over = {axis % max(rank, 1) for axis in axes}
    for axis in range(rank):
        builder.merge(node, output, axis, [(0, axis)], keeps_zero=norm)
        found = builder.get(value, axis)
        if axis in over and found is not None and not (norm and found.zero):
            builder.caveat(found, f"node '{node.name}' ({node.op_type}) normalizes over it")


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(node: ir.Node, builder: Coupler) -> None:
    """Freeze channels under a softmax over them: it gives a share to every channel, even one that is zero."""
    value, output = node.inputs[0], node.outputs[0]
    rank = len(builder.dims(value) or ())
    old = ir.opset(node) < 13  # before opset 13 it normalizes over all axes from `axis` on
    first = ir.attribute(node, "axis", 1 if old else -1) % max(rank, 1)
    for axis in range(rank):
        if axis == first or (old and axis > first):
            builder.freeze(builder.get(value, axis), f"node '{node.name}' ({node.op_type}) is over it")
            builder.untracked(output, axis, f"node '{node.name}' ({node.op_type}) is over it")
        else:
            builder.merge(node, output, axis, [(0, axis)], keeps_zero=False)


@rule("LRN")
def lrn(node: ir.Node, builder: Coupler) -> None:
    """Each channel is divided by what is in its neighbours."""
    for axis, found in tuple(builder.tracked(node.inputs[0]).items()):
        if axis == 1:
            builder.freeze(found, f"node '{node.name}' (LRN) compares neighbouring channels")
        builder.passes(node, node.outputs[0], 0, {axis: axis})
