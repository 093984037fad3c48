"""Finds products whose input channels may be rescaled, with their readers and the node that absorbs the inverse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array, Floats
from lwgraph.rewrite.base import Skip

_HOMOGENEOUS = ("Dropout", "Identity", "LeakyRelu", "Relu")  # f(x / s) = f(x) / s for s > 0


@dataclass
class Chain:
    """One tensor x (..., channels) that only products with constant weights read.

    Attributes:
        value: x.
        readers: the MatMul and Gemm nodes.
        givers: (node, input index, axis) of the constants to divide by s; axis None: a scalar that becomes a vector.
    """

    value: ir.Value
    channels: int
    readers: list[ir.Node]
    givers: list[tuple[ir.Node, int, int | None]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The first reader's name, or x's."""
        return self.readers[0].name or self.value.name or ""

    @property
    def weights(self) -> list[Array]:
        """The readers' weights as (channels, outputs), as they are stored."""
        found = []
        for node in self.readers:
            weight = ir.constant(node.inputs[1])
            assert weight is not None
            found.append(weight.T if _turned(node) else weight)
        return found

    def apply(self, scale: Floats) -> None:
        """Divide what makes x by `scale` (channels,), and multiply into the weights that read it."""
        for node in self.readers:
            _rescale(node, 1, scale, 1 if _turned(node) else 0)
        for node, index, axis in self.givers:
            _rescale(node, index, 1 / scale, axis)


def find_chains(model: ir.Model, refused: Callable[[str, str], None]) -> list[Chain]:
    """The chains of the main graph, in graph order; `refused` is told of products that are in none. O(nodes)."""
    found: dict[ir.Value, Chain | None] = {}
    for node in model.graph:
        if not _is_product(node):
            continue
        value = node.inputs[0]
        assert value is not None
        if value in found:
            continue
        found[value] = None
        try:
            found[value] = _chain(value)
        except Skip as reason:
            refused(node.name or value.name or "", str(reason))
    return [chain for chain in found.values() if chain is not None]


def _is_product(node: ir.Node) -> bool:
    if node.op_type not in ir.PRODUCTS or node.domain not in ("", "ai.onnx"):
        return False
    weight = ir.constant_shape(node.inputs[1])
    return (
        weight is not None
        and len(weight) == 2
        and ir.constant_dtype(node.inputs[1]) == ir.DataType.FLOAT
        and ir.constant_tensor(node.inputs[0]) is None
        and not ir.attribute(node, "transA", 0)
    )


def _turned(node: ir.Node) -> bool:
    return node.op_type == "Gemm" and bool(ir.attribute(node, "transB", 0))


def _chain(value: ir.Value) -> Chain:
    readers = []
    for use in value.uses():
        if not _is_product(use.node) or use.idx != 0:
            raise Skip(f"'{use.node.name}' ({use.node.op_type}) also reads its input and would see the scales")
        readers.append(use.node)
    if value.is_graph_output():
        raise Skip("its input is an output of the model")
    readers = list(dict.fromkeys(readers))
    shape = ir.constant_shape(readers[0].inputs[1])
    assert shape is not None
    made = Chain(value, shape[1] if _turned(readers[0]) else shape[0], readers)
    made.givers = _givers(value, made.channels)
    return made


def _givers(value: ir.Value, channels: int) -> list[tuple[ir.Node, int, int | None]]:
    """The constants before `value` that take up the inverse scales; Skip when there are none."""
    found: list[tuple[ir.Node, int, int | None]] = []
    while True:
        node = value.producer()
        if node is None:
            raise Skip("its input is an input of the model, so nothing can absorb the inverse scales")
        if value.is_graph_output() or (found and len(value.uses()) > 1):
            raise Skip(f"'{value.name}' has other readers, which would see the scales")
        done, value = _step(node, value, channels, found)
        if done:
            return found


def _step(
    node: ir.Node, value: ir.Value, channels: int, found: list[tuple[ir.Node, int, int | None]]
) -> tuple[bool, ir.Value]:
    """Look at one node from behind: whether it takes up all, and the value to go on from."""
    op = node.op_type
    first = node.inputs[0]
    assert first is not None
    if op in ("LayerNormalization", "RMSNormalization"):
        if ir.constant_shape(node.inputs[1]) != (channels,):
            raise Skip(f"'{node.name}' normalizes over more than the channels, or its scale is not constant")
        found.append((node, 1, 0))
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            if ir.constant_shape(node.inputs[2]) != (channels,):
                raise Skip(f"the bias of '{node.name}' is not constant")
            found.append((node, 2, 0))
        return True, first
    if op in ("Mul", "Add", "Sub", "Div"):
        return _arithmetic(node, op, channels, found)
    if op in ir.PRODUCTS and _is_product(node):
        shape = ir.constant_shape(node.inputs[1])
        assert shape is not None
        found.append((node, 1, 0 if _turned(node) else 1))
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None:
            found.append((node, 2, _axis(ir.constant_shape(bias), channels, node)))
        return True, first
    if op in _HOMOGENEOUS and len(node.outputs) == 1:
        if len(first.uses()) > 1:
            raise Skip(f"'{first.name}' has other readers, which would see the scales")
        return False, first
    raise Skip(f"'{node.name}' ({op}) before it cannot absorb the inverse scales")


def _arithmetic(
    node: ir.Node, op: str, channels: int, found: list[tuple[ir.Node, int, int | None]]
) -> tuple[bool, ir.Value]:
    constants = [i for i in (0, 1) if ir.constant_tensor(node.inputs[i]) is not None]
    if not constants or (op in ("Sub", "Div") and constants[0] == 0):
        raise Skip(f"'{node.name}' ({op}) before it combines tensors and cannot absorb the inverse scales")
    index = constants[0]
    other = node.inputs[1 - index]
    assert other is not None
    axis = _axis(ir.constant_shape(node.inputs[index]), channels, node)
    if op == "Div":  # x / c: only another constant factor, the scales go further back
        if axis is not None:
            raise Skip(f"'{node.name}' divides by a vector; a Mul could absorb the scales")
    elif op != "Mul" or axis is not None:
        found.append((node, index, axis))
    if op == "Mul" and axis is not None:
        return True, other
    if len(other.uses()) > 1:
        raise Skip(f"'{other.name}' has other readers, which would see the scales")
    return False, other


def _axis(shape: tuple[int, ...] | None, channels: int, node: ir.Node) -> int | None:
    """The channel axis of a constant that is broadcast along all others; None for a single number."""
    if shape is None:
        raise Skip(f"a constant of '{node.name}' is not known")
    if all(size == 1 for size in shape) and len(shape) <= 1:
        return None
    if shape[-1] == channels:
        return len(shape) - 1
    raise Skip(f"a constant of '{node.name}' has shape {list(shape)}: its channels are not the last axis")


def _rescale(node: ir.Node, index: int, factor: Floats, axis: int | None) -> None:
    value = node.inputs[index]
    old = ir.constant(value)
    assert value is not None and old is not None and node.graph is not None
    if axis is None:
        new = np.asarray(old.astype(np.float64).reshape(()) * factor, old.dtype)
    else:
        shape = [1] * old.ndim
        shape[axis] = -1
        # Computed in float64, a piece at a time: a weight may be large.
        new = np.multiply(old, factor.reshape(shape), out=np.empty_like(old, order="C"), casting="same_kind")
    stored = ir.add_initializer(ir.graph_of(node.graph), new, value.name or "constant")
    node.replace_input_with(index, stored)
    ir.sweep_values([value])


__all__ = ["Chain", "find_chains"]
