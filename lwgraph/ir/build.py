"""Nodes and constants that belong to no graph yet, and the removal of what died."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir

from lwgraph.arrays import Array
from lwgraph.ir.types import Function, Graph, Model, Node, Shape, Tensor, TensorProtocol, TensorType, Value
from lwgraph.ir.walk import graph_of, subgraphs_of


def is_constant(value: Value | None) -> bool:
    """Whether `constant_tensor` would give a tensor; nothing is read or built."""
    if value is None or value.is_graph_input():
        return False
    if value.is_initializer():
        return value.const_value is not None
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain != "" or len(node.attributes) != 1:
        return False
    ((name, attribute),) = node.attributes.items()
    return name.startswith("value") and not attribute.is_ref()


def use_count(value: Value) -> int:
    """The number of node inputs that use `value`. O(1), where `len(value.uses())` copies the uses."""
    return len(value._uses)


def predecessor(node: Node) -> Node | None:
    """The node that stands before `node` in its graph's list; None for the first. O(1)."""
    graph = node.graph
    if graph is None:
        return None
    found: Node | None = graph_of(graph)._nodes._value_ids_to_boxes[id(node)].prev.value
    return found


def is_dead(node: Node) -> bool:
    """Whether no output of `node` is used or is an output of a graph."""
    return all(not output._uses and not output.is_graph_output() for output in node.outputs)


def unattached_constant(data: Array | TensorProtocol) -> Value:
    """A value holding `data`, in no graph and without a name."""
    tensor: TensorProtocol
    if isinstance(data, np.ndarray):
        if data.dtype.kind in "OSU":
            texts = [t if isinstance(t, bytes) else str(t).encode() for t in data.reshape(-1)]
            tensor = onnx_ir.StringTensor(texts, shape=Shape(data.shape))
        else:
            tensor = Tensor(np.ascontiguousarray(data).reshape(data.shape))
    else:
        tensor = copy.copy(data)  # the copy shares the data and has a name of its own
    return Value(const_value=tensor, type=TensorType(tensor.dtype), shape=Shape(tensor.shape.numpy()))


def make_node(
    op_type: str,
    inputs: Sequence[Value | None],
    attributes: Mapping[str, Any] | None = None,
    domain: str = "",
    outputs: int = 1,
) -> Node:
    """A node in no graph. Attributes are Python values (arrays become tensors) or Attr objects."""
    made = []
    for name, value in (attributes or {}).items():
        if isinstance(value, np.ndarray):
            value = Tensor(value)
        elif isinstance(value, np.generic):
            value = value.item()
        elif isinstance(value, onnx_ir.Attr) and value.name == name:
            made.append(value)
            continue
        if isinstance(value, (list, tuple)) and not value:
            made.append(onnx_ir.Attr(name, onnx_ir.AttributeType.INTS, ()))
        else:
            made.append(onnx_ir.convenience.convert_attribute(name, value))
    return Node(domain, op_type, inputs, made, num_outputs=outputs)


def constant_node(value: Value) -> Node:
    """A Constant node, in no graph, that holds what the unattached constant `value` holds."""
    assert value.const_value is not None
    return Node("", "Constant", [], [onnx_ir.AttrTensor("value", value.const_value)])


def detach(node: Node) -> None:
    """Let `node`, and everything in its subgraphs, use no value any more."""
    for index, value in enumerate(node.inputs):
        if value is not None:
            node.replace_input_with(index, None)
    for subgraph in subgraphs_of(node):
        for inner in subgraph:
            detach(inner)


def sweep(nodes: Iterable[Node], *, initializers: bool = True) -> list[Node]:
    """Remove those of `nodes` that are dead, then what they alone kept alive, and return the removed nodes.

    Initializers that lose their last use go too, unless an input or an output of the graph has their name. Nodes that
    are not dead, or not in a graph any more, are left alone. O(what is removed).
    """
    removed: list[Node] = []
    pending = list(nodes)
    while pending:
        node = pending.pop()
        graph = node.graph
        if graph is None or not is_dead(node):
            continue
        used = _used_below(node)
        detach(node)
        graph_of(graph).remove(node)
        removed.append(node)
        pending += _dead_makers(used, initializers)
    return removed


def sweep_values(unused: Iterable[Value]) -> list[Node]:
    """Remove what kept those of the values alive that have lost their last use: makers, and initializers."""
    return sweep(_dead_makers(unused, True))


def _dead_makers(unused: Iterable[Value], initializers: bool) -> list[Node]:
    makers = []
    for value in unused:
        if value._uses:
            continue
        producer = value.producer()
        if producer is not None:
            makers.append(producer)
        elif initializers and is_removable_initializer(value):
            assert value.graph is not None
            graph_of(value.graph).initializers.pop(value.name or "")
    return makers


def drop_trailing_inputs(node: Node) -> None:
    """Shorten the inputs of `node` by the absent ones at the end."""
    count = len(node.inputs)
    while count and node.inputs[count - 1] is None:
        count -= 1
    node.resize_inputs(count)


def is_removable_initializer(value: Value) -> bool:
    """Whether `value` is an initializer that nothing uses and that is no input or output of its graph."""
    return value.is_initializer() and not value.is_graph_input() and not value.is_graph_output() and not value._uses


def _used_below(node: Node) -> list[Value]:
    found = [value for value in node.inputs if value is not None]
    for subgraph in subgraphs_of(node):
        for inner in subgraph:
            found += _used_below(inner)
    return list(dict.fromkeys(found))


def replace_contents(model: Model, other: Model) -> None:
    """Make `model` what `other` is (graph, functions, metadata, versions); `other` must not be used afterwards."""
    model.graph = other.graph
    model.functions.clear()
    model.functions.update(other.functions)
    model.metadata_props.clear()
    model.metadata_props.update(other.metadata_props)
    model.meta.clear()
    model.meta.update(other.meta)
    for name in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(model, name, getattr(other, name))


def attach_initializer(scope: Graph | Function, value: Value, name: str) -> None:
    """Make an unattached constant an initializer of `scope` under `name`, which nothing else there may have."""
    value.name = name
    graph_of(scope).initializers.add(value)
