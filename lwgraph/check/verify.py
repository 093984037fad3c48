"""Runs the checks in an order in which each may rely on those before it."""

from __future__ import annotations

from lwgraph import heap, ir
from lwgraph.check.data import check_data
from lwgraph.check.operators import check_operators
from lwgraph.check.shapes import check_shapes
from lwgraph.check.structure import check_structure


def verify(model: ir.Model, *, shapes: bool = True) -> None:
    """Check every invariant that `lwgraph.check` lists. O(nodes + uses), no data is read.

    Args:
        model: the model; not changed.
        shapes: also compare with shape inference, which takes longer than all the rest.

    Raises:
        InvariantError: the first broken invariant, with the node and its neighbours in `.detail`.
    """
    check_structure(model)
    check_operators(model)
    check_data(model)
    if shapes:
        check_shapes(model)
        heap.trim()  # what the serialized model took
