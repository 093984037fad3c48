"""Puts a replacement where its match stands: names, types, uses, order, provenance, and removal of dead nodes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lwgraph import ir
from lwgraph.rewrite.base import Skip
from lwgraph.rewrite.builder import Builder
from lwgraph.rewrite.match import Match
from lwgraph.rewrite.provenance import FROM_KEY, mark

_FINEST = 1e-6  # positions nearer than this are numbered anew
_NAMES_KEPT = 4  # names kept of the nodes that a new node stands for


@dataclass(frozen=True)
class Changed:
    """The neighbourhood of a rewrite: nodes to look at again, and values that lost a user."""

    starts: list[ir.Node]
    freed: list[ir.Value]


def commit(
    graph: ir.Graph,
    found: Match,
    results: tuple[ir.Value, ...],
    builder: Builder,
    name: str,
    order: dict[ir.Node, float] | None,
) -> Changed:
    """Replace the outputs of `found` by `results`; Skip, with nothing changed, when that cannot be done.

    O(nodes of the match and of the replacement, and uses of the replaced values).
    """
    if (
        len(found.nodes) == 1
        and found.nodes[0].op_type == "Identity"
        and any(
            not _can_take_name(result, graph, results)
            for result, old in zip(results, found.outputs, strict=True)
            if old.is_graph_output()
        )
    ):
        raise Skip("an output of the graph keeps its Identity")
    made = _needed(builder, results)
    before = _place(graph, found, made, results, order)
    stem = found.nodes[0].name or found.nodes[0].op_type
    adopted, constants = _adopt_constants(graph, made, results, builder, stem)
    new = [*constants, *made]
    results = tuple(adopted.get(result, result) for result in results)
    _name(graph, made, results, found, stem, builder._copied)
    _stamp(made, found, name)
    graph.insert_before(before, new)
    if order is not None:
        _number(graph, before, new, order)
    users = [use.node for old in found.outputs for use in old.uses()]
    leaves = dict.fromkeys(v for n in found.nodes for v in n.inputs if v is not None)
    for old, result in zip(found.outputs, results, strict=True):
        _inherit(result, old)
        ir.replace_uses(old, result)
    ir.sweep(found.nodes)
    freed = [v for v in leaves if (p := v.producer()) is not None and p.graph is graph]
    return Changed([*new, *users], freed)


def _can_take_name(result: ir.Value, graph: ir.Graph, results: tuple[ir.Value, ...]) -> bool:
    producer = result.producer()
    if producer is None or (producer.graph is not None and producer.graph is not graph):
        return False
    return not result.is_graph_output() and results.count(result) == 1


def _needed(builder: Builder, results: Iterable[ir.Value]) -> list[ir.Node]:
    """The built nodes that the results depend on, in the order in which they were built; the others are dropped."""
    needed: set[ir.Node] = set()
    pending = [r.producer() for r in results]
    built = set(builder._nodes)
    while pending:
        node = pending.pop()
        if node is not None and node in built and node not in needed:
            needed.add(node)
            pending += [v.producer() for v in node.inputs if v is not None]
    for node in builder._nodes:
        if node not in needed:
            ir.detach(node)
    return [node for node in builder._nodes if node in needed]


def _adopt_constants(
    graph: ir.Graph, made: list[ir.Node], results: tuple[ir.Value, ...], builder: Builder, stem: str
) -> tuple[dict[ir.Value, ir.Value], list[ir.Node]]:
    """Make the constants that are used part of the graph: initializers; inside a function, Constant nodes.

    Returns the values that stand for others, and the nodes.
    """
    used = {v for node in made for v in node.inputs} | set(results)
    adopted, nodes = {}, []
    for value in builder._constants:
        if value not in used:
            continue
        assert value.const_value is not None
        value.name = ir.fresh_name(graph, builder._hints.get(value) or f"{stem}_const")
        value.const_value.name = value.name
        if not builder._in_function:
            graph.initializers.add(value)
            continue
        node = ir.constant_node(value)
        output = node.outputs[0]
        node.name, output.name = ir.fresh_name(graph, f"{value.name}_node"), value.name
        output.type, output.shape = value.type, value.shape
        for use in value.uses():
            use.node.replace_input_with(use.idx, output)
        adopted[value] = output
        nodes.append(node)
    return adopted, nodes


def _name(
    graph: ir.Graph,
    made: list[ir.Node],
    results: tuple[ir.Value, ...],
    found: Match,
    stem: str,
    copied: Mapping[ir.Node, ir.Node],
) -> None:
    """A value that stands for another takes its name; the node of the first takes name and doc_string of the layer, and
    has no name where that has none: a name that nobody asked for only makes the file larger. A copy of another node of
    the match keeps that one's."""
    final = results[0].producer()
    layer = found.nodes[0] if final is None else _layer(found.nodes, final.op_type)
    replaced = {result: old.name for result, old in zip(reversed(results), reversed(found.outputs), strict=True)}
    again: dict[ir.Node, ir.Node] = {}  # of the match: its copy
    for node in made:
        old = copied.get(node)
        if node is not final and old in found.nodes and old is not layer:
            again.setdefault(old, node)
    for node in made:
        old = copied.get(node)
        if node is final:
            node.name = layer.name or ("" if found.nodes[0] in again else found.nodes[0].name)
            node.doc_string = node.doc_string or layer.doc_string
        elif old is not None and again.get(old) is node:
            node.name, node.doc_string = old.name, old.doc_string
        else:
            node.name = ir.fresh_name(graph, f"{stem}_{node.op_type}")
        for output in node.outputs:
            output.name = replaced.get(output) or ir.fresh_name(graph, f"{node.name or stem}_output")


