"""The error of a broken invariant: one line, and the place in the graph around it."""

from __future__ import annotations

from collections.abc import Sequence

from lwgraph import ir
from lwgraph.errors import CheckError
from lwgraph.text import node_text, value_text

_NEIGHBOURS = 4  # nodes shown before and after


class InvariantError(CheckError):
    """A broken invariant.

    Attributes:
        invariant: its name in `lwgraph.check`: "ownership", "definition", "uses" ...
        node: the node at fault, if one is.
        value: the value at fault, if one is.
        detail: several lines: the message, the node, what makes its inputs and what uses its outputs.
    """

    def __init__(
        self,
        invariant: str,
        message: str,
        *,
        node: ir.Node | None = None,
        value: ir.Value | None = None,
        scope: ir.Graph | None = None,
    ) -> None:
        where = f" (graph '{scope.name}')" if scope is not None and scope.name else ""
        super().__init__(f"{message}{where}")
        self.invariant, self.node, self.value = invariant, node, value
        self.detail = "\n".join([f"{invariant}: {message}{where}", *_surroundings(node, value)])


def named(node: ir.Node) -> str:
    """A node in words: `node 'conv1' (Conv)`, or by its output when it has no name."""
    output = next((value.name for value in node.outputs if value.name), None)
    name = f"'{node.name}'" if node.name else f"that makes '{output}'" if output else "without a name"
    return f"node {name} ({node.op_type})"


def _surroundings(node: ir.Node | None, value: ir.Value | None) -> list[str]:
    if node is None and value is not None:
        node = value.producer()
    if node is None:
        if value is None:
            return []
        return [f"   {value_text(value)}", *_some(value.consumers(), "->")]
    makers = list(
        dict.fromkeys(maker for used in node.inputs if used is not None and (maker := used.producer()) is not None)
    )
    users = list(dict.fromkeys(user for output in node.outputs for user in output.consumers()))
    return [*_some(makers, "  "), f">> {node_text(node)}", *_some(users, "->")]


def _some(nodes: Sequence[ir.Node], sign: str) -> list[str]:
    lines = [f"{sign} {node_text(node)}" for node in nodes[:_NEIGHBOURS]]
    return [*lines, f"{sign} ... {len(nodes) - _NEIGHBOURS} more"] if len(nodes) > _NEIGHBOURS else lines
