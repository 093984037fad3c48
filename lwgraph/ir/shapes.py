"""The shapes of a model's values, recorded and inferred."""

from __future__ import annotations

from typing import TypeAlias

import onnx

from lwgraph import heap
from lwgraph.ir.inference import inferred_types
from lwgraph.ir.propagation import infer
from lwgraph.ir.saving import skeleton
from lwgraph.ir.types import DataType, Model, Shape, TensorType, Value
from lwgraph.ir.walk import values

Dims: TypeAlias = "tuple[int | str | None, ...]"


def infer_shapes(model: Model) -> dict[Value, Dims]:
    """The sizes of the main graph's values, as far as they are recorded or follow by ONNX's shape inference.

    Each size is a number, a name (one name, one size) or None. Values of unknown rank are missing. The model is not
    changed and its data not read (integers of up to 64 KiB excepted, which may be shapes).
    """
    found: dict[str, Dims] = {}
    graph = infer(skeleton(model)).graph
    for info in (*graph.value_info, *graph.input, *graph.output):
        kind = info.type.tensor_type
        if info.type.HasField("tensor_type") and kind.HasField("shape"):
            found[info.name] = tuple(
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in kind.shape.dim
            )
    del graph
    heap.trim()
    shapes: dict[Value, Dims] = {}
    for value in values(model.graph):
        known = found.get(value.name or "")
        if value.const_value is not None and not value.is_graph_input():
            shapes[value] = tuple(int(size) for size in value.const_value.shape.numpy())
            continue
        recorded = (
            None
            if value.shape is None
            else tuple(size if isinstance(size, int) else size.value for size in value.shape)
        )
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


def record_shapes(model: Model) -> int:
    """Write inferred types and shapes onto the main graph's values, and return how many values changed.

    What is inferred from the inputs replaces what was recorded, since exporters record the sizes of one example; what
    was recorded for the operators of other domains, which ONNX cannot infer, is trusted. Graph inputs and outputs keep
    what they declare.
    """
    inferred = inferred_types(model)
    changed = 0
    for node in model.graph:
        for value in node.outputs:
            kind = inferred.get(value.name or "")
            if kind is None or value.is_graph_output() or not kind.HasField("tensor_type"):
                continue
            changed += _record(value, kind.tensor_type)
    return changed


def _record(value: Value, kind: onnx.TypeProto.Tensor) -> bool:
    type_, shape = value.type, value.shape
    if kind.elem_type and (type_ is None or type_.dtype != kind.elem_type):
        type_ = TensorType(DataType(kind.elem_type))
    if kind.HasField("shape"):
        dims = [dim.dim_value if dim.HasField("dim_value") else _name(dim.dim_param) for dim in kind.shape.dim]
        if shape is not None and len(shape) == len(dims):
            recorded = [size if isinstance(size, int) else size.value for size in shape]
            dims = [new if new is not None else old for new, old in zip(dims, recorded, strict=True)]
            if dims != recorded:
                shape = Shape(dims)
        else:
            shape = Shape(dims)
    if type_ is value.type and shape is value.shape:
        return False
    value.type, value.shape = type_, shape
    return True


def _name(symbol: str) -> str | None:
    """A symbol that comes from the model; those that inference makes up mean unknown."""
    return None if not symbol or symbol.startswith("unk__") else symbol
