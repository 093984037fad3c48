"""quantize-recurrent: LSTM and GRU with 8-bit weights, as a Scan over integer products.

One step of a recurrent layer reads all of its recurrent weights for a handful of products, so its time is that of
reading memory; bytes are read four times as fast as floats, and often stay in the cache. The products are
MatMulInteger, which ONNX Runtime runs in integer kernels inside a Scan's body, too; QuantizeLinear and
DequantizeLinear pairs in a body it leaves in float, which measured 500 times slower. The state lies in -1..1 by
construction, so its grid needs no data; the inputs' grid is computed as the model runs (DynamicQuantizeLinear).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.passes.quantize.graph.recurrent_body import Cell, gru_body, lstm_body
from lwgraph.passes.quantize.grids.weight_grid import weight_grid
from lwgraph.passes.quantize.placing.target import has_vnni
from lwgraph.rewrite import Context, Contract, Pass, Skip

_GATES = {"LSTM": 4, "GRU": 3}
_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}
_MINIMUM_OPSET = 11  # DynamicQuantizeLinear
_COPIES = ir.MOVES - {"Concat"} | {"Identity"}  # of their first input


@dataclass(frozen=True)
class QuantizeRecurrent(Pass):
    """Compute LSTM and GRU with 8-bit weights and states: Scan loops over integer products, standard operators only."""

    name: ClassVar[str] = "quantize-recurrent"
    contract: ClassVar[Contract] = Contract.APPROXIMATE
    spares: ClassVar[str] = "ignored_scope"
    asks: ClassVar[bool] = True

    reduce_range: Annotated[bool | None, "7-bit weights, for processors that saturate; none: detected"] = None
    ignored_scope: Annotated[tuple[str, ...], "names of layers that stay as they are"] = ()

    def run(self, model: ir.Model, context: Context) -> int:
        """Rewrite in place; the number of layers rewritten."""
        opset = model.graph.opset_imports.get("", 1)
        reduced = not has_vnni() if self.reduce_range is None else self.reduce_range
        done = 0
        for node in [n for n in model.graph if n.op_type in _GATES and n.domain in ("", "ai.onnx")]:
            place = node.name or node.outputs[0].name or node.op_type
            try:
                if opset < _MINIMUM_OPSET:
                    raise Skip(f"opset {opset} has no DynamicQuantizeLinear; at least {_MINIMUM_OPSET} is needed")
                if place in self.ignored_scope:
                    raise Skip("in ignored_scope")
                layer = RecurrentLayer.of(node)
            except Skip as reason:
                context.skip(self.name, place, str(reason))
                continue
            if not context.allow(self.name, place):
                break
            layer.rewrite(model.graph, opset, reduced)
            done += 1
        return done


@dataclass(frozen=True)
class RecurrentLayer:
    """A recurrent node that can be rewritten: its constants, as float arrays of ONNX's shapes."""

    node: ir.Node
    weight: Array  # (directions, gates * hidden, inputs)
    recurrent: Array  # (directions, gates * hidden, hidden)
    bias: Array  # (directions, 2 * gates * hidden)
    hidden: int
    direction: str

    @classmethod
    def of(cls, node: ir.Node) -> RecurrentLayer:
        """Raises Skip with the reason where the rewriting would not mean the same."""
        inputs = [*node.inputs, *[None] * (8 - len(node.inputs))]
        constants = [ir.constant(v) for v in inputs[1:4]]
        if constants[0] is None or constants[1] is None or (inputs[3] is not None and constants[2] is None):
            raise Skip("its weights are not constants")
        if not all(map(ir.is_finite, inputs)):
            raise Skip("its weights hold infinity or NaN")
        if inputs[0] is None or inputs[0].dtype not in (None, ir.DataType.FLOAT) or constants[0].dtype != np.float32:
            raise Skip("it does not compute in float32")
        if inputs[4] is not None:
            raise Skip("it has sequence lengths")
        if node.op_type == "LSTM" and inputs[7] is not None:
            raise Skip("it has peepholes")
        direction = str(ir.attribute(node, "direction", "forward"))
        count = 2 if direction == "bidirectional" else 1
        wanted = _ACTIVATIONS[node.op_type] * count
        named = node.attributes.get("activations")
        if named is not None and list(named.value) != wanted:
            raise Skip("its activations are not the usual ones")
        for name in ("clip", "input_forget", "layout"):
            if name in node.attributes and node.attributes[name].value:
                raise Skip(f"it has {name}={node.attributes[name].value}")
        if inputs[5] is not None and not _within_one(inputs[5]):
            raise Skip("its initial state is not known to lie in -1..1")
        weight, recurrent = constants[0], constants[1]
        hidden = recurrent.shape[2]
        bias = constants[2]
        if bias is None:
            bias = np.zeros((count, 2 * _GATES[node.op_type] * hidden), np.float32)
        return cls(node, weight, recurrent, bias, hidden, direction)

    def rewrite(self, graph: ir.Graph, opset: int, reduced: bool = False) -> None:
        """Replace the node, in place."""
        node, cell = self.node, Cell(graph, self.node.name or self.node.op_type.lower(), opset)
        source = node.inputs[0]
        assert source is not None
        lstm = node.op_type == "LSTM"
        x, scale, zero = cell.add("DynamicQuantizeLinear", [source], outputs=3)
        x.dtype, scale.dtype, zero.dtype = ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8
        steps: list[ir.Value] = []
        lasts: list[list[ir.Value]] = []
        for index in range(len(self.weight)):
            gates = self._projected(cell, x, scale, zero, index, reduced)
            states = [self._state(cell, source, place, index) for place in ((5, 6) if lstm else (5,))]
            body = (lstm_body if lstm else gru_body)(
                cell,
                self.recurrent[index],
                self.bias[index],
                reduced,
                bool(ir.attribute(node, "linear_before_reset", 0)) if not lstm else False,
                _batch(source),
            )
            backward = (
                self.direction == "reverse" or index == 1
            )  # slices reverse the sequence: onnx's own evaluator scans forward only
            outs = cell.add(
                "Scan",
                [*states, cell.reversed(gates) if backward else gates],
                outputs=len(states) + 1,
                body=body,
                num_scan_inputs=1,
            )
            lasts.append(list(outs[:-1]))
            steps.append(cell.reversed(outs[-1]) if backward else outs[-1])
        results = [
            self._joined(cell, steps, 1),
            *(self._joined(cell, [row[i] for row in lasts], 0) for i in range(len(lasts[0]))),
        ]
        graph.insert_before(node, cell.nodes)
        for old, new in zip(node.outputs, results, strict=False):
            new.shape = old.shape
            name = old.name
            ir.replace_uses(old, new)
            if not new.is_graph_output() and name:
                old.name = ir.fresh_name(graph, f"{name}_float")
                new.name = name
        constants = [v for v in node.inputs if v is not None and v.is_initializer()]
        ir.sweep([node, *cell.nodes])
        for value in constants:
            if ir.is_removable_initializer(value):
                graph.initializers.pop(value.name or "")

    def _projected(
        self, cell: Cell, x: ir.Value, scale: ir.Value, zero: ir.Value, index: int, reduced: bool
    ) -> ir.Value:
        """(steps, batch, gates * hidden): the inputs' part of all gates, with the biases, for all steps at once."""
        weight = np.ascontiguousarray(self.weight[index].T)
        grid = weight_grid(weight, 1, "int8", reduced=reduced)
        half = self.bias.shape[1] // 2
        bias = self.bias[index, :half].copy()
        if self.node.op_type == "LSTM":
            bias += self.bias[index, half:]
        elif ir.attribute(self.node, "linear_before_reset", 0):
            bias[: 2 * self.hidden] += self.bias[index, half : half + 2 * self.hidden]  # the rest is behind the reset
        else:
            bias += self.bias[index, half:]
        integers = cell.constant(grid.encode(weight).astype(np.int8), "input_weight")
        product = cell.one("MatMulInteger", [x, integers, zero], ir.DataType.INT32)
        real = cell.one("Cast", [product], to=int(ir.DataType.FLOAT))
        factor = cell.one("Mul", [scale, cell.constant(grid.scale, "input_scale")])
        return cell.one("Add", [cell.one("Mul", [real, factor]), cell.constant(bias, "gate_bias")])

    def _state(self, cell: Cell, source: ir.Value, place: int, index: int) -> ir.Value:
        """(batch, hidden): the state before the first step."""
        given = self.node.inputs[place] if len(self.node.inputs) > place else None
        if given is not None:
            return cell.one("Gather", [given, cell.constant(np.array(index, np.int64), "direction")], axis=0)
        batch = _batch(source)
        if batch is not None:
            return cell.constant(np.zeros((batch, self.hidden), np.float32), "state")
        size = cell.one(
            "Gather",
            [cell.one("Shape", [source], ir.DataType.INT64), cell.constant(np.array([1], np.int64), "batch_axis")],
            ir.DataType.INT64,
            axis=0,
        )
        shape = cell.one(
            "Concat", [size, cell.constant(np.array([self.hidden], np.int64), "hidden")], ir.DataType.INT64, axis=0
        )
        return cell.one("ConstantOfShape", [shape], value=np.zeros(1, np.float32))

    def _joined(self, cell: Cell, parts: Sequence[ir.Value], axis: int) -> ir.Value:
        """The directions side by side on a new axis."""
        wide = [cell.unsqueeze(part, axis) for part in parts]
        return wide[0] if len(wide) == 1 else cell.one("Concat", wide, axis=axis)


def _batch(source: ir.Value) -> int | None:
    size = source.shape[1] if source.shape is not None and len(source.shape) == 3 else None
    return size if isinstance(size, int) else None


def _within_one(value: ir.Value) -> bool:
    """Whether all elements are sure to lie in -1..1: copies of a constant that does."""
    for _ in range(16):
        constant = ir.constant(value)
        if constant is not None:
            return bool(np.abs(constant).max(initial=0.0) <= 1)
        maker = value.producer()
        if maker is None:
            return False
        if ir.operator(maker) == "ConstantOfShape":
            fill = ir.attribute(maker, "value", None)
            return fill is None or bool(np.abs(np.asarray(fill)).max() <= 1)
        source = maker.inputs[0] if ir.operator(maker) in _COPIES else None
        if source is None:
            return False
        value = source
    return False


__all__ = ["QuantizeRecurrent", "RecurrentLayer"]
