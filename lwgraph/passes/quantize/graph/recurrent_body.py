"""The bodies of recurrent loops with integer products; see `recurrent`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.passes.quantize.grids.weight_grid import weight_grid

_STATE_SCALE, _STATE_ZERO = np.float32(1 / 127), 128  # -1..1 on uint8, zero exactly


@dataclass
class Cell:
    """Collects nodes and constants, of a graph or of a loop's body (`inner`), under names new in `graph`."""

    graph: ir.Graph
    stem: str
    opset: int
    inner: bool = False
    nodes: list[ir.Node] = field(default_factory=list)
    initializers: list[ir.Value] = field(default_factory=list)

    def add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        dtype: ir.DataType = ir.DataType.FLOAT,
        outputs: int = 1,
        **attributes: Any,
    ) -> Sequence[ir.Value]:
        """A node; its outputs are floats unless said otherwise."""
        node = ir.make_node(op_type, list(inputs), attributes, outputs=outputs)
        node.name = ir.fresh_name(self.graph, f"{self.stem}_{op_type.lower()}")
        for output in node.outputs:
            output.name, output.dtype = ir.fresh_name(self.graph, f"{node.name}_out"), dtype
        self.nodes.append(node)
        return node.outputs

    def one(
        self, op_type: str, inputs: Sequence[ir.Value], dtype: ir.DataType = ir.DataType.FLOAT, **attributes: Any
    ) -> ir.Value:
        """A node with one output."""
        return self.add(op_type, inputs, dtype, **attributes)[0]

    def constant(self, array: Array, stem: str) -> ir.Value:
        """A constant: an initializer of the graph, or of the body."""
        name = f"{self.stem}_{stem}"
        if not self.inner:
            return ir.add_initializer(self.graph, array, name)
        tensor = ir.Tensor(np.asarray(array), name=ir.fresh_name(self.graph, name))
        value = ir.Value(
            name=tensor.name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy())
        )
        self.initializers.append(value)
        return value

    def unsqueeze(self, value: ir.Value, axis: int) -> ir.Value:
        """A new axis of size 1."""
        if self.opset < 13:
            return self.one("Unsqueeze", [value], axes=[axis])
        return self.one("Unsqueeze", [value, self.constant(np.array([axis], np.int64), "axis")])

    def reversed(self, value: ir.Value) -> ir.Value:
        """The first axis backwards."""
        last, first = np.array([-1], np.int64), np.array([np.iinfo(np.int64).min], np.int64)
        ends = [
            self.constant(a, stem)
            for a, stem in ((last, "from"), (first, "to"), (np.array([0], np.int64), "first_axis"), (last, "back"))
        ]
        return self.one("Slice", [value, *ends])

    def split(self, value: ir.Value, parts: int) -> Sequence[ir.Value]:
        """Equal parts of the last of two axes."""
        extra: dict[str, Any] = {"num_outputs": parts} if self.opset >= 18 else {}
        return self.add("Split", [value], outputs=parts, axis=1, **extra)

    def input(self, stem: str, shape: Sequence[int | None]) -> ir.Value:
        """An input of the body."""
        return ir.Value(
            name=ir.fresh_name(self.graph, f"{self.stem}_{stem}"),
            type=ir.TensorType(ir.DataType.FLOAT),
            shape=ir.Shape(list(shape)),
        )

    def body(self) -> Cell:
        """The emitter of nodes in the body of a loop."""
        return Cell(self.graph, f"{self.stem}_step", self.opset, True)

    def finish(self, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Graph:
        """The body as a graph."""
        for output, like in zip(outputs, [*inputs[:-1], inputs[0]], strict=True):
            output.shape = like.shape
        return ir.Graph(
            list(inputs),
            list(outputs),
            nodes=self.nodes,
            initializers=self.initializers,
            opset_imports={"": self.opset},
            name=f"{self.stem}_body",
        )

    def product(self, state: ir.Value, weight: Array, reduced: bool, stem: str) -> ir.Value:
        """state (batch, hidden) in -1..1 times weight (hidden, n), in integers."""
        scale = self.constant(np.asarray(_STATE_SCALE), f"{stem}_state_scale")
        zero = self.constant(np.array(_STATE_ZERO, np.uint8), f"{stem}_state_zero")
        grid = weight_grid(weight, 1, "int8", reduced=reduced)
        integers = self.constant(grid.encode(weight).astype(np.int8), f"{stem}_weight")
        q = self.one("QuantizeLinear", [state, scale, zero], ir.DataType.UINT8)
        whole = self.one("MatMulInteger", [q, integers, zero], ir.DataType.INT32)
        factor = self.constant(np.asarray(grid.scale * _STATE_SCALE, np.float32), f"{stem}_scale")
        return self.one("Mul", [self.one("Cast", [whole], to=int(ir.DataType.FLOAT)), factor])


def lstm_body(
    outer: Cell, recurrent: Array, bias: Array, reduced: bool, before_reset: bool, batch: int | None
) -> ir.Graph:
    """(h, c, gates of the inputs) -> (h, c, h); gates in the order i, o, f, c. `bias` is in the gates already.

    Args:
        recurrent: (4 * hidden, hidden).
    """
    op, hidden = outer.body(), recurrent.shape[1]
    h, c = op.input("h", [batch, hidden]), op.input("c", [batch, hidden])
    gates = op.input("gates", [batch, 4 * hidden])
    total = op.one("Add", [op.product(h, np.ascontiguousarray(recurrent.T), reduced, "recurrent"), gates])
    i, o, f, g = op.split(total, 4)
    kept = op.one("Mul", [op.one("Sigmoid", [f]), c])
    new = op.one("Add", [kept, op.one("Mul", [op.one("Sigmoid", [i]), op.one("Tanh", [g])])])
    state = op.one("Mul", [op.one("Sigmoid", [o]), op.one("Tanh", [new])])
    return op.finish([h, c, gates], [state, new, op.one("Identity", [state])])


def gru_body(
    outer: Cell, recurrent: Array, bias: Array, reduced: bool, before_reset: bool, batch: int | None
) -> ir.Graph:
    """(h, gates of the inputs) -> (h, h); gates in the order z, r, h. `before_reset`: linear_before_reset of ONNX.

    Args:
        recurrent: (3 * hidden, hidden).
        bias: (6 * hidden,), of which only the recurrent part of gate h counts here, before the reset gate.
    """
    op, hidden = outer.body(), recurrent.shape[1]
    h, gates = op.input("h", [batch, hidden]), op.input("gates", [batch, 3 * hidden])
    columns = np.ascontiguousarray(recurrent.T)
    z_in, r_in, n_in = op.split(gates, 3)
    if before_reset:
        z_own, r_own, n_own = op.split(op.product(h, columns, reduced, "recurrent"), 3)
        own_bias = op.constant(bias[5 * hidden :], "recurrent_bias")
        r = op.one("Sigmoid", [op.one("Add", [r_in, r_own])])
        n = op.one("Tanh", [op.one("Add", [n_in, op.one("Mul", [r, op.one("Add", [n_own, own_bias])])])])
    else:
        z_own, r_own = op.split(op.product(h, np.ascontiguousarray(columns[:, : 2 * hidden]), reduced, "recurrent"), 2)
        r = op.one("Sigmoid", [op.one("Add", [r_in, r_own])])
        reset = op.product(op.one("Mul", [r, h]), np.ascontiguousarray(columns[:, 2 * hidden :]), reduced, "reset")
        n = op.one("Tanh", [op.one("Add", [n_in, reset])])
    z = op.one("Sigmoid", [op.one("Add", [z_in, z_own])])
    state = op.one("Add", [n, op.one("Mul", [z, op.one("Sub", [h, n])])])
    return op.finish([h, gates], [state, op.one("Identity", [state])])


__all__ = ["Cell", "gru_body", "lstm_body"]
