"""Changes to single operators, besides their weights, when channels are removed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Ints
from lwgraph.passes.prune.surgery import Axis, Cut, cut
from lwgraph.views.coupling.rules.asked import asked
from lwgraph.views.coupling.rules.attention import HEADS, heads_of
from lwgraph.views.coupling.rules.layout import pads_of, slice_indices, split_sizes
from lwgraph.views.coupling.rules.recurrent import GATES
from lwgraph.views.coupling.rules.reduction import reduced_axes
from lwgraph.views.coupling.rules.reshape import expressible, is_copied


def set_int(node: ir.Node, name: str, value: int) -> None:
    """Set an integer attribute."""
    node.attributes.add(ir.Attr(name, ir.AttributeType.INT, int(value)))


def set_ints(node: ir.Node, name: str, values: list[int]) -> None:
    """Set an attribute of integers."""
    node.attributes.add(ir.Attr(name, ir.AttributeType.INTS, [int(value) for value in values]))


@cut("Conv", "ConvTranspose")
def convolution(node: ir.Node, state: Cut) -> None:
    """A depthwise convolution has as many groups as channels; other groups get smaller, not fewer."""
    dims, group = state.dims(node.inputs[1]), ir.attribute(node, "group", 1)
    mask = state.kept(node.inputs[0], 1)
    if group > 1 and dims is not None and mask is not None:
        depthwise = dims[1] == 1 if node.op_type == "Conv" else dims[0] == group
        if depthwise:
            set_int(node, "group", int(mask.sum()))


@cut("Reshape")
def reshape(node: ir.Node, state: Cut) -> None:
    """The target in numbers: what is not known is copied (0) or follows (-1); of several, computed as before."""
    before, after = state.dims(node.inputs[0]), state.dims(node.outputs[0])
    assert before is not None and after is not None  # channels of unknown sizes are frozen
    sizes = state.after(node.outputs[0])
    if not expressible(before, after):
        _keep_computed(node, state, 1, [size if isinstance(size, int) else None for size in sizes])
        return
    target = [
        size if isinstance(size, int) else 0 if is_copied(before, after, axis) else -1
        for axis, size in enumerate(sizes)
    ]
    node.attributes.pop("allowzero", None)
    state.give(node, 1, np.array(target, np.int64))


def _keep_computed(node: ir.Node, state: Cut, index: int, numbers: list[int | None]) -> None:
    """Input `index` of a node, a vector of sizes that is computed, with numbers in some places (None: as computed)."""
    graph, computed = state.model.graph, node.inputs[index]
    assert computed is not None
    stem = node.name or node.op_type
    known = ir.add_initializer(graph, np.array([number is not None for number in numbers]), f"{stem}_known")
    given = ir.add_initializer(graph, np.array([number or 0 for number in numbers], np.int64), f"{stem}_sizes")
    where = ir.make_node("Where", [known, given, computed])
    where.name = ir.fresh_name(graph, f"{stem}_target")
    where.outputs[0].name = ir.fresh_name(graph, f"{stem}_target")
    where.outputs[0].type = ir.TensorType(ir.DataType.INT64)
    graph.insert_before(node, where)
    node.replace_input_with(index, where.outputs[0])


def _ask(node: ir.Node, state: Cut, index: int, elements: Sequence[Axis | None], axes: Sequence[int]) -> None:
    """Input `index` of a node, a vector that is computed, asks for what is left along `axes` of the output; an element
    that is an activation's size follows by itself."""
    after, output = state.after(node.outputs[0]), node.outputs[0]
    numbers = [
        None if element is not None or state.kept(output, axis) is None else int(after[axis] or 0)
        for element, axis in zip(elements, axes, strict=True)
    ]
    if any(number is not None for number in numbers):
        _keep_computed(node, state, index, numbers)


@cut("Split")
def split(node: ir.Node, state: Cut) -> None:
    """The sizes of the parts."""
    axis = ir.attribute(node, "axis", 0) % len(state.dims(node.inputs[0]) or (1,))
    sizes = split_sizes(node, state.coupling.builder)
    if sizes is None or state.kept(node.inputs[0], axis) is None:
        return
    masks = [state.kept(output, axis) for output in node.outputs]
    sizes = [size if mask is None else int(mask.sum()) for size, mask in zip(sizes, masks, strict=True)]
    node.attributes.pop("num_outputs", None)
    if ir.opset(node) >= 13:
        state.give(node, 1, np.array(sizes, np.int64))
    else:
        set_ints(node, "split", sizes)


