"""The dataflow graph of a model, dominators, topological generations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

import networkx as nx

from lwgraph import ir

SOURCE: Final = "source"  # stands before every node that uses a graph input or nothing
SINK: Final = "sink"  # stands after every node that makes a graph output
Vertex: TypeAlias = "ir.Node | str"


def dataflow(scope: ir.Graph | ir.Function) -> nx.DiGraph[Vertex]:
    """The nodes of one graph, with an edge from the maker of a value to each of its users.

    An edge's attribute `values` lists the values it stands for. What a subgraph uses of the graph around it counts as
    used by the node that holds the subgraph. Initializers are not vertices. O(nodes + uses).
    """
    graph = ir.graph_of(scope)
    view: nx.DiGraph[Vertex] = nx.DiGraph()
    view.add_nodes_from(graph)
    for node in graph:
        for value in uses(node):
            maker = value.producer()
            if maker is None or maker.graph is not graph:
                continue
            if view.has_edge(maker, node):
                view.edges[maker, node]["values"].append(value)
            else:
                view.add_edge(maker, node, values=[value])
    return view


def uses(node: ir.Node) -> Iterator[ir.Value]:
    """The values that `node` uses, those used inside its subgraphs included; repeated uses repeatedly."""
    yield from (value for value in node.inputs if value is not None)
    for subgraph in ir.subgraphs_of(node):
        for inner in subgraph:
            yield from uses(inner)


def generations(scope: ir.Graph | ir.Function) -> list[list[ir.Node]]:
    """The nodes in layers: each uses only outputs of earlier layers. In a layer they keep the graph's order."""
    layers = nx.topological_generations(dataflow(scope))
    return [[node for node in layer if isinstance(node, ir.Node)] for layer in layers]


def _closed(scope: ir.Graph | ir.Function) -> nx.DiGraph[Vertex]:
    """The dataflow graph between SOURCE and SINK: a node that nothing uses and is no output leads to SINK as well."""
    graph, view = ir.graph_of(scope), dataflow(scope)
    inner = list(graph)
    outputs = {output.producer() for output in graph.outputs}
    for node in inner:
        if not view.in_degree(node) or any(value in graph.inputs for value in uses(node)):
            view.add_edge(SOURCE, node)
        if not view.out_degree(node) or node in outputs:
            view.add_edge(node, SINK)
    if not inner:
        view.add_edge(SOURCE, SINK)
    return view


def dominators(scope: ir.Graph | ir.Function) -> dict[Vertex, Vertex]:
    """The immediate dominator of each node (and SINK): the last node that all paths from the inputs to it share.

    SOURCE where there is no such node. Cost: Cooper, Harvey and Kennedy 2001, near linear on real models.
    """
    return _immediate(_closed(scope), SOURCE)


def post_dominators(scope: ir.Graph | ir.Function) -> dict[Vertex, Vertex]:
    """The first node that all paths from each node (and SOURCE) to the outputs share; SINK if there is none."""
    return _immediate(_closed(scope).reverse(copy=False), SINK)


def _immediate(view: nx.DiGraph[Vertex], start: str) -> dict[Vertex, Vertex]:
    found = nx.immediate_dominators(view, start)
    return {node: above for node, above in found.items() if node != start}
