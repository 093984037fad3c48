"""Reshape and Flatten: the mapping of channels when axes are split and merged."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from lwgraph import ir
from lwgraph.views.coupling.builder import Axis, Coupler
from lwgraph.views.coupling.rules import rule


@dataclass(frozen=True)
class Segment:
    """Neighbouring axes of the input that become neighbouring axes of the output.

    `factors` are the sizes of a common refinement; `inputs` and `outputs` give for each axis the range of factors, in
    row-major order, that it is made of.
    """

    factors: tuple[int, ...]
    inputs: dict[int, range]
    outputs: dict[int, range]


def segments(before: ir.Dims, after: ir.Dims) -> list[Segment]:
    """The segments of a reshape, from the last axes on, as far as the sizes have a common refinement.

    Axes before them need no known sizes: whatever becomes of these, what lies behind one of their elements is the same
    run of elements before and after. A name stands for one size, so an axis of one name is passed over. Where axes
    before (and including) one of unknown size correspond one to one they are segments, too. Axes of size 1 are in none.
    """
    i, j = len(before) - 1, len(after) - 1
    found: list[Segment] = []
    while True:
        while i >= 0 and before[i] == 1:
            i -= 1
        while j >= 0 and after[j] == 1:
            j -= 1
        if i < 0 or j < 0:
            break
        if isinstance(before[i], str) and before[i] == after[j]:
            i, j = i - 1, j - 1
            continue
        if not isinstance(before[i], int) or not isinstance(after[j], int):
            break
        ends = _segment(before, after, i, j)
        if ends is None:
            return found
        segment, i, j = ends
        found.append(segment)
    left = [[axis for axis in range(last + 1) if dims[axis] != 1] for dims, last in ((before, i), (after, j))]
    if len(left[0]) != len(left[1]):
        return found
    # The axes from the unknown one on must be equal, in the same order; a single one is, whatever it is called.
    equal: list[Segment] = []
    unlike = 0
    for a, b in zip(*left, strict=True):
        if isinstance(before[a], int) and before[a] == after[b]:
            equal.append(Segment((int(before[a] or 0),), {a: range(1)}, {b: range(1)}))
        elif isinstance(before[a], int) or isinstance(after[b], int):
            return found
        else:
            unlike += before[a] != after[b] or before[a] is None
    return found + equal if unlike < 2 else found


def _segment(before: ir.Dims, after: ir.Dims, i: int, j: int) -> tuple[Segment, int, int] | None:
    """The segment that ends at axes i and j, and the axes before it."""
    one, two = before[i], after[j]
    assert isinstance(one, int) and isinstance(two, int)
    edges = {1, one, two}
    marks_in, marks_out = {i: (1, one)}, {j: (1, two)}
    while one != two:
        if one < two:
            i -= 1
            size = before[i] if i >= 0 else None
            if not isinstance(size, int) or not size:
                return None
            marks_in[i] = (one, one * size)
            one *= size
            edges.add(one)
        else:
            j -= 1
            size = after[j] if j >= 0 else None
            if not isinstance(size, int) or not size:
                return None
            marks_out[j] = (two, two * size)
            two *= size
            edges.add(two)
    steps = sorted(edges)
    if any(high % low for low, high in itertools.pairwise(steps)):
        return None
    # Factors in row-major order: the largest stride first.
    factors = tuple(high // low for low, high in itertools.pairwise(steps))[::-1]
    place = {edge: len(factors) - index for index, edge in enumerate(steps)}  # the factors before this stride

    def ranges(marks: dict[int, tuple[int, int]]) -> dict[int, range]:
        return {axis: range(place[high], place[low]) for axis, (low, high) in marks.items() if high > low}

    return Segment(factors, ranges(marks_in), ranges(marks_out)), i - 1, j - 1


def expressible(before: ir.Dims, after: ir.Dims) -> bool:
    """Whether constant numbers can ask for the shape `after`: at most one -1 besides copied sizes."""
    unknown = [axis for axis, size in enumerate(after) if not isinstance(size, int)]
    return len(unknown) - sum(is_copied(before, after, axis) for axis in unknown) <= 1


def is_copied(before: ir.Dims, after: ir.Dims, axis: int) -> bool:
    """Whether an output axis is surely as long as the input axis of the same number."""
    return axis < len(before) and after[axis] is not None and before[axis] == after[axis]


@rule("Reshape", "Flatten")
def reshape(node: ir.Node, builder: Coupler) -> None:
    """An axis that is split passes its channels to one of its factors; merged axes, to the axis that holds them."""
    value, output = node.inputs[0], node.outputs[0]
    before, after = builder.dims(value), builder.dims(output)
    tracked = builder.tracked(value)
    if value is None or (not tracked and not builder.is_constant(value)):
        return
    if before is None or after is None:
        builder.freeze_inputs(node, f"the shapes at node '{node.name}' ({node.op_type}) are not known")
        return
    after = builder.shapes[output] = completed(before, after)
    if node.op_type == "Reshape" and not expressible(before, after) and _computed_from_channels(node, builder, after):
        builder.freeze_inputs(node, f"node '{node.name}' (Reshape) to {_text(after)} cannot be given in numbers")
        return
    covered: set[int] = set()
    for segment in segments(before, after):
        covered.update(segment.inputs)
        _segment_links(node, builder, segment, len(before))
    for axis, known in tuple(tracked.items()):
        if axis not in covered:
            builder.freeze(
                known,
                f"node '{node.name}' ({node.op_type}) from {_text(before)} to {_text(after)} does "
                "not split or merge whole axes",
            )


def completed(before: ir.Dims, after: ir.Dims) -> ir.Dims:
    """`after` with a size that is not known, where it is all that known sizes of `before` can become."""
    front = back = 0
    shortest = min(len(before), len(after))
    while front < shortest and before[front] is not None and before[front] == after[front]:
        front += 1
    while back < shortest - front and before[-1 - back] is not None and before[-1 - back] == after[-1 - back]:
        back += 1
    rest = before[front : len(before) - back]
    if len(after) - front - back != 1 or isinstance(after[front], int) or not rest:
        return after
    if not all(isinstance(size, int) for size in rest):
        return after
    return (*after[:front], math.prod(int(size or 0) for size in rest), *after[front + 1 :])


def _computed_from_channels(node: ir.Node, builder: Coupler, after: ir.Dims) -> bool:
    """Whether a size that stays computed, as it is not known, is computed from a number of channels."""
    elements = builder.sizes.get(node.inputs[1], []) if node.inputs[1] is not None else []
    return any(
        not isinstance(size, int) and (isinstance(element, Axis) or (isinstance(element, frozenset) and element))
        for element, size in zip(elements, after, strict=False)
    )


def _text(dims: ir.Dims) -> str:
    return "[" + ",".join(str(size) if size is not None else "?" for size in dims) + "]"


def _segment_links(node: ir.Node, builder: Coupler, segment: Segment, rank: int) -> None:
    value, output = node.inputs[0], node.outputs[0]
    assert value is not None
    taken: set[int] = set()  # output axes that carry channels already
    constant = builder.is_constant(value)
    for axis, factors in sorted(segment.inputs.items()):
        found = builder.constant(node, 0, axis) if constant else builder.get(value, axis)
        if found is None:
            continue
        carrier = _carrier(builder, found, segment.factors, factors, axis == rank - 1)
        place, outer = next((p, r) for p, r in segment.outputs.items() if carrier in r)
        if place in taken:
            builder.freeze(found, f"node '{node.name}' ({node.op_type}) merges it with channels of another axis")
            continue
        taken.add(place)
        size = math.prod(segment.factors[f] for f in outer)
        made = builder.track(output, place, size, found.zero)
        if constant:
            builder.derived.add(output)
        mine, theirs = _coordinate(segment.factors, factors, carrier), _coordinate(segment.factors, outer, carrier)
        if found.size == size and np.array_equal(mine, theirs) and len(np.unique(mine)) == size:
            builder.equal(made, found)
            continue
        _, first = np.unique(theirs, return_index=True)
        builder.couple(made, theirs)
        builder.link(found, made, np.arange(found.size), first[mine])
    for place in segment.outputs:
        if place not in taken:
            builder.untracked(output, place, f"node '{node.name}' ({node.op_type}) keeps its channels in another axis")


def _carrier(builder: Coupler, found: Axis, factors: tuple[int, ...], own: range, last_axis: bool) -> int:
    """Which factor of an axis carries its channels. Heads of an attention come first, channels of a group last."""
    if len(own) == 1:
        return own[0]
    key = tuple(factors[factor] for factor in own)
    builder.split.setdefault(key, []).append(found)
    default = 0 if last_axis and len(own) == 2 else 1 if last_axis else len(own) - 1
    return own[builder.choices.get(key, default)]


def _coordinate(factors: tuple[int, ...], own: range, factor: int) -> np.ndarray:
    """The coordinate along one factor of each index of an axis made of `own`."""
    after = math.prod(factors[f] for f in own if f > factor)
    return np.arange(math.prod(factors[f] for f in own)) // after % factors[factor]
