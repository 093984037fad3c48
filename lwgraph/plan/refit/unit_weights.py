"""Puts refitted weights into the nodes of a unit, and takes them back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lwgraph import ir
from lwgraph.layers.emit import Emitter
from lwgraph.layers.form import Fitted
from lwgraph.layers.weights import check_writable
from lwgraph.plan.refit.units import Unit
from lwgraph.rewrite.base import Skip


class Snapshot:
    """The attributes and inputs of some nodes, with the contents of those that are constants; `restore` brings them
    back."""

    def __init__(self, nodes: Sequence[ir.Node]) -> None:
        self._inputs = {node: tuple(node.inputs) for node in nodes}
        self._attributes = {node: tuple(node.attributes.values()) for node in nodes}
        values = [v for inputs in self._inputs.values() for v in inputs if v is not None and v.is_initializer()]
        self._contents = {value: (value.const_value, value.type, value.shape) for value in values}

    def restore(self) -> None:
        """Undo (or, for a later snapshot, redo) what was written since."""
        for node, inputs in self._inputs.items():
            present = set(node.inputs) - set(inputs)
            node.resize_inputs(len(inputs))
            for index, value in enumerate(inputs):
                node.replace_input_with(index, value)
            for value in present:
                if value is not None and value.is_initializer() and not value.uses() and value.graph is not None:
                    value.graph.initializers.pop(value.name or "")
        for node, attributes in self._attributes.items():  # a bias that is written takes the beta of a Gemm with it
            node.attributes.clear()
            for attribute in attributes:
                node.attributes.add(attribute)
        for value, (contents, type_, shape) in self._contents.items():
            if value.graph is None and value.name is not None:  # a redo: it was taken out by an undo
                graph = next(node.graph for node, inputs in self._inputs.items() if value in inputs)
                assert isinstance(graph, ir.Graph)
                graph.initializers.add(value)
            value.const_value, value.type, value.shape = contents, type_, shape


def check_unit(unit: Unit) -> None:
    """Skip when the constants of a unit cannot be given other contents."""
    for site in unit.ends:
        check_writable(site)
    inside = set(unit.nodes)
    for node in unit.nodes:
        for value in node.inputs:
            if value is None or ir.constant_shape(value) is None:
                continue
            if not value.is_initializer() or value.is_graph_input():
                raise Skip(f"'{value.name}' is not an initializer; constants-to-initializers makes it one")
            dtype = ir.constant_dtype(value)
            if dtype is not None and dtype.is_floating_point() and any(u.node not in inside for u in value.uses()):
                raise Skip(f"'{value.name}' is shared with another layer")


def has_shift(unit: Unit) -> bool:
    """Whether the unit of a form has, or can get, a bias without another node."""
    return unit.site.kind != "matmul" or any(
        ir.operator(node) == "Add" and any(ir.constant_shape(v) is not None for v in node.inputs) for node in unit.nodes
    )


def rewrite(unit: Unit, fitted: Fitted) -> bool:
    """Give the unit's nodes the constants of another fit of its form; False when that has other nodes."""
    known = next((v.shape for node in unit.nodes for v in node.inputs if v is not None and v.name == unit.input), None)
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.from_numpy(fitted.site.dtype)), shape=known)
    scratch = ir.Graph([x], [], nodes=[], opset_imports={"": ir.opset(unit.nodes[0])}, name="scratch")
    op = Emitter(fitted.site, scratch)
    fitted.form.emit(op, x, fitted)
    if [_kind(node) for node in op.nodes] != [_kind(node) for node in unit.nodes]:
        return False
    changes = []
    for old, new in zip(unit.nodes, op.nodes, strict=True):
        if len(new.inputs) < len(old.inputs):
            return False
        for slot, value in enumerate(new.inputs):
            array = ir.constant(value)
            present = old.inputs[slot] if slot < len(old.inputs) else None
            if present is not None and (ir.constant_shape(present) is None) != (array is None):
                return False
            if array is not None:
                if present is not None and ir.constant_shape(present) != array.shape:
                    return False
                changes.append((old, slot, present, array))
    for old, slot, present, array in changes:
        if present is None:
            graph = old.graph
            assert isinstance(graph, ir.Graph)
            old.resize_inputs(max(slot + 1, len(old.inputs)))
            old.replace_input_with(slot, ir.add_initializer(graph, np.array(array), f"{old.name}_bias"))
        else:
            ir.set_constant(ir.copy_on_write(present, old), np.array(array))
    return True


def _kind(node: ir.Node) -> tuple[str, dict[str, str]]:
    return node.op_type, {name: str(attribute.value) for name, attribute in node.attributes.items()}


__all__ = ["Snapshot", "check_unit", "has_shift", "rewrite"]
