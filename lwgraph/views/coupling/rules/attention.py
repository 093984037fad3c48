"""ONNX's operators of whole attentions (opset 23): a head is a channel, whether heads have an axis of their own or not.

Operands are (batch, heads, sequence, head) or (batch, sequence, heads * head). Where fewer heads make keys and values
than queries, each lives or dies with the queries that read it.
"""

from __future__ import annotations

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Ints
from lwgraph.views.coupling.builder import Axis, Coupler
from lwgraph.views.coupling.rules import rule

HEADS = {"Attention": ("q_num_heads", "kv_num_heads", "kv_num_heads"), "RotaryEmbedding": ("num_heads",)}


def heads_of(node: ir.Node, index: int, dims: ir.Dims) -> tuple[int, int] | None:
    """Which axis of an operand holds its heads, and how many these are; None where that is not known."""
    if len(dims) == 4:
        return (1, int(dims[1])) if isinstance(dims[1], int) else None
    count = ir.attribute(node, HEADS[node.op_type][index], 0)
    return (2, count) if len(dims) == 3 and count and isinstance(dims[2], int) and dims[2] % count == 0 else None


def _heads(node: ir.Node, builder: Coupler, index: int) -> tuple[Axis, Ints] | None:
    """The tracked axis of an operand's heads, their indices in one axis coupled, and the first index of each."""
    value = node.inputs[index]
    dims = builder.dims(value)
    found = None if dims is None else heads_of(node, index, dims)
    axis = None if found is None else builder.get(value, found[0])
    if found is None or axis is None:
        return None
    return axis, _coupled(builder, axis, found[1])


def _coupled(builder: Coupler, axis: Axis, heads: int) -> Ints:
    each = axis.size // heads
    if each > 1:
        builder.couple(axis, np.arange(axis.size) // each)
    return np.arange(heads) * each


@rule("Attention")
def attention(node: ir.Node, builder: Coupler) -> None:
    """Heads go through; along all else of an operand the operator sums or scales."""
    output = node.outputs[0]
    what = f"node '{node.name}' (Attention)"
    given = [index for index, value in enumerate(node.inputs) if value is not None]
    if any(index > 3 for index in given) or any(ir.use_count(o) or o.is_graph_output() for o in node.outputs[1:]):
        builder.freeze_inputs(node, f"{what} keeps keys and values of earlier runs, or gives its scores")
        return
    operands = [_heads(node, builder, index) for index in range(3)]
    dims = builder.dims(output)
    if None in operands or dims is None or not _masked(node, builder):
        builder.freeze_inputs(node, f"{what} has operands or a mask whose heads no weight makes")
        return
    query, key, value = (operand for operand in operands if operand is not None)
    per = len(query[1]) // len(key[1])
    for axis, first in (key, value):
        builder.link(query[0], axis, query[1], np.repeat(first, per))
    place = 1 if len(dims) == 4 else 2
    width = len(query[1]) * (value[0].size // len(value[1]))
    made = builder.track(output, place, width, value[0].zero)
    builder.link(made, query[0], _coupled(builder, made, len(query[1])), query[1])
    for index, operand in enumerate((query, key, value)):
        for axis_, other in tuple(builder.tracked(node.inputs[index]).items()):
            if other is operand[0]:
                continue
            if index == 2 and axis_ == 3:
                builder.passes(node, output, 2, {3: 3})
            else:
                builder.freeze(other, f"{what} works along it")


def _masked(node: ir.Node, builder: Coupler) -> bool:
    """Whether the mask, if there is one, is the same for all heads, or known to go with them."""
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    dims = builder.dims(mask)
    if mask is None:
        return True
    if dims is None:
        return False
    if len(dims) < 3 or dims[-3] == 1:
        return not builder.tracked(mask)
    found, queries = builder.get(mask, len(dims) - 3), builder.get(node.inputs[0], 1)
    if found is None or queries is None or len(builder.tracked(mask)) > 1:
        return False
    builder.equal(found, queries)
    return True


@rule("RotaryEmbedding")
def rotary_embedding(node: ir.Node, builder: Coupler) -> None:
    """Heads go through; within a head pairs are turned."""
    value, output = node.inputs[0], node.outputs[0]
    found = _heads(node, builder, 0)
    if found is None:
        builder.freeze_inputs(node, f"node '{node.name}' (RotaryEmbedding) has an operand whose heads no weight makes")
        return
    for axis, other in tuple(builder.tracked(value).items()):
        if other is found[0]:
            builder.passes(node, output, 0, {axis: axis})
        else:
            builder.freeze(other, f"node '{node.name}' (RotaryEmbedding) works along it")
    builder.freeze_inputs(node, f"node '{node.name}' (RotaryEmbedding) turns by it", only=range(1, len(node.inputs)))


__all__ = ["HEADS", "heads_of"]
