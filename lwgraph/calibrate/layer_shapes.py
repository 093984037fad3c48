"""Measures the sizes of layers by running a model, where its file leaves them open."""

from __future__ import annotations

from lwgraph import ir
from lwgraph.calibrate.capture import measured_shapes
from lwgraph.executor import Executor, Feeds

_HEAVY = ir.LINEAR | ir.RECURRENT


def layer_values(model: ir.Model) -> list[str]:
    """Names of the main graph's values that sites and counts need: data into and out of what multiplies matrices."""
    nodes = [node for node in model.graph if ir.in_floats(ir.operator(node)) in _HEAVY]
    wanted = [value for node in nodes for value in (*node.inputs[:2], *node.outputs[:1])]
    # The Add of a bias behind a MatMul gives the layer's output.
    wanted += [
        use.node.outputs[0]
        for node in nodes
        for use in node.outputs[0].uses()
        if ir.operator(use.node) == "Add" and use.node.graph is model.graph
    ]
    names = [v.name for v in wanted if v is not None and v.name and ir.constant_shape(v) is None]
    return list(dict.fromkeys(names))


def layer_shapes(model: ir.Model, feeds: Feeds, executor: Executor) -> dict[str, tuple[int, ...]]:
    """The shape of each of `layer_values` when `model` runs on `feeds`; for `find_sites`, `count` and `Planner`."""
    return measured_shapes(model, layer_values(model), feeds, executor)


__all__ = ["layer_shapes", "layer_values"]
