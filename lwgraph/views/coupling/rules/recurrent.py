"""RNN, GRU and LSTM: inputs are read, hidden units are made, and read again at the next step."""

from __future__ import annotations

import numpy as np

from lwgraph import ir
from lwgraph.views.coupling.builder import Axis, Coupler
from lwgraph.views.coupling.rules import rule

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@rule(*GATES)
def recurrent(node: ir.Node, builder: Coupler) -> None:
    """A hidden unit is a row of every gate in W, R and both biases, a column of R, and an index of every state.

    The two directions have the same number of units, and pair them index by index.
    """
    gates, x = GATES[node.op_type], node.inputs[0]
    hidden = ir.attribute(node, "hidden_size", 0)
    weights = [builder.constant(node, 1, 1, "out"), builder.constant(node, 2, 1, "out")]
    if (
        x is None
        or not hidden
        or None in weights
        or not all(builder.is_constant(v) for v in (*node.inputs[1:4], *node.inputs[7:8]) if v is not None)
    ):
        builder.freeze_inputs(node, f"the weights of node '{node.name}' ({node.op_type}) are not constant")
        return
    found = builder.get(x, 2)
    if found is not None:
        builder.equal(found, builder.constant(node, 1, 2, "in"))
    for axis in (0, 1):  # time and batch
        builder.freeze(builder.get(x, axis), f"node '{node.name}' ({node.op_type}) runs along it")
    unit = builder.constant(node, 2, 2, "in")
    if unit is None:
        builder.freeze_inputs(node, f"node '{node.name}' ({node.op_type}) has a single unit")
        return
    _units(builder, unit, weights[0], gates)
    _units(builder, unit, weights[1], gates)
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        _units(builder, unit, builder.constant(node, 3, 1), 2 * gates)
    if len(node.inputs) > 7 and node.inputs[7] is not None:
        _units(builder, unit, builder.constant(node, 7, 1), 3)
    _states(node, builder, unit)
    for output, axis in zip(node.outputs, (3, 2, 2), strict=False):
        if output.name and (ir.use_count(output) or output.is_graph_output()):
            builder.equal(builder.track(output, axis, hidden, ir.attribute(node, "activations") is None), unit)


def _units(builder: Coupler, unit: Axis, rows: Axis | None, gates: int) -> None:
    """Row k*hidden + j of every gate k belongs to unit j."""
    if rows is not None:
        builder.link(rows, unit, np.arange(gates * unit.size), np.arange(gates * unit.size) % unit.size)


def _states(node: ir.Node, builder: Coupler, unit: Axis) -> None:
    """The initial states: constants are cut with the units, channels are units, others freeze them."""
    for index in (5, 6):
        value = node.inputs[index] if len(node.inputs) > index else None
        if value is None:
            continue
        if value in builder.zeros:
            continue  # a state of zeros is like an absent one, and will be left out
        if builder.is_constant(value):
            builder.equal(unit, builder.constant(node, index, 2))
        elif (state := builder.get(value, 2)) is not None:
            builder.equal(unit, state)
        else:
            builder.freeze(unit, f"the initial state of node '{node.name}' ({node.op_type}) is {builder.why(value, 2)}")
        for axis in (0, 1):
            builder.freeze(builder.get(value, axis), f"node '{node.name}' ({node.op_type}) runs along it")
