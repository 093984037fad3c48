"""Splits HardSwish and HardSigmoid into a sum, a clip (for a grid), a factor (for a scale) and a product.

    HardSwish(x) = x * clip(x + 3, 0, 6) / 6;    HardSigmoid(x) = clip(alpha * x + beta, 0, 1)

A runtime without integer kernels for them has kernels for the parts. Below -3, HardSwish is 0 whatever x is: x is
clipped there first where nobody else reads it, which costs nothing and leaves its grid for the values that matter.
What stays in float is put together again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from lwgraph import ir
from lwgraph.passes.quantize.placing.target import Target

_SPARE = 0.25  # margin beyond which the function is flat, so that a grid with a rounded zero still reaches there


@dataclass(frozen=True)
class Opened:
    """A node that was taken apart: its last part has its name and output, `parts` names the others in graph order."""

    name: str
    op_type: str
    attributes: tuple[ir.Attr, ...]
    parts: tuple[str, ...]


def open_activations(model: ir.Model, target: Target, refused: Collection[str] = ()) -> list[Opened]:
    """Take apart what `target` wants taken apart (role "open"), but for the refused names. In place; O(nodes).

    Nodes need names, values need types: float32 only.
    """
    graph, opset = model.graph, model.graph.opset_imports.get("", 1)
    found = []
    for node in list(graph):
        if (node.name or "") in refused or node.op_type not in _OPENERS or node.domain not in ("", "ai.onnx"):
            continue
        x = node.inputs[0]
        if not target.has(node.op_type, "open", opset) or x is None or x.dtype != ir.DataType.FLOAT:
            continue
        opened = _OPENERS[node.op_type](graph, node, x)
        if opened is not None:
            found.append(opened)
    return found


def _hard_swish(graph: ir.Graph, node: ir.Node, x: ir.Value) -> Opened:
    bounded = _part(graph, node, "Clip", [x, _number(graph, -3.0 - _SPARE)], "bounded") if _alone(x) else None
    x = bounded or x
    shifted = _part(graph, node, "Add", [x, _number(graph, 3.0)], "shifted")
    clipped = _part(graph, node, "Clip", [shifted, _number(graph, 0.0), _number(graph, 6.0)], "clipped")
    share = _part(graph, node, "Mul", [clipped, _number(graph, 1 / 6)], "share")
    opened = _opened(node, bounded, shifted, clipped, share)
    _become(node, "Mul", [x, share])
    return opened


def _hard_sigmoid(graph: ir.Graph, node: ir.Node, x: ir.Value) -> Opened | None:
    alpha, beta = ir.attribute(node, "alpha", 0.2), ir.attribute(node, "beta", 0.5)
    if not alpha > 0:
        return None
    bounded = None
    if _alone(x) and 0 <= beta <= 1:
        bounds = [_number(graph, -beta / alpha - _SPARE), _number(graph, (1 - beta) / alpha + _SPARE)]
        bounded = _part(graph, node, "Clip", [x, *bounds], "bounded")
    scaled = _part(graph, node, "Mul", [bounded or x, _number(graph, alpha)], "scaled")
    shifted = _part(graph, node, "Add", [scaled, _number(graph, beta)], "shifted")
    opened = _opened(node, bounded, scaled, shifted)
    _become(node, "Clip", [shifted, _number(graph, 0.0), _number(graph, 1.0)])
    return opened


_OPENERS: dict[str, Callable[[ir.Graph, ir.Node, ir.Value], Opened | None]] = {
    "HardSwish": _hard_swish,
    "HardSigmoid": _hard_sigmoid,
}


def _number(graph: ir.Graph, number: float) -> ir.Value:
    return ir.add_initializer(graph, np.array(number, np.float32), "constant")


def _part(graph: ir.Graph, node: ir.Node, op_type: str, inputs: list[ir.Value], what: str) -> ir.Value:
    made = ir.Node("", op_type, inputs, name=ir.fresh_name(graph, f"{node.name}_{what}"))
    output = made.outputs[0]
    output.name = ir.fresh_name(graph, f"{node.outputs[0].name}_{what}")
    output.type, output.shape = ir.TensorType(ir.DataType.FLOAT), node.outputs[0].shape
    graph.insert_before(node, made)
    return output


def _alone(x: ir.Value) -> bool:
    """Whether the activation is all that reads `x`."""
    return len(x.uses()) == 1 and not x.is_graph_output()


def _opened(node: ir.Node, *parts: ir.Value | None) -> Opened:
    names = tuple((maker.name or "") for v in parts if v is not None and (maker := v.producer()) is not None)
    return Opened(node.name or "", node.op_type, tuple(node.attributes.values()), names)


def _become(node: ir.Node, op_type: str, inputs: list[ir.Value], attributes: tuple[ir.Attr, ...] = ()) -> None:
    """Another operator under the same name, with the same output."""
    old = [v for v in node.inputs if v is not None]
    node.op_type = op_type
    node.attributes.clear()
    for attribute in attributes:
        node.attributes.add(attribute)
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)
    ir.sweep_values(v for v in dict.fromkeys(old) if v not in inputs)


def close_activations(model: ir.Model, opened: Collection[Opened]) -> dict[str, tuple[str, ...]]:
    """Put together again what stayed in float as a whole. In place; O(nodes).

    Returns:
        the names of the nodes that are back -> the names of their parts, which are gone.
    """
    nodes = {node.name or "": node for node in model.graph}
    found = {}
    for one in opened:
        chain = [nodes.get(name) for name in (*one.parts, one.name)]
        parts = [node for node in chain if node is not None]
        inside = set(parts)
        if len(parts) < len(chain) or not all(
            any(v is a.outputs[0] for v in b.inputs) and inside.issuperset(a.outputs[0].consumers())
            for a, b in itertools.pairwise(parts)
        ):
            continue
        x, last = parts[0].inputs[0], parts[-1]
        read = parts[0].outputs[0] if parts[0].op_type == "Clip" else x
        if x is None or (one.op_type == "HardSwish" and last.inputs[0] is not read):
            continue
        _become(last, one.op_type, [x], one.attributes)
        found[one.name] = one.parts
    return found


__all__ = ["Opened", "close_activations", "open_activations"]