def _layer(nodes: Sequence[ir.Node], op_type: str) -> ir.Node:
    """The node of a match that its replacement is: the one with weights, or of the same kind, or the anchor."""
    for wanted in (ir.LINEAR | ir.RECURRENT, {op_type}):
        if found := next((node for node in nodes if node.op_type in wanted), None):
            return found
    return nodes[0]


def _stamp(made: list[ir.Node], found: Match, name: str) -> None:
    """Provenance: which pass made the node, from which nodes of the original model."""
    origins: dict[str, None] = {}
    for node in found.nodes:
        texts = node.metadata_props[FROM_KEY].split(", ") if FROM_KEY in node.metadata_props else [node.name or ""]
        origins.update((text, None) for text in texts if text and text != "...")
    kept = list(origins)[:_NAMES_KEPT]
    text = ", ".join(kept + ["..."] * (len(origins) > len(kept)))
    for node in made:
        mark(node, name, text)


def _inherit(result: ir.Value, old: ir.Value) -> None:
    """Copy the type and shape of the replaced value to its replacement; a static size says more than a symbol."""
    if result.type is None:
        result.type = old.type
    if old.shape is None:
        return
    if result.shape is None:
        result.shape = old.shape.copy()
    elif len(result.shape) == len(old.shape) and result.producer() is not None:
        merged = [
            a if isinstance(a, int) or (not isinstance(b, int) and a.value) else b
            for a, b in zip(result.shape, old.shape, strict=True)
        ]
        result.shape = ir.Shape(merged)


def _place(
    graph: ir.Graph,
    found: Match,
    made: list[ir.Node],
    results: tuple[ir.Value, ...],
    order: dict[ir.Node, float] | None,
) -> ir.Node:
    """The node before which the replacement goes: after all it needs, before all that uses it.

    For a match with one output node that is the node itself. With several, a place may not exist: the new nodes would
    have to stand both before a user of one output and after an input of another.
    """
    if order is None or len({v.producer() for v in found.outputs}) == 1:
        return found.nodes[0]
    inside = set(found.nodes)
    needed = [v for node in made for v in node.inputs if v is not None] + list(results)
    latest = max((order[p] for v in needed if (p := v.producer()) in order), default=-math.inf)
    users = [use.node for v in found.outputs for use in v.uses() if use.node not in inside]
    if all(user in order for user in users):
        earliest = min((order[user] for user in users), default=math.inf)
        for node in sorted(inside, key=lambda n: order[n]):
            if latest < order[node] < earliest:
                return node
    raise Skip("its inputs and the users of its outputs leave no place to stand")


def _number(graph: ir.Graph, before: ir.Node, new: list[ir.Node], order: dict[ir.Node, float]) -> None:
    """Positions for the new nodes, between the node in front of them and `before`."""
    end = order[before]
    previous = ir.predecessor(new[0]) if new else None
    start = end - 1.0 if previous is None else order[previous]
    if (end - start) / (len(new) + 1) < _FINEST:
        order.update((node, float(i)) for i, node in enumerate(graph))
        return
    for index, node in enumerate(new, 1):
        order[node] = start + (end - start) * index / (len(new) + 1)
