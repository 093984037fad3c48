"""Checks a quantized model in two executors, grid by grid.

A float layer rounds a little otherwise in each runtime, so a value that lies between two integers may become either,
and further on such steps add up to more than rounding. Therefore every integer tensor is compared by itself: the
reference computes each from those before it as the target has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.contract import Contract
from lwgraph.executor import Executor, Feeds
from lwgraph.measure.compare import compare
from lwgraph.measure.tolerances import tolerance
from lwgraph.report import Check

WHAT = "both executors agree, every integer tensor within one step"
_GRIDS = (
    "QuantizeLinear",
    "DynamicQuantizeLinear",
)  # a grid that is known, or one of the values themselves


def quantizes(model: ir.Model) -> bool:
    """Whether activations are put on integer grids in the main graph."""
    return any(node.op_type in _GRIDS for node in model.graph)


def same_integers(model: ir.Model, target: Executor, reference: Executor, feeds: Sequence[Feeds]) -> Check:
    """Whether two executors agree at every integer tensor, given the same integers before it, and at the outputs.

    Integers may lie one step apart; outputs as far as rounding allows (where a loop quantizes inside, as far as the
    table's "approximate" allows). One run of each executor per feed; memory: all integer tensors of one feed.
    """
    names, forced = _forced(model)
    outputs = [v.name or "" for v in model.graph.outputs]
    both = list(dict.fromkeys([*outputs, *names]))
    inner = any(
        node.op_type == "QuantizeLinear" for scope in ir.scopes(model) if scope is not model.graph for node in scope
    )
    runs = target.prepare(model, both), reference.prepare(forced, both)
    found = None
    for feed in feeds:
        truth = runs[0](feed)
        again = runs[1]({**feed, **{_given(name): np.asarray(truth[name]) for name in names}})
        integers = compare(_part(again, names), _part(truth, names), Contract.ROUNDING)
        floats = compare(
            _part(again, outputs),
            _part(truth, outputs),
            Contract.ROUNDING,
            tolerances=(lambda dtype: tolerance(Contract.APPROXIMATE, dtype)) if inner else None,
        )
        for part in (integers, floats):
            if found is None or (not part.ok and found.ok):
                found = part
    assert found is not None
    detail = f"{len(names)} integer tensors within one step; {found}" if found.ok else str(found)
    return Check(WHAT, f"{reference.name} and {target.name}", "rounding", found.ok, detail)


def _given(name: str) -> str:
    return f"lwgraph.given.{name}"


def _part(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: values[name] for name in names}


def _forced(model: ir.Model) -> tuple[list[str], ir.Model]:
    """The integer tensors by name, with grids taken as the model runs, and a copy in which readers have new inputs."""
    copy, names = ir.clone(model), []
    for value, dtype in [pair for n in copy.graph if n.op_type in _GRIDS for pair in _on_grid(n)]:
        if value.is_graph_output() or not value.name:
            continue
        given = ir.Value(name=_given(value.name), type=ir.TensorType(dtype), shape=value.shape)
        copy.graph.inputs.append(given)
        for use in list(value.uses()):
            use.node.replace_input_with(use.idx, given)
        value.dtype = dtype
        names.append(value.name)
    return names, copy


def _on_grid(node: ir.Node) -> list[tuple[ir.Value, ir.DataType]]:
    """What readers of a quantizing node take from it, with the types."""
    if node.op_type == "DynamicQuantizeLinear":
        return list(zip(node.outputs, (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8), strict=False))
    value, zero = node.outputs[0], node.inputs[2] if len(node.inputs) > 2 else None
    return [(value, ir.constant_dtype(zero) or value.dtype or ir.DataType.UINT8)]


__all__ = ["WHAT", "quantizes", "same_integers"]
