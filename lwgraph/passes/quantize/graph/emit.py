"""Writes QuantizeLinear and DequantizeLinear where a placement wants them, and integers for weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.passes.quantize.grids.grid import LIMITS, Grid
from lwgraph.passes.quantize.placing.placement import Placement

FLOAT = "lwgraph.float"  # in the `meta` of a node that must compute in float, whatever the runtime would make of it
_REQUANTIZED = ("Conv", "ConvTranspose", "Gemm")


@dataclass(frozen=True)
class IntegerConstants:
    """The constants of a compute node in integers: a weight on a grid, and a bias (float) or None.

    `bias_grid` None: the bias stays float.
    """

    integers: Array
    grid: Grid
    bias: Array | None = None
    bias_grid: Grid | None = None


@dataclass
class QdqWriter:
    """Rewrites `placement.graph` in place.

    Args:
        grids: the grid of every tensor that the placement quantizes or makes an alias.
        weights: for every compute node with constant weights.
        constants: for every other quantized constant input: (node, input index) -> its grid.
        keep_clips: leave redundant clips in the graph.
        guard: keep the runtime from quantizing float layers by itself; see `_guard`.
    """

    placement: Placement
    grids: Mapping[ir.Value, Grid]
    weights: Mapping[ir.Node, IntegerConstants]
    constants: Mapping[tuple[ir.Node, int], Grid]
    keep_clips: bool = False
    guard: bool = False
    integers: dict[ir.Value, ir.Value] = field(default_factory=dict)
    _stored: dict[Any, ir.Value] = field(default_factory=dict)

    def run(self) -> None:
        """Rewrite the graph. O(nodes + weights)."""
        made = self.placement
        graph = made.graph
        uses = {value: made.integer_uses(value) for value in [*made.quantized, *made.aliases]}
        old = [v for node in made.roles for v in node.inputs if v is not None and v.is_initializer()]
        order: list[ir.Value] = [v for v in graph.inputs if v in uses]
        order += [v for node in graph for v in node.outputs if v in uses]
        for value in order:
            if value in made.aliases:
                self._alias(value, uses[value])
            else:
                self._activation(value, uses[value])
        for node, found in self.weights.items():
            self._weights(node, found)
        for (node, index), grid in self.constants.items():
            constant = ir.constant(node.inputs[index])
            assert constant is not None
            node.replace_input_with(
                index, self._stored_constant(grid.encode(constant), grid, _name(node.inputs[index]), node)
            )
        free = [node for node, role in made.roles.items() if role.kind == "free"]
        ir.sweep([*free, *([] if self.keep_clips else made.clips)])
        self._keep_floats()
        if self.guard:
            self._guard()
        for value in old:
            if ir.is_removable_initializer(value):
                graph.initializers.pop(value.name or "")

    def _activation(self, value: ir.Value, uses: list[tuple[ir.Node, int]]) -> None:
        """Q after the tensor (before its redundant clips), DQ for each integer reader, one DQ for all others."""
        made, grid = self.placement, self.grids[value]
        source, own = value, made.is_integer(_origin(made, value))
        while not self.keep_clips and (clip := source.producer()) is not None and clip in made.clips:
            inner = clip.inputs[0]
            assert inner is not None
            source = inner
        others = [(use.node, use.idx) for use in value.uses() if (use.node, use.idx) not in uses]
        q = self._node("QuantizeLinear", source, grid, f"{value.name}_quantized", after=source)
        q.dtype, q.shape = grid.dtype, value.shape
        self.integers[value] = q
        for node, index in uses:
            node.replace_input_with(index, self._dequantized(q, grid, value, before=node))
        if not own:
            return  # float readers have the floats
        if value.is_graph_output():
            floats = self._output(value, q, grid)
        elif others:
            floats = self._dequantized(q, grid, value, after=q)
        for node, index in others:
            node.replace_input_with(index, floats)

    def _output(self, value: ir.Value, q: ir.Value, grid: Grid) -> ir.Value:
        """The graph returns what the integers mean, under the same name."""
        dq = self._dequantized(q, grid, value, after=q)
        graph, name = self.placement.graph, value.name or ""
        value.name = ir.fresh_name(graph, f"{name}_float")
        dq.name = name
        dq.type, dq.shape = value.type, value.shape
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[index] = dq
        return dq

    def _alias(self, value: ir.Value, uses: list[tuple[ir.Node, int]]) -> None:
        """Give the product its integers under another scale; the node that computed it goes."""
        source = self.placement.aliases[value]
        q, grid = self.integers[source], self.grids[value]
        self.integers[value] = q
        for node, index in uses:
            node.replace_input_with(index, self._dequantized(q, grid, value, before=node))
        if value.is_graph_output():
            return  # the node stays and reads the dequantized value
        others = value.uses()
        if others:
            dq = self._dequantized(q, grid, value, after=q)
            for use in others:
                use.node.replace_input_with(use.idx, dq)

    def _weights(self, node: ir.Node, found: IntegerConstants) -> None:
        weight = node.inputs[1]
        node.replace_input_with(1, self._stored_constant(found.integers, found.grid, _name(weight), node))
        if found.bias is None:
            return
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        stem = _name(bias) if bias is not None else f"{node.name or node.op_type}_bias"
        if found.bias_grid is None:
            new = ir.add_initializer(self.placement.graph, found.bias.astype(np.float32), stem)
        else:
            new = self._stored_constant(found.bias_grid.encode(found.bias), found.bias_grid, stem, node)
        if len(node.inputs) < 3:
            node.resize_inputs(3)
        node.replace_input_with(2, new)

    def _keep_floats(self) -> None:
        """Put the identity of `_guard` behind nodes that were left in float for a reason (`FLOAT`): ONNX Runtime takes
        any that is between a DQ and a Q, even where it has no kernel for it."""
        graph = self.placement.graph
        for node in [n for n in graph if FLOAT in n.meta and ir.operator(n) not in (*_REQUANTIZED, "MaxPool")]:
            for output in node.outputs:
                readers = [use for use in output.uses() if ir.operator(use.node) == "QuantizeLinear"]
                if readers:
                    self._stop(node, output, readers)

    def _guard(self) -> None:
        """Put an identity that the runtime does not see through behind float nodes that it would take into integers.

        ONNX Runtime (WeightBiasQuantization) rounds the weights of a float layer that reads a DQ and feeds a Q to int8
        with one scale, silently; it looks through Relu and Clip only. And it moves a Q before a MaxPool of floats
        (QDQPropagation), where four times as much is to be quantized and the pool leaves the blocked layout: on
        64x80x80 values 1.4 ms instead of 0.05. LeakyRelu with slope 1 stops both; a layer fuses it at no cost.
        """
        graph, roles = self.placement.graph, self.placement.roles
        for node in [n for n in graph if ir.operator(n) in (*_REQUANTIZED, "MaxPool") and n not in roles]:
            source, output = node.inputs[0], node.outputs[0]
            maker = source.producer() if source is not None else None
            uses = list(output.uses())
            if len(uses) != 1 or output.is_graph_output():
                continue
            integers = maker is not None and ir.operator(maker) == "DequantizeLinear"
            taken = ("QuantizeLinear",) if node.op_type == "MaxPool" else ("QuantizeLinear", "Relu", "Clip")
            if integers is (ir.operator(node) == "MaxPool") or ir.operator(uses[0].node) not in taken:
                continue
            self._stop(node, output, uses)

    def _stop(self, node: ir.Node, output: ir.Value, readers: Iterable[Any]) -> None:
        graph, slope = self.placement.graph, ir.Attr("alpha", ir.AttributeType.FLOAT, 1.0)
        stop = ir.Node("", "LeakyRelu", [output], [slope], name=ir.fresh_name(graph, f"{node.name}_float"))
        graph.insert_after(node, stop)
        stop.outputs[0].name = ir.fresh_name(graph, f"{output.name}_kept")
        stop.outputs[0].type, stop.outputs[0].shape = output.type, output.shape
        for use in readers:
            use.node.replace_input_with(use.idx, stop.outputs[0])

    def _stored_constant(self, integers: Array, grid: Grid, stem: str, before: ir.Node) -> ir.Value:
        """A constant as integers with a DequantizeLinear; equal ones are stored once."""
        packed = _packed(integers, grid)
        stored = self._store(packed, grid.dtype, f"{stem}_quantized")
        return self._dequantized(stored, grid, stored, before=before, stem=stem)

    def _store(self, array: Array, dtype: ir.DataType, stem: str) -> ir.Value:
        key = (dtype, array.shape, hashlib.sha256(array.reshape(-1).view(np.uint8).data).digest())
        if key not in self._stored:
            self._stored[key] = ir.add_initializer(self.placement.graph, array, stem, dtype=dtype)
        return self._stored[key]

    def _dequantized(
        self,
        integers: ir.Value,
        grid: Grid,
        like: ir.Value,
        *,
        before: ir.Node | None = None,
        after: ir.Value | None = None,
        stem: str = "",
    ) -> ir.Value:
        name = f"{stem or like.name}_dequantized"
        value = self._node("DequantizeLinear", integers, grid, name, before=before, after=after)
        value.dtype, value.shape = ir.DataType.FLOAT, like.shape
        return value

    def _node(
        self,
        op_type: str,
        source: ir.Value,
        grid: Grid,
        name: str,
        *,
        before: ir.Node | None = None,
        after: ir.Value | None = None,
    ) -> ir.Value:
        graph = self.placement.graph
        stem = name.rsplit("_", 1)[0]
        scale = self._store(grid.scale, ir.DataType.FLOAT, f"{stem}_scale")
        zero = self._store(_packed(grid.zero, grid), grid.dtype, f"{stem}_zero_point")
        attributes = [] if grid.axis is None else [ir.Attr("axis", ir.AttributeType.INT, grid.axis)]
        node = ir.Node("", op_type, [source, scale, zero], attributes, name=ir.fresh_name(graph, f"{name}_node"))
        output = node.outputs[0]
        output.name = ir.fresh_name(graph, name)
        if before is not None:
            graph.insert_before(before, node)
        elif after is not None and (maker := after.producer()) is not None:
            graph.insert_after(maker, node)
        else:
            graph.insert_before(graph[0], node)
        return output


def _origin(made: Placement, value: ir.Value) -> ir.Node | None:
    """The node that computes a tensor, before the redundant clips."""
    node = value.producer()
    while node is not None and node in made.clips:
        inner = node.inputs[0]
        if inner is None or len(inner.uses()) > 1:
            return None
        node = inner.producer()
    return node


def _packed(integers: Array, grid: Grid) -> Array:
    """The integers in their own type."""
    low, high = LIMITS[grid.type]
    assert integers.size == 0 or (integers.min() >= low and integers.max() <= high)
    return np.asarray(integers.astype(grid.dtype.numpy(), order="C", copy=False))


def _name(value: ir.Value | None) -> str:
    return (value.name if value is not None else "") or "constant"


__all__ = ["FLOAT", "IntegerConstants", "QdqWriter"]
