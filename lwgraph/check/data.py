"""Checks that initializers hold as much data as they declare; the data itself is not read."""

from __future__ import annotations

from typing import Any

from lwgraph import ir
from lwgraph.check.error import InvariantError


def check_data(model: ir.Model) -> None:
    """Invariant 10."""
    for scope in ir.scopes(model):
        graph = ir.graph_of(scope)
        for value in graph.initializers.values():
            _initializer(value, graph)


def _initializer(value: ir.Value, graph: ir.Graph) -> None:
    def broken(message: str) -> InvariantError:
        return InvariantError("data", f"initializer '{value.name}' {message}", value=value, scope=graph)

    tensor = value.const_value
    if tensor is None:
        raise broken("has no data")
    shape = list(tensor.shape.numpy())
    if isinstance(value.type, (ir.SequenceType, ir.OptionalType)) or (
        value.dtype is not None and value.dtype != tensor.dtype
    ):
        raise broken(f"is recorded as {value.type} and holds {tensor.dtype.name}")
    if value.shape is not None and not _agree(list(value.shape), shape):
        raise broken(f"is recorded with shape {value.shape} and holds {shape}")
    held = ir.held(tensor)
    if held is not None:
        elements, room = held
        if elements != tensor.size:
            raise broken(f"declares shape {shape}, {tensor.size} elements, and holds {elements}{room}")


def _agree(recorded: list[Any], held: list[int]) -> bool:
    return len(recorded) == len(held) and all(
        not isinstance(size, int) or size == other for size, other in zip(recorded, held, strict=True)
    )