@cut("Slice")
def slice_(node: ir.Node, state: Cut) -> None:
    """The bounds; where what is left is not evenly spaced, a Gather picks it before."""
    value, output = node.inputs[0], node.outputs[0]
    taken = slice_indices(node, state.coupling.builder)
    assert value is not None and taken is not None  # a slice along computed axes is frozen
    bounds: dict[int, tuple[int, int, int]] = {}
    for axis, indices in taken.items():
        mask, left = state.kept(value, axis), state.kept(output, axis)
        if mask is None or indices is None:
            continue
        places = (np.cumsum(mask) - 1)[indices if left is None else indices[left]]
        steps = np.unique(np.diff(places))
        if len(steps) > 1:
            _gather_before(node, state, axis, places)
            places, steps = np.arange(len(places)), np.array([1])
        step = int(steps[0]) if len(steps) else 1
        end = int(places[-1]) + (1 if step > 0 else -1)
        bounds[axis] = (int(places[0]), end if end >= 0 else -(1 << 62), step)
    if bounds:
        _set_bounds(node, state, bounds)


def _gather_before(node: ir.Node, state: Cut, axis: int, places: Ints) -> None:
    graph, value = state.model.graph, node.inputs[0]
    assert value is not None
    indices = ir.add_initializer(graph, places.astype(np.int64), f"{node.name or 'slice'}_channels")
    gather = ir.make_node("Gather", [value, indices], {"axis": axis})
    gather.name = ir.fresh_name(graph, f"{node.name or 'slice'}_gather")
    gather.outputs[0].name = ir.fresh_name(graph, f"{value.name}_picked")
    gather.outputs[0].type = value.type
    graph.insert_before(node, gather)
    node.replace_input_with(0, gather.outputs[0])


def _set_bounds(node: ir.Node, state: Cut, bounds: dict[int, tuple[int, int, int]]) -> None:
    rank = len(state.dims(node.outputs[0]) or ())
    names = ("starts", "ends", "axes", "steps")
    old = ir.opset(node) < 10
    given: list[list[int] | None] = []
    for place, name in enumerate(names, 1):
        value = node.inputs[place] if place < len(node.inputs) else None
        found = ir.attribute(node, name) if old else ir.constant(value)
        given.append(None if found is None else [int(number) for number in found])
    starts, ends = given[0] or [], given[1] or []
    axes = [axis % rank for axis in given[2]] if given[2] is not None else list(range(len(starts)))
    steps = given[3] or [1] * len(starts)
    for axis, (start, end, step) in bounds.items():
        place = axes.index(axis)
        starts[place], ends[place], steps[place] = start, end, step
    for place, (name, values) in enumerate(zip(names, (starts, ends, axes, steps), strict=True), 1):
        if not old:
            state.give(node, place, np.array(values, np.int64))
        elif name != "steps":
            set_ints(node, name, values)


@cut("Gather")
def gather(node: ir.Node, state: Cut) -> None:
    """The indices: those of removed channels go, the others count anew."""
    dims = state.dims(node.inputs[0])
    axis = ir.attribute(node, "axis", 0) % len(dims or (1,))
    mask, picks = state.kept(node.inputs[0], axis), ir.constant(node.inputs[1])
    if mask is None or picks is None:
        return
    left = state.kept(node.outputs[0], axis) if picks.ndim == 1 else None
    chosen = picks % len(mask)
    state.give(node, 1, (np.cumsum(mask) - 1)[chosen if left is None else chosen[left]])


