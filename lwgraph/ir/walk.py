"""Walks over the graphs of a model, and from a graph to its parent and opset."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator

from lwgraph.errors import ModelError
from lwgraph.ir.types import AttributeType, Function, Graph, Model, Node, Value

# A subgraph -> the graph of the node that holds it. onnx_ir has no such link. Filled by `link`.
_parents: weakref.WeakKeyDictionary[Graph, weakref.ref[Graph]] = weakref.WeakKeyDictionary()
_roots: weakref.WeakSet[Graph] = weakref.WeakSet()  # graphs known to have no parent: asking for one costs O(1)
_WITH_SUBGRAPHS = frozenset({"If", "Loop", "Scan", "SequenceMap"})  # the standard operators with subgraphs


def scopes(model: Model) -> Iterator[Graph | Function]:
    """The main graph, its nested subgraphs, and every function with its subgraphs."""
    yield model.graph
    yield from _below(model.graph)
    for function in model.functions.values():
        yield function
        yield from _below(function)


def _below(scope: Graph | Function) -> Iterator[Graph]:
    """The subgraphs of a graph, each before those inside it."""
    for node in scope:
        for subgraph in subgraphs_of(node):
            yield subgraph
            yield from _below(subgraph)


def subgraphs_of(node: Node) -> tuple[Graph, ...]:
    """The graphs that are attributes of `node` (the branches of If, the body of Loop and Scan), not nested deeper."""
    if not node.attributes or (node.domain == "" and node.op_type not in _WITH_SUBGRAPHS):
        return ()
    found: list[Graph] = []
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return tuple(found)


def graph_of(scope: Graph | Function) -> Graph:
    """The Graph of a function; a graph itself."""
    return scope.graph if isinstance(scope, Function) else scope


def link(roots: Iterable[Graph | Function]) -> None:
    """Record, for every subgraph below `roots`, its parent graph and its root's opset imports. O(nodes)."""
    pending = [graph_of(root) for root in roots]
    _roots.update(pending)
    while pending:
        graph = pending.pop()
        for node in graph:
            for subgraph in subgraphs_of(node):
                _parents[subgraph] = weakref.ref(graph)
                subgraph.opset_imports.update(graph.opset_imports)
                pending.append(subgraph)


def adopt(graph: Graph, node: Node) -> None:
    """Record that the subgraphs of `node`, moved here from another graph, are now below `graph`."""
    for subgraph in subgraphs_of(node):
        _parents[subgraph] = weakref.ref(graph)


def parent(graph: Graph) -> Graph | None:
    """The graph whose node holds `graph`, None for a main graph or a function's graph.

    A graph that was attached after loading is found by the outer values that it uses.
    """
    known = _parents.get(graph)
    if known is not None:
        return known()
    if graph in _roots:
        return None
    inner = {graph, *graph.subgraphs()}
    for scope in inner:
        for node in scope:
            for value in node.inputs:
                if value is not None and value.graph is not None and value.graph not in inner:
                    _parents[graph] = weakref.ref(value.graph)
                    return value.graph
    return None


def root(graph: Graph | Function) -> Graph:
    """The outermost graph around `graph`: a model's main graph or a function's graph."""
    current = graph_of(graph)
    while (above := parent(current)) is not None:
        current = above
    return current


def opset(node: Node) -> int:
    """The opset version of the node's domain, as its model or function imports it.

    Raises:
        ModelError: the node is in no graph, or the domain is not imported.
    """
    if node.version is not None:
        return node.version
    graph = node.graph
    if graph is None:
        raise ModelError(f"node '{node.name}' ({node.op_type}) is in no graph, so its opset version is unknown")
    graph = graph_of(graph)
    version = graph.opset_imports.get(node.domain)
    if version is None:
        version = root(graph).opset_imports.get(node.domain)
    if version is None:
        raise ModelError(
            f"node '{node.name}' ({node.op_type}) is in domain '{node.domain}', "
            f"which the model does not import; known: {sorted(root(graph).opset_imports)}"
        )
    return version


def values(scope: Graph | Function) -> Iterator[Value]:
    """The values that `scope` itself defines: inputs, initializers, node outputs; each once."""
    graph = graph_of(scope)
    yield from graph.inputs
    for value in graph.initializers.values():
        if not value.is_graph_input():
            yield value
    for node in graph:
        yield from node.outputs


def uses(node: Node) -> Iterator[Value]:
    """The values that `node` uses, those used inside its subgraphs included; repeated uses repeatedly."""
    yield from (value for value in node.inputs if value is not None)
    for subgraph in subgraphs_of(node):
        for inner in subgraph:
            yield from uses(inner)


def is_sorted(scope: Graph | Function) -> bool:
    """Whether every node of `scope` and of its subgraphs comes after the nodes whose outputs it uses. O(nodes)."""
    return first_unsorted(graph_of(scope), set()) is None


def first_unsorted(graph: Graph, done: set[Node]) -> tuple[Node, Value] | None:
    """The first node that uses an output of a node that is neither before it nor in `done`, and that output.

    A node counts as done after its subgraphs; what another graph's nodes give must be in `done` beforehand.
    """
    for node in graph:
        for value in node.inputs:
            maker = value.producer() if value is not None else None
            if value is not None and maker is not None and maker not in done:
                return node, value
        for subgraph in subgraphs_of(node):
            found = first_unsorted(subgraph, done)
            if found is not None:
                return found
        done.add(node)
    return None
