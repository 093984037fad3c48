"""The shapes of a model's values, recorded and inferred."""

from __future__ import annotations

from typing import TypeAlias

import onnx

from lwgraph.ir.saving import skeleton
from lwgraph.ir.types import Model, Value
from lwgraph.ir.walk import values

Dims: TypeAlias = "tuple[int | str | None, ...]"


def infer_shapes(model: Model) -> dict[Value, Dims]:
    """The sizes of the main graph's values, as far as they are recorded or follow by ONNX's shape inference.

    Each size is a number, a name (one name, one size) or None. Values of unknown rank are missing. The model is not
    changed and its data not read (integers of up to 64 KiB excepted, which may be shapes).
    """
    found: dict[str, Dims] = {}
    graph = onnx.shape_inference.infer_shapes(skeleton(model), data_prop=True).graph
    for info in (*graph.value_info, *graph.input, *graph.output):
        kind = info.type.tensor_type
        if info.type.HasField("tensor_type") and kind.HasField("shape"):
            found[info.name] = tuple(
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in kind.shape.dim)
    shapes: dict[Value, Dims] = {}
    for value in values(model.graph):
        known = found.get(value.name or "")
        if value.const_value is not None and not value.is_graph_input():
            shapes[value] = tuple(int(size) for size in value.const_value.shape.numpy())
            continue
        recorded = None if value.shape is None else tuple(
            size if isinstance(size, int) else size.value for size in value.shape)
        if known is not None and recorded is not None and len(known) == len(recorded):
            known = tuple(_better(*sizes) for sizes in zip(known, recorded, strict=True))
        known = recorded if known is None else known
        if known is not None:
            shapes[value] = known
    return shapes


def _better(a: int | str | None, b: int | str | None) -> int | str | None:
    """The more telling of two descriptions of one size."""
    if isinstance(a, int) or b is None:
        return a
    return b if isinstance(b, int) or a is None else a