@cut("Pad")
def pad(node: ir.Node, state: Cut) -> None:
    """The numbers of channels put before and after."""
    pads = pads_of(node, state.coupling.builder)
    assert pads is not None
    changed = False
    for axis, (before, after) in tuple(pads.items()):
        mask = state.kept(node.outputs[0], axis)
        if mask is not None and (before or after):
            pads[axis] = int(mask[:before].sum()), int(mask[len(mask) - after :].sum())
            changed = True
    if changed:
        flat = [pads[axis][side] for side in (0, 1) for axis in pads]
        if ir.opset(node) < 11:
            set_ints(node, "pads", flat)
        else:
            state.give(node, 1, np.array(flat, np.int64))


@cut("Expand")
def expand(node: ir.Node, state: Cut) -> None:
    """A size that is asked for in numbers, which may stand among computed ones."""
    shape, output = ir.constant(node.inputs[1]), node.outputs[0]
    if shape is None:
        elements = asked(node.inputs[1], state.coupling.builder) or []
        _ask(node, state, 1, elements, range(len(state.after(output)) - len(elements), len(state.after(output))))
    else:
        after = state.after(node.outputs[0])[-len(shape) :]
        left = [
            size if number > 1 and isinstance(size, int) else int(number)
            for number, size in zip(shape, after, strict=True)
        ]
        state.give(node, 1, np.array(left, np.int64))


@cut("Resize")
def resize(node: ir.Node, state: Cut) -> None:
    """A size that is asked for in numbers."""
    target = node.inputs[3] if len(node.inputs) > 3 else None
    if target is None:
        return
    sizes, after = ir.constant(target), state.after(node.outputs[0])
    axes = ir.attribute(node, "axes", tuple(range(len(after))))
    if sizes is None:
        _ask(node, state, 3, asked(target, state.coupling.builder) or [None] * len(axes), axes)
        return
    left = [
        size if state.kept(node.outputs[0], axis) is not None else int(number)
        for axis, number in zip(axes, sizes, strict=True)
        for size in [after[axis]]
    ]
    state.give(node, 3, np.array(left, np.int64))


@cut("ReduceMean")
def reduce_mean(node: ir.Node, state: Cut) -> None:
    """The removed channels count as zeros: the mean over fewer is scaled."""
    axes = reduced_axes(node, state.coupling.builder)
    masks = [mask for axis in axes or () if (mask := state.kept(node.inputs[0], axis)) is not None]
    if not masks:
        return
    scale = float(np.prod([mask.mean() for mask in masks]))
    graph, output = state.model.graph, node.outputs[0]
    dtype = output.dtype or (node.inputs[0].dtype if node.inputs[0] is not None else None) or ir.DataType.FLOAT
    factor = ir.add_initializer(graph, np.array(scale, dtype.numpy()), f"{node.name or 'mean'}_scale")
    mul = ir.make_node("Mul", [output, factor])
    mul.name = ir.fresh_name(graph, f"{node.name or 'mean'}_scaled")
    mul.outputs[0].name = ir.fresh_name(graph, f"{output.name}_scaled")
    mul.outputs[0].type, mul.outputs[0].shape = output.type, output.shape
    graph.insert_after(node, mul)
    ir.replace_uses(output, mul.outputs[0])
    mul.replace_input_with(0, output)


@cut(*HEADS)
def heads(node: ir.Node, state: Cut) -> None:
    """The number of heads, where they have no axis of their own."""
    for index, name in enumerate(HEADS[node.op_type]):
        dims = state.dims(node.inputs[index])
        found = None if dims is None else heads_of(node, index, dims)
        mask = None if found is None or found[0] == 1 else state.kept(node.inputs[index], found[0])
        if found is not None and mask is not None:
            left = int(mask.sum()) * found[1] // len(mask)
            if index < 2:  # values have as many heads as keys
                set_int(node, name, left)


@cut(*GATES)
def recurrent(node: ir.Node, state: Cut) -> None:
    """The number of hidden units; initial states of zeros are left out."""
    tracked = state.coupling.builder.constant(node, 2, 2, "in")
    mask = None if tracked is None else state.masks.get(tracked)
    if mask is None:
        return
    set_int(node, "hidden_size", int(mask.sum()))
    for index in (5, 6):
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is not None and value in state.coupling.builder.zeros:
            node.replace_input_with(index, None)
            maker = value.producer()
            if maker is not None:
                ir.sweep([maker])


__all__ = ["Cut"]
