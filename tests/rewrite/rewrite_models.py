"""Models as text, and the passes that the tests of the rewriting framework share."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import onnx.checker
import onnx.parser
from onnx import numpy_helper

from lwgraph import check, ir
from lwgraph.rewrite import Const, Contract, RewritePass, Skip


def parse(body: str, opset: int = 17, ir_version: int = 10, extra: str = "") -> ir.Model:
    """A model from the graph syntax of onnx.parser; `extra` holds functions.

    An initializer of several elements may be given by one: `{0}` stands for random numbers, seeded by its name,
    anything else for that number throughout.
    """
    imports = f'"" : {opset}' + (', "local" : 1' if extra else "")
    proto = onnx.parser.parse_model(f"<ir_version: {ir_version}, opset_import: [{imports}]>\n{body}\n{extra}")
    for graph in _graphs(proto.graph):
        for tensor in graph.initializer:
            _fill(tensor)
    return ir.load(proto)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _fill(tensor: onnx.TensorProto) -> None:
    given = next((d for d in (tensor.float_data, tensor.int64_data, tensor.int32_data, tensor.double_data) if d), [])
    size = int(np.prod(tensor.dims, dtype=np.int64))
    if len(given) != 1 or size == 1:
        return
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if given[0] == 0 and dtype.kind == "f":
        array = 0.5 * np.random.default_rng(zlib.crc32(tensor.name.encode())).standard_normal(size)
    else:
        array = np.full(size, given[0])
    tensor.CopyFrom(numpy_helper.from_array(array.astype(dtype).reshape(tuple(tensor.dims)), tensor.name))


def verify(model: ir.Model) -> None:
    """What lwgraph and onnx's own checker, with strict shape inference, have to say."""
    check.verify(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def lines(model: ir.Model) -> list[str]:
    """One line a node of the main graph: `Type(inputs) -> outputs`."""
    return [
        f"{n.op_type}({', '.join(v.name or '' if v is not None else '' for v in n.inputs)})"
        f" -> {', '.join(v.name or '' for v in n.outputs)}"
        for n in model.graph
    ]


@dataclass(frozen=True)
class DropAbs(RewritePass):
    """Abs(x) -> x."""

    name = "drop-abs"
    contract = Contract.APPROXIMATE

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Abs(x)

    def replace(self, op: Any, x: Any) -> Any:
        return x


@dataclass(frozen=True)
class MergeMuls(RewritePass):
    """Mul(Mul(x, a), b) -> Mul(x, a*b) for constants a and b."""

    name = "merge-muls"
    contract = Contract.ROUNDING
    max_size: Annotated[int, "largest constant to fold, in elements"] = 1 << 20

    def pattern(self, op: Any, x: Any, a: Any, b: Any) -> Any:
        return op.Mul(op.Mul(x, a), b)

    def replace(self, op: Any, x: ir.Value, a: Const, b: Const) -> Any:
        if max(a.size, b.size) > self.max_size:
            raise Skip(f"a constant has more than max_size={self.max_size} elements")
        return op.Mul(x, op.const(a.numpy() * b.numpy()))
