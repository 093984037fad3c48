"""Small models with what strangers' models have, and how close two models' outputs are in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.check import verify
from lwgraph.rewrite import Context, Pass

IMAGE = (1, 8, 8, 8)
Feeds = dict[str, Array]


def kernel(seed: int, *shape: int, dtype: Any = np.float32) -> Array:
    """Weights of a layer that keeps the size of its values, about."""
    width = int(np.prod(shape[1:]))
    return (np.random.default_rng(seed).standard_normal(shape) / np.sqrt(width)).astype(dtype)


def conv(x: str, weight: str, y: str, name: str = "", **attributes: Any) -> NodeProto:
    """A 3x3 convolution that keeps the size."""
    return helper.make_node("Conv", [x, weight], [y], name or f"conv_{y}", pads=[1, 1, 1, 1], **attributes)


def model(
    nodes: Sequence[NodeProto],
    weights: Mapping[str, Array],
    *,
    inputs: Sequence[tuple[str, int, Sequence[int | str] | None]] = (("x", TensorProto.FLOAT, IMAGE),),
    outputs: Sequence[Any] = (("y", TensorProto.FLOAT, IMAGE),),
    opset: int = 17,
    functions: Sequence[onnx.FunctionProto] = (),
    infer: bool = True,
    domains: Sequence[str] = (),
) -> ir.Model:
    """A model, shapes inferred unless that is not wanted; outputs are (name, type, shape) or ready value infos."""
    graph = helper.make_graph(
        list(nodes),
        "stranger",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) if isinstance(each, tuple) else each for each in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    opsets = [
        helper.make_opsetid("", opset),
        *(helper.make_opsetid(name, 1) for name in [*domains, *(f.domain for f in functions)]),
    ]
    proto = helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=8)
    if infer:
        proto = onnx.shape_inference.infer_shapes(proto)
    return ir.load(proto)


def images(count: int = 12, shape: Sequence[int] = IMAGE, dtype: Any = np.float32, name: str = "x") -> list[Feeds]:
    """Seeded normal inputs."""
    rng = np.random.default_rng(7)
    return [{name: rng.standard_normal(shape).astype(dtype)} for _ in range(count)]


def applied(pass_: Pass, before: ir.Model, data: Sequence[Feeds] | None = None) -> tuple[ir.Model, Context, int]:
    """What a pass makes of a copy, verified; the context with what it told; what it returned."""
    after = ir.clone(before)
    context = Context(executor=registry.executor("ort"), data=list(data) if data is not None else None)
    count = pass_.run(after, context)
    verify(after)
    return after, context, count


def reasons(context: Context) -> str:
    """All that was told of what was left alone."""
    return "; ".join(f"{skip.place}: {skip.reason}" for skip in context.skipped)


def run(model: ir.Model, feeds: Feeds) -> list[Any]:
    """The outputs in ONNX Runtime itself, with nothing of lwgraph between."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    proto = ir.to_proto(model).SerializeToString()
    found: list[Any] = onnxruntime.InferenceSession(proto, options, ["CPUExecutionProvider"]).run(None, feeds)
    return found


def sqnr(before: ir.Model, after: ir.Model, data: Sequence[Feeds]) -> float:
    """Decibels of the outputs' finite values, float against rewritten; what is not finite must be equal."""
    signal = error = 0.0
    for feeds in data:
        for y, z in zip(run(before, feeds), run(after, feeds), strict=True):
            assert y.dtype == z.dtype and y.shape == z.shape
            fine = np.isfinite(y)
            np.testing.assert_array_equal(y[~fine], z[~fine])
            signal += float(np.square(y[fine].astype(np.float64)).sum())
            error += float(np.square(y[fine].astype(np.float64) - z[fine]).sum())
    return 10 * float(np.log10(signal / max(error, 1e-30 * signal)))


def operators(model: ir.Model) -> list[str]:
    """The operators of the main graph."""
    return [ir.operator(node) for node in model.graph]


def in_integers(model: ir.Model) -> set[str]:
    """Names of the nodes between DequantizeLinear and QuantizeLinear, which the runtime computes in integers."""

    def reads(node: ir.Node) -> bool:
        makers = [v.producer() for v in node.inputs if v is not None]
        return any(m is not None and m.op_type == "DequantizeLinear" for m in makers)

    def gives(node: ir.Node) -> bool:
        return any(user.op_type == "QuantizeLinear" for v in node.outputs for user in v.consumers())

    return {node.name or "" for node in model.graph if reads(node) and gives(node)}
