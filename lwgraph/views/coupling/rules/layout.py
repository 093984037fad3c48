"""Operators that move elements: concatenation, splitting, slicing, transposing, padding, repeating, resampling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lwgraph import ir
from lwgraph.views.coupling.builder import Axis, Coupler
from lwgraph.views.coupling.rules import rule, spatial_frozen
from lwgraph.views.coupling.rules.asked import asked, expanded


def axes_of(node: ir.Node, builder: Coupler, index: int, rank: int) -> list[int] | None:
    """The axes given as an attribute `axes` (older opsets) or as input `index`; [] when absent, None when computed."""
    axes = ir.attribute(node, "axes")
    if axes is None and len(node.inputs) > index and node.inputs[index] is not None:
        found = ir.constant(node.inputs[index])
        if found is None:
            return None
        axes = found.reshape(-1)
    return [] if axes is None else [int(axis) % rank for axis in axes]


def slice_indices(node: ir.Node, builder: Coupler) -> dict[int, np.ndarray | None] | None:
    """Axis -> the indices that a Slice takes of it, None where bounds are computed or the size is not known.

    None in all when even the axes are computed.
    """
    dims = builder.dims(node.inputs[0])
    if dims is None:
        return None
    names = ("starts", "ends", "axes", "steps")
    given: list[Sequence[int] | None] = [ir.attribute(node, name) for name in names]  # attributes before opset 10
    computed = False
    for position, value in enumerate(node.inputs[1:5]):
        if value is not None:
            constant = ir.constant(value)
            if constant is not None:
                given[position] = tuple(int(item) for item in constant.reshape(-1))
            elif names[position] == "axes":
                return None
            else:
                computed = True
    starts, ends, axes, steps = given
    if computed:
        count = next((len(bounds) for bounds in (starts, ends, steps) if bounds is not None), len(dims))
        return {axis % len(dims): None for axis in (range(count) if axes is None else axes)}
    assert starts is not None and ends is not None
    found: dict[int, np.ndarray | None] = {}
    for start, end, axis, step in zip(
        starts, ends, range(len(starts)) if axes is None else axes, steps or (1,) * len(starts), strict=True
    ):
        size = dims[axis % len(dims)]
        stop = None if isinstance(size, int) and step < 0 and end < -size else end
        found[axis % len(dims)] = np.arange(size)[slice(start, stop, step)] if isinstance(size, int) else None
    return found


@rule("Concat")
def concat(node: ir.Node, builder: Coupler) -> None:
    """Along its axis the output is the inputs one after the other; the other axes are equal."""
    output = node.outputs[0]
    dims = builder.dims(output)
    sizes: list[int | None] = []
    if dims is not None:
        axis = ir.attribute(node, "axis", 1) % len(dims)
        sizes = [builder.size(value, axis) if value is not None else None for value in node.inputs]
    if dims is None or (None in sizes and any(axis in builder.tracked(value) for value in node.inputs)):
        builder.freeze_inputs(node, f"the shapes at node '{node.name}' (Concat) are not known")
        return
    for other in range(len(dims)):
        if other != axis:
            builder.merge(node, output, other, [(index, other) for index in range(len(node.inputs))])
    parts = [builder.get(value, axis) for value in node.inputs]
    if not any(parts):
        builder.untracked(output, axis, next((builder.why(v, axis) for v in node.inputs if v is not None), ""))
        return
    made = builder.track(
        output, axis, sum(size or 0 for size in sizes), zero=all(part.zero for part in parts if part is not None)
    )
    offset = 0
    for index, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        value, places = node.inputs[index], np.arange(offset, offset + (size or 0))
        if part is None and value is not None and builder.is_constant(value):
            part = builder.constant(node, index, axis)
        if part is not None:
            builder.link(made, part, places, np.arange(part.size))
        elif value is not None:
            builder.freeze(
                made,
                f"node '{node.name}' (Concat) puts it beside {builder.why(value, axis)}"
                if value.is_graph_input()
                else builder.why(value, axis),
                places,
            )
        offset += size or 0


def split_sizes(node: ir.Node, builder: Coupler) -> list[int] | None:
    """The number of indices that each output of a Split takes; None if it is not known."""
    size = builder.size(node.inputs[0], ir.attribute(node, "axis", 0))  # type: ignore[arg-type]
    sizes = ir.attribute(node, "split")
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        found = ir.constant(node.inputs[1])
        return None if found is None else [int(item) for item in found]
    if sizes is not None:
        return list(sizes)
    if size is None:
        return None
    count = ir.attribute(node, "num_outputs", len(node.outputs))
    part = -(-size // count)
    return [min(part, size - part * index) for index in range(count)]


@rule("Split")
def split(node: ir.Node, builder: Coupler) -> None:
    """Along its axis each output is a range of the input; the other axes are equal."""
    value = node.inputs[0]
    dims = builder.dims(value)
    if value is None or dims is None:
        builder.freeze_inputs(node, f"the shapes at node '{node.name}' (Split) are not known")
        return
    axis = ir.attribute(node, "axis", 0) % len(dims)
    for output in node.outputs:
        builder.passes(node, output, 0, {other: other for other in range(len(dims)) if other != axis})
    found, sizes = builder.get(value, axis), split_sizes(node, builder)
    if found is None:
        for output in node.outputs:
            builder.untracked(output, axis, builder.why(value, axis))
        return
    if sizes is None:
        builder.freeze(found, f"node '{node.name}' (Split) computes its sizes")
        return
    offset = 0
    for output, size in zip(node.outputs, sizes, strict=True):
        if size > 1:
            builder.link(
                builder.track(output, axis, size, found.zero), found, np.arange(size), np.arange(offset, offset + size)
            )
        else:
            reason = f"node '{node.name}' (Split) takes it alone"
            builder.freeze(found, reason, np.arange(offset, offset + size))
            builder.untracked(output, axis, reason)
        offset += size


@rule("Slice")
def slice_(node: ir.Node, builder: Coupler) -> None:
    """Along a sliced axis the output is some indices of the input; those left out simply go."""
    value, output = node.inputs[0], node.outputs[0]
    taken = slice_indices(node, builder)
    if value is None or taken is None:
        builder.freeze_inputs(node, f"node '{node.name}' (Slice) computes its bounds")
        return
    rank = len(builder.dims(value) or ())
    builder.passes(node, output, 0, {axis: axis for axis in range(rank) if axis not in taken})
    for axis, indices in taken.items():
        found = builder.get(value, axis)
        if found is None:
            builder.untracked(output, axis, builder.why(value, axis))
        elif indices is None:
            reason = f"node '{node.name}' (Slice) computes its bounds"
            builder.freeze(found, reason)
            builder.untracked(output, axis, reason)
        elif len(indices) > 1:
            builder.link(builder.track(output, axis, len(indices), found.zero), found, np.arange(len(indices)), indices)
        else:
            reason = f"node '{node.name}' (Slice) takes it alone"
            builder.freeze(found, reason, indices)
            builder.untracked(output, axis, reason)


@rule("Transpose")
def transpose(node: ir.Node, builder: Coupler) -> None:
    """Axis k of the output is axis perm[k] of the input."""
    rank = len(builder.dims(node.inputs[0]) or ())
    perm: Sequence[int] = ir.attribute(node, "perm", tuple(reversed(range(rank))))
    builder.passes(node, node.outputs[0], 0, dict(enumerate(perm)))


@rule("Squeeze")
def squeeze(node: ir.Node, builder: Coupler) -> None:
    """The axes that stay, in order."""
    dims = builder.dims(node.inputs[0])
    axes = axes_of(node, builder, 1, len(dims)) if dims else None
    if dims is None or axes is None or (not axes and not all(isinstance(size, int) for size in dims)):
        builder.freeze_inputs(node, f"node '{node.name}' (Squeeze) computes its axes")
        return
    gone = set(axes) or {axis for axis, size in enumerate(dims) if size == 1}
    kept = [axis for axis in range(len(dims)) if axis not in gone]
    builder.passes(node, node.outputs[0], 0, dict(enumerate(kept)))


@rule("Unsqueeze")
def unsqueeze(node: ir.Node, builder: Coupler) -> None:
    """The axes that were there, in order."""
    dims, axes = builder.dims(node.inputs[0]), ir.attribute(node, "axes")
    if axes is None:
        found = ir.constant(node.inputs[1])
        axes = None if found is None else [int(axis) for axis in found.reshape(-1)]
    if dims is None or axes is None:
        builder.freeze_inputs(node, f"node '{node.name}' (Unsqueeze) computes its axes")
        return
    rank = len(dims) + len(axes)
    new = {axis % rank for axis in axes}
    old = [axis for axis in range(rank) if axis not in new]
    builder.passes(node, node.outputs[0], 0, {place: axis for axis, place in enumerate(old)})


def pads_of(node: ir.Node, builder: Coupler) -> dict[int, tuple[int, int]] | None:
    """Axis -> how much is put before and after it; None when that is computed."""
    dims, pads = builder.dims(node.inputs[0]), ir.attribute(node, "pads")
    if pads is None and len(node.inputs) > 1:
        found = ir.constant(node.inputs[1])
        pads = None if found is None else [int(pad) for pad in found.reshape(-1)]
    if dims is None or pads is None:
        return None
    axes = axes_of(node, builder, 3, len(dims)) if len(node.inputs) > 3 and node.inputs[3] is not None else []
    if axes is None:
        return None
    axes = axes or list(range(len(dims)))
    return {axis: (pads[place], pads[place + len(axes)]) for place, axis in enumerate(axes)}


@rule("Pad")
def pad(node: ir.Node, builder: Coupler) -> None:
    """Channels put before and after with a constant are channels without a maker; they may be removed as well."""
    value, output = node.inputs[0], node.outputs[0]
    pads = pads_of(node, builder)
    if value is None or pads is None:
        builder.freeze_inputs(node, f"node '{node.name}' (Pad) computes its sizes")
        return
    for axis in range(len(builder.dims(value) or ())):
        before, after = pads.get(axis, (0, 0))
        found = builder.get(value, axis)
        if found is None or before == after == 0:
            builder.passes(node, output, 0, {axis: axis}, keeps_zero=_pads_zero(node))
        elif ir.attribute(node, "mode", "constant") != "constant" or before < 0 or after < 0:
            builder.freeze(found, f"node '{node.name}' (Pad) repeats or cuts its channels")
        else:
            made = builder.track(output, axis, before + found.size + after, found.zero and _pads_zero(node))
            builder.link(made, found, np.arange(before, before + found.size), np.arange(found.size))


def _pads_zero(node: ir.Node) -> bool:
    """Whether what is put around is zero, or copied from what is there."""
    if ir.attribute(node, "mode", "constant") != "constant":
        return True
    value = ir.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    return not np.any(value if value is not None else ir.attribute(node, "value", 0.0))


@rule("Tile")
def tile(node: ir.Node, builder: Coupler) -> None:
    """A channel that is repeated lives or dies with its copies."""
    value, output = node.inputs[0], node.outputs[0]
    repeats = ir.constant(node.inputs[1])
    if value is None or repeats is None:
        builder.freeze_inputs(node, f"node '{node.name}' (Tile) computes its repeats")
        return
    for axis, found in tuple(builder.tracked(value).items()):
        count = int(repeats[axis])
        if count > 1:
            made = builder.track(output, axis, found.size * count, found.zero)
            builder.link(made, found, np.arange(made.size), np.arange(made.size) % found.size)
        else:
            builder.passes(node, output, 0, {axis: axis})


@rule("Expand")
def expand(node: ir.Node, builder: Coupler) -> None:
    """Axes that keep their size go through. Along the others all channels are equal, and as many as are asked for."""
    value, output = node.inputs[0], node.outputs[0]
    dims, wide = builder.dims(value), builder.dims(output)
    target = node.inputs[1]
    unknown = asked(target, builder) is None and not builder.is_constant(target)
    if value is None or dims is None or wide is None or unknown:
        builder.freeze_inputs(node, f"the shapes at node '{node.name}' (Expand) are not known")
        return
    shift = len(wide) - len(dims)
    builder.passes(node, output, 0, {axis + shift: axis for axis in builder.tracked(value)})
    for axis, size in enumerate(dims) if builder.is_constant(value) else ():
        if isinstance(size, int) and size > 1:  # what is repeated for each sample, such as the token of a class
            builder.equal(builder.track(output, axis + shift, size), builder.constant(node, 0, axis, "out"))
    for axis, same in expanded(node, builder).items():
        builder.equal(builder.track(output, axis, same.size, zero=False), same)


@rule("Resize", "Upsample")
def resize(node: ir.Node, builder: Coupler) -> None:
    """Axes that keep their size go through; along the others the operator interpolates."""
    value, output = node.inputs[0], node.outputs[0]
    before, after = builder.dims(value), builder.dims(output)
    for axis, found in tuple(builder.tracked(value).items()):
        if before is None or after is None or after[axis] != found.size:
            builder.freeze(found, f"node '{node.name}' ({node.op_type}) resizes it")
            builder.untracked(output, axis, f"node '{node.name}' ({node.op_type}) resizes it")
        else:
            builder.passes(node, output, 0, {axis: axis})


def _blocked(node: ir.Node, builder: Coupler) -> tuple[ir.Value, Axis | None, int]:
    """Output, channels of the input, block size; the spatial axes are frozen, the batch goes through."""
    value, output = node.inputs[0], node.outputs[0]
    spatial_frozen(node, builder, value)
    builder.passes(node, output, 0, {0: 0})
    return output, builder.get(value, 1), ir.attribute(node, "blocksize", 1)


@rule("DepthToSpace")
def depth_to_space(node: ir.Node, builder: Coupler) -> None:
    """Each output channel is made of b*b input channels."""
    output, found, block = _blocked(node, builder)
    if found is None:
        return
    size = found.size // (block * block)
    places = np.arange(found.size)
    places = places % size if ir.attribute(node, "mode", "DCR") == "DCR" else places // (block * block)
    _blocks(node, builder, output, found, size, places)


@rule("SpaceToDepth")
def space_to_depth(node: ir.Node, builder: Coupler) -> None:
    """Each input channel gives b*b output channels."""
    output, found, block = _blocked(node, builder)
    if found is not None:
        made = builder.track(output, 1, found.size * block * block, found.zero)
        builder.link(made, found, np.arange(made.size), np.arange(made.size) % found.size)


def _blocks(node: ir.Node, builder: Coupler, output: ir.Value, found: Axis, size: int, places: np.ndarray) -> None:
    if size < 2:
        builder.freeze(found, f"node '{node.name}' ({node.op_type}) makes a single channel of it")
        builder.untracked(output, 1, f"node '{node.name}' ({node.op_type}) makes a single channel of it")
        return
    builder.link(builder.track(output, 1, size, found.zero), found, places, np.arange(found.size))


@rule("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def pool(node: ir.Node, builder: Coupler) -> None:
    """Channels go through; the indices that MaxPool may give speak of all channels at once."""
    if len(node.outputs) > 1 and (ir.use_count(node.outputs[1]) or node.outputs[1].is_graph_output()):
        builder.freeze_inputs(node, f"the indices of node '{node.name}' (MaxPool) are used")
        return
    spatial_frozen(node, builder, node.inputs[0])
    builder.passes(node, node.outputs[0], 0, {0: 0, 1: 1})


@rule("CumSum", "ReverseSequence", "Trilu")
def along(node: ir.Node, builder: Coupler) -> None:
    """Axes along which nothing moves go through."""
    value, output = node.inputs[0], node.outputs[0]
    if not (rank := len(builder.dims(value) or ())):
        builder.freeze_inputs(node, f"the shapes at node '{node.name}' ({node.op_type}) are not known")
        return
    if node.op_type == "CumSum":
        axis = ir.constant(node.inputs[1])
        moving = range(rank) if axis is None else [int(axis.reshape(-1)[0]) % rank]
    elif node.op_type == "Trilu":
        moving = range(max(rank - 2, 0), rank)
    else:
        moving = [ir.attribute(node, "batch_axis", 1), ir.attribute(node, "time_axis", 0)]
    for axis_, found in tuple(builder.tracked(value).items()):
        if axis_ in moving:
            builder.freeze(found, f"node '{node.name}' ({node.op_type}) works along it")
        else:
            builder.passes(node, output, 0, {axis_: axis_})
