"""Names the parts of a transformer that groups of channels are: the heads of an attention, a feed-forward layer."""

from __future__ import annotations

from collections import defaultdict

from lwgraph import ir
from lwgraph.views.coupling.groups import Coupling, Group

HEADS, FEED_FORWARD = "heads", "feed-forward"


def part_of(group: Group) -> str:
    """HEADS, FEED_FORWARD, or "" for channels of another kind.

    Heads are channels between products of two activations, on an axis that neither product sums over; a feed-forward
    layer's neurons are made by dense layers without a kernel, and then read by others.
    """
    if not group.weights("out"):
        return ""
    if any(_is_batch(each.axis.value, each.axis.axis) for each in group.slices if not each.is_constant):
        return HEADS
    dense = all(ir.operator(node) in ir.PRODUCTS for node in (*group.makers, *group.readers))
    return FEED_FORWARD if dense and group.readers and not group.caveats and not _residual(group) else ""


def _is_batch(value: ir.Value, axis: int) -> bool:
    """Whether a product of two activations, or the operator of a whole attention, repeats along the axis."""
    for node, index in value.uses():
        kind = ir.operator(node)
        if kind == "Attention" and index < 3:
            return True
        if kind == "MatMul" and not any(ir.is_constant(operand) for operand in node.inputs):
            shape = value.shape
            return shape is None or axis < len(shape) - 2
    return False


def _residual(group: Group) -> bool:
    """Whether a layer that reads the channels comes before one that makes them: a stream to which layers add."""
    graph = group.makers[0].graph
    place = {node: index for index, node in enumerate(graph if graph is not None else ())}
    return max(place[node] for node in group.makers) > min(place[node] for node in group.readers)


def parts(coupling: Coupling) -> dict[Group, str]:
    """What each group is in words, of those that are parts of a transformer: "layer 3: heads".

    Layers are counted from 0, as exporters do: each begins with its heads.
    """
    place = {node: index for index, node in enumerate(coupling.builder.graph)}
    found = [(group, part_of(group)) for group in coupling.groups]
    named = [(group, part) for group, part in found if part]
    named.sort(key=lambda item: min((place.get(node, 0) for node in item[0].makers), default=0))
    words: dict[Group, str] = {}
    layer = -1
    taken: set[str] = set()
    for group, part in named:
        if layer < 0 or part in taken or part == HEADS:
            layer, taken = layer + 1, set()
        taken.add(part)
        words[group] = f"layer {layer}: {part}"
    return words


def summary(coupling: Coupling) -> list[str]:
    """One line for each layer: "layer 3: feed-forward, 1,536 of them; heads, 12"."""
    lines: dict[str, list[str]] = defaultdict(list)
    for group, words in parts(coupling).items():
        layer, _, part = words.partition(": ")
        count = f"{part}, {group.width:,}" + (" of them" if part == FEED_FORWARD else "")
        lines[layer].append(count + (f" (frozen: {group.frozen})" if group.frozen else ""))
    return [f"{layer}: {'; '.join(sorted(each))}" for layer, each in lines.items()]


__all__ = ["FEED_FORWARD", "HEADS", "part_of", "parts", "summary"]
