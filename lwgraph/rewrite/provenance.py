"""What a node that a pass made says of itself: the pass, and the nodes of the original model that it stands for."""

from __future__ import annotations

from lwgraph import ir

PASS_KEY, FROM_KEY = "lwgraph.pass", "lwgraph.from"  # of a node's metadata


def mark(node: ir.Node, made_by: str, origin: str) -> None:
    """Write who made a node, and from what."""
    node.metadata_props[PASS_KEY] = made_by
    node.metadata_props[FROM_KEY] = origin


__all__ = ["FROM_KEY", "PASS_KEY", "mark"]
