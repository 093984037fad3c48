"""Reads the runtime's optimized graph back, to see what it really does with a quantized model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from lwgraph import ir
from lwgraph.executor import Executor, ShowsGraph, offered
from lwgraph.measure.kernels import is_integer_kernel, kernels


def failures(executor: Executor, model: ir.Model, compute: Sequence[str]) -> Mapping[str, str] | None:
    """Which of the compute nodes did not become an integer kernel -> why, as far as the graph tells.

    None when the executor cannot say.
    """
    ran = kernels(executor, model)
    if ran is None:
        return None
    nodes = {node.name: node for node in model.graph}
    reasons: dict[str, str] = {}
    for name in compute:
        op = ran.get(name)
        if op is not None and is_integer_kernel(op):
            continue
        reasons[name] = _reason(nodes.get(name), op)
    return reasons


def unpacked(executor: Executor, model: ir.Model) -> set[str] | None:
    """Names of the integer initializers that the runtime turns into floats at every run; None when it cannot say."""
    able = offered(executor, ShowsGraph)
    if able is None:
        return None
    return {node.input[0] for node in able.optimized(model).graph.node if node.op_type == "DequantizeLinear"} & set(
        model.graph.initializers
    )


def kept(executor: Executor, model: ir.Model, values: Collection[str]) -> set[str]:
    """Which of some values are still computed at every run, after the runtime has folded what it folds."""
    able = offered(executor, ShowsGraph)
    if able is None:
        return set()
    return {name for node in able.optimized(model).graph.node for name in node.output} & set(values)


def _reason(node: ir.Node | None, op: str | None) -> str:
    if node is None:
        return "the node is not in the model"
    ran = f"the runtime runs {op}" if op is not None else "the runtime runs nothing under its name"
    for index, value in enumerate(node.inputs):
        maker = value.producer() if value is not None else None
        if value is not None and (maker is None or maker.op_type != "DequantizeLinear"):
            return f"{ran}: input {index} ('{value.name}') is not dequantized"
    users = [use.node.op_type for use in node.outputs[0].uses()]
    if users != ["QuantizeLinear"]:
        readers = ", ".join(users) or "the graph's outputs"
        return f"{ran}: its output goes to {readers}, not to one QuantizeLinear"
    return f"{ran}: it has no integer kernel for these types or attributes"


__all__ = ["failures", "kept", "unpacked"]
