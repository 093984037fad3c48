"""Checks the structure of graphs: ownership, definition, uses, names, outputs."""

from __future__ import annotations

from lwgraph import ir
from lwgraph.check.error import InvariantError, named


def check_structure(model: ir.Model) -> None:
    """Invariants 1 to 5, in one walk over the model."""
    checker = _StructureCheck()
    checker.graph(model.graph, {})
    for function in model.functions.values():
        if len(function.graph.initializers):
            raise InvariantError(
                "ownership",
                f"function '{function.domain}::{function.name}' has initializers, which ONNX functions cannot have",
                scope=function.graph,
            )
        checker.graph(function.graph, {})
    checker.uses()


class _StructureCheck:
    def __init__(self) -> None:
        self.nodes: dict[ir.Node, ir.Graph] = {}
        self.values: list[ir.Value] = []
        self.graphs: set[ir.Graph] = set()

    def graph(self, graph: ir.Graph, around: dict[str, ir.Value]) -> None:
        """Check one graph and those inside it; `around` is what the names of the graphs outside mean at this point."""
        if graph in self.graphs:
            raise InvariantError("ownership", "the graph belongs to two nodes", scope=graph)
        self.graphs.add(graph)
        own: dict[str, ir.Value] = {}
        visible = dict(around) if around else own  # a main graph needs no second table
        for value in graph.inputs:
            if not value.is_graph_input() or value.graph is not graph or value.producer() is not None:
                raise InvariantError(
                    "ownership", f"input '{value.name}' does not know that it is one", value=value, scope=graph
                )
            self.define(value, graph, own, visible)
        for name, value in graph.initializers.items():
            if not value.is_initializer() or value.graph is not graph or value.producer() is not None:
                raise InvariantError(
                    "ownership", f"initializer '{name}' does not know that it is one", value=value, scope=graph
                )
            if value.name != name:
                raise InvariantError(
                    "names", f"initializer '{name}' calls itself '{value.name}'", value=value, scope=graph
                )
            if not value.is_graph_input():
                self.define(value, graph, own, visible)
        node_names: dict[str, ir.Node] = {}
        for node in graph:
            self.node(node, graph, visible, own)
            if node.name and node_names.setdefault(node.name, node) is not node:
                raise InvariantError(
                    "names",
                    f"two nodes are named '{node.name}': {node.op_type} and {node_names[node.name].op_type}",
                    node=node,
                    scope=graph,
                )
        for output in graph.outputs:
            if own.get(output.name or "") is not output:
                raise InvariantError(
                    "outputs", f"output '{output.name}' is not defined in its graph", value=output, scope=graph
                )
            if not output.is_graph_output():
                raise InvariantError(
                    "ownership", f"output '{output.name}' does not know that it is one", value=output, scope=graph
                )

    def define(self, value: ir.Value, graph: ir.Graph, own: dict[str, ir.Value], visible: dict[str, ir.Value]) -> None:
        self.values.append(value)
        if not value.name:
            if value.producer() is None or value.uses() or value.is_graph_output():
                raise InvariantError(
                    "names", "a value that is used has no name", value=value, node=value.producer(), scope=graph
                )
            return
        if value.name in own:
            raise InvariantError(
                "names", f"two values are named '{value.name}'", value=value, node=value.producer(), scope=graph
            )
        own[value.name] = visible[value.name] = value

    def node(self, node: ir.Node, graph: ir.Graph, visible: dict[str, ir.Value], own: dict[str, ir.Value]) -> None:
        if node.graph is not graph:
            raise InvariantError(
                "ownership", f"{named(node)} does not know the graph that it is in", node=node, scope=graph
            )
        self.nodes[node] = graph
        for value in node.inputs:
            if value is not None and visible.get(value.name or "") is not value:
                self.undefined(node, value, graph, visible)
        for subgraph in ir.subgraphs_of(node):
            self.graph(subgraph, visible)
        for index, value in enumerate(node.outputs):
            if value.producer() is not node or value.index() != index:
                raise InvariantError(
                    "ownership",
                    f"output {index} of {named(node)}, '{value.name}', does not know it as its maker",
                    node=node,
                    value=value,
                    scope=graph,
                )
            self.define(value, graph, own, visible)

    def undefined(self, node: ir.Node, value: ir.Value, graph: ir.Graph, visible: dict[str, ir.Value]) -> None:
        """Say why `value` is not what its name means where `node` uses it."""
        words, maker = f"{named(node)} uses '{value.name}'", value.producer()
        other = visible.get(value.name or "")
        if other is not None and value.graph is not None and value.graph is not graph:
            raise InvariantError(
                "names",
                f"{words} of graph '{value.graph.name}', which another value of that name hides",
                node=node,
                value=value,
                scope=graph,
            )
        if maker is not None and maker.graph is None:
            raise InvariantError(
                "definition",
                f"{words}, whose maker {named(maker)} is no longer in a graph",
                node=node,
                value=value,
                scope=graph,
            )
        if maker is not None and maker.graph is graph:
            raise InvariantError(
                "definition", f"{words} before {named(maker)} makes it", node=node, value=value, scope=graph
            )
        if value.graph is None:
            raise InvariantError("definition", f"{words}, which nothing defines", node=node, value=value, scope=graph)
        raise InvariantError(
            "definition",
            f"{words}, which graph '{value.graph.name}' defines and cannot be seen from here",
            node=node,
            value=value,
            scope=graph,
        )

    def uses(self) -> None:
        """Compare what the values know of their users with what the nodes use."""
        known = 0
        for value in self.values:
            for user, index in value.uses():
                if user not in self.nodes:
                    raise InvariantError(
                        "uses",
                        f"'{value.name}' is still used by {named(user)}, which is no longer "
                        "in the model (removed without detaching its inputs?)",
                        node=value.producer(),
                        value=value,
                    )
                if index >= len(user.inputs) or user.inputs[index] is not value:
                    raise InvariantError(
                        "uses",
                        f"'{value.name}' believes to be input {index} of {named(user)}, and is not",
                        node=user,
                        value=value,
                    )
                known += 1
        if known == sum(value is not None for node in self.nodes for value in node.inputs):
            return
        for node in self.nodes:
            for index, used in enumerate(node.inputs):
                if used is not None and (node, index) not in set(used.uses()):
                    raise InvariantError(
                        "uses",
                        f"'{used.name}' does not know that it is input {index} of {named(node)}",
                        node=node,
                        value=used,
                    )
