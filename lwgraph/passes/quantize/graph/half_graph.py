"""Rewrites a model to compute in 16-bit floating point, with Casts around nodes that stay float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx

from lwgraph import ir

_HEAVY = ir.LINEAR | ir.GATED  # worth Casts by themselves


class HalfGraph:
    """Rewrites the main graph of a model in place.

    A node computes in 16 bits when its operator's definition allows it for every float32 tensor that it touches. Each
    tensor has one type; where reader and writer differ there is one Cast for all readers, those in the bodies of If,
    Loop and Scan among them, which stay float32. A light node whose neighbours
    all compute in float32 joins them, since its Casts would cost more than it could gain.

    Args:
        model: with the types of its values known as far as possible.
        dtype: FLOAT16 or BFLOAT16.
        kept: first output of a node -> why it computes in float32.
        keep_io: the model's inputs and outputs stay float32.

    Attributes:
        reasons: names of the nodes with float32 tensors that compute in float32 -> why.
    """

    def __init__(self, model: ir.Model, dtype: ir.DataType, kept: Mapping[str, str], keep_io: bool) -> None:
        self.model, self.graph, self.dtype, self.keep_io = model, model.graph, dtype, keep_io
        self.opset = model.graph.opset_imports.get("", 1)
        self.reasons: dict[str, str] = {}
        self.narrow: set[ir.Node] = set()
        for node in self.graph:
            if not any(_is_float(v) for v in (*node.inputs, *node.outputs)):
                continue
            reason = kept.get(node.outputs[0].name or "") or self._objection(node)
            if reason:
                self.reasons[node.name or node.outputs[0].name or ""] = reason
            else:
                self.narrow.add(node)
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def run(self) -> int:
        """The number of nodes that compute in 16 bits. O(nodes + weights), islands O(nodes) per layer of them."""
        self._dissolve()
        if not self.narrow:
            return 0
        wanted = [
            (node, index, value, self._wants(node, index))
            for node in self.graph
            for index, value in enumerate(node.inputs)
            if value is not None and _is_float(value)
        ]
        bodies = [s for s in ir.scopes(self.model) if isinstance(s, ir.Graph) and s is not self.graph]
        wanted += [
            (node, index, value, ir.DataType.FLOAT)
            for body in bodies
            for node in body
            for index, value in enumerate(node.inputs)
            if value is not None and _is_float(value) and self._is_main(value)
        ]
        returned = [v for v in self.graph.outputs if _is_float(v)]
        for node in self.narrow:
            for value in node.outputs:
                if _is_float(value):
                    value.dtype = self.dtype
        if not self.keep_io:
            for value in self.graph.inputs:
                if _is_float(value) and not value.is_initializer():
                    value.dtype = self.dtype
        for node, index, value, dtype in wanted:
            if value.dtype != dtype:
                node.replace_input_with(index, self._as(value, dtype))
        for body in bodies:
            for index, value in enumerate(body.outputs):
                if self._is_main(value) and value.dtype == self.dtype:
                    body.outputs[index] = self._as(value, ir.DataType.FLOAT)
        for value in returned:
            self._return(value, ir.DataType.FLOAT if self.keep_io else self.dtype)
        ir.sweep_values([v for v in self.graph.initializers.values() if not v.uses() and not v.is_graph_output()])
        return len(self.narrow)

    def _is_main(self, value: ir.Value) -> bool:
        """Whether a value is computed or fed in the main graph."""
        maker = value.producer()
        return value.graph is self.graph if maker is None else maker.graph is self.graph

    def _wants(self, node: ir.Node, index: int) -> ir.DataType:
        if node not in self.narrow:
            return ir.DataType.FLOAT
        return self.dtype if self._follows(node, index) else ir.DataType.FLOAT

    def _schema(self, node: ir.Node) -> onnx.defs.OpSchema | None:
        try:
            return onnx.defs.get_schema(node.op_type, self.opset, node.domain)
        except onnx.defs.SchemaError:
            return None

    def _follows(self, node: ir.Node, index: int) -> bool:
        """Whether an input has the type that the node computes in; false for one that is float32 by definition."""
        schema = self._schema(node)
        assert schema is not None
        formal = schema.inputs[min(index, len(schema.inputs) - 1)]
        return formal.type_str in {c.type_param_str for c in schema.type_constraints} and self._allowed(
            schema, formal.type_str
        )

    def _allowed(self, schema: onnx.defs.OpSchema, variable: str) -> bool:
        name = f"tensor({self.dtype.name.lower()})"
        return any(c.type_param_str == variable and name in c.allowed_type_strs for c in schema.type_constraints)

    def _objection(self, node: ir.Node) -> str:
        """Why a node cannot compute in 16 bits; empty when it can."""
        if any(True for _ in ir.subgraphs_of(node)):
            return "its subgraphs are float32"
        schema = self._schema(node)
        if schema is None or node.domain not in ("", "ai.onnx"):
            return f"{node.op_type} of domain '{node.domain}' is not known"
        for value in (*node.inputs, *node.outputs):
            if value is None or ir.constant_tensor(value) is not None or (not value.name and not value.uses()):
                continue
            if value.type is None:
                return f"the type of '{value.name}' is not known"
            if not isinstance(value.type, ir.TensorType):
                return f"'{value.name}' is no tensor, and what it holds is float32"
        floats = [i for i, v in enumerate(node.inputs) if v is not None and _is_float(v)]
        if not any(self._follows(node, i) for i in floats):
            return f"{node.op_type} makes float32"
        formals = [
            schema.outputs[min(i, len(schema.outputs) - 1)].type_str for i, v in enumerate(node.outputs) if _is_float(v)
        ]
        formals += [schema.inputs[min(i, len(schema.inputs) - 1)].type_str for i in floats]
        variables = {c.type_param_str for c in schema.type_constraints}
        for variable in formals:
            if variable in variables and not self._allowed(schema, variable):
                return f"{node.op_type} has no {self.dtype.name.lower()} at opset {self.opset}"
        following = {schema.inputs[min(i, len(schema.inputs) - 1)].type_str for i in floats}
        made = [
            schema.outputs[min(i, len(schema.outputs) - 1)].type_str for i, v in enumerate(node.outputs) if _is_float(v)
        ]
        if any(variable not in following for variable in made):
            return f"{node.op_type} makes float32"
        return ""

    def _dissolve(self) -> None:
        """Let light nodes between float32 nodes only join them: their Casts would cost more than they could gain."""
        changed = True
        while changed:
            changed = False
            for node in list(self.narrow):
                if ir.operator(node) in _HEAVY:
                    continue
                neighbours = list(self._neighbours(node))
                if neighbours and not any(n in self.narrow for n in neighbours):
                    self.narrow.discard(node)
                    self.reasons[node.name or node.outputs[0].name or ""] = "it stands alone between float32 nodes"
                    changed = True

    def _neighbours(self, node: ir.Node) -> Iterator[ir.Node]:
        for index, value in enumerate(node.inputs):
            maker = value.producer() if value is not None else None
            if maker is not None and _is_float(value) and self._follows(node, index) and maker.op_type != "Constant":
                yield maker
        for value in node.outputs:
            if _is_float(value):
                yield from value.consumers()

    def _as(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The value in another type: a constant is stored in it, anything else gets one Cast for all its readers."""
        if (value, dtype) in self._casts:
            return self._casts[value, dtype]
        suffix, constant = dtype.name.lower(), ir.constant(value)
        if constant is not None:
            with np.errstate(over="ignore", under="ignore"):
                stored = constant.astype(dtype.numpy())
            made = ir.add_initializer(self.graph, stored, f"{value.name}_{suffix}", dtype=dtype)
        else:
            cast = ir.make_node("Cast", [value], {"to": int(dtype)})
            cast.name = ir.fresh_name(self.graph, f"{value.name}_to_{suffix}")
            made = cast.outputs[0]
            made.name, made.dtype = ir.fresh_name(self.graph, f"{value.name}_{suffix}"), dtype
            made.shape = value.shape
            maker = value.producer()
            if maker is not None:
                self.graph.insert_after(maker, cast)
            else:
                self.graph.insert_before(self.graph[0], cast)
        self._casts[value, dtype] = made
        return made

    def _return(self, value: ir.Value, dtype: ir.DataType) -> None:
        """Give one output of the graph the type `dtype` under its own name."""
        if value.dtype == dtype or value.producer() is None:
            return
        made, name = self._as(value, dtype), value.name or ""
        value.name = ir.fresh_name(self.graph, f"{name}_{str((value.dtype or dtype).name).lower()}")
        made.name = name
        for index, output in enumerate(self.graph.outputs):
            if output is value:
                self.graph.outputs[index] = made


def _is_float(value: ir.Value | None) -> bool:
    if value is None or not (value.type is None or isinstance(value.type, ir.TensorType)):
        return False  # a sequence or an optional has the type of what it holds
    return (value.dtype or ir.constant_dtype(value)) == ir.DataType.FLOAT


__all__ = ["HalfGraph"]
