"""Small float models with fixed random weights, and data for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, shape_inference

from lwgraph import ir
from lwgraph.arrays import Array


class Net:
    """Builds a model node by node; every method returns the name of its output."""

    def __init__(self, opset: int = 17, seed: int = 0) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Array] = {}
        self.inputs: list[Any] = []
        self.opset, self.rng = opset, np.random.default_rng(seed)

    def input(self, name: str, shape: Sequence[int | str]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))
        return name

    def constant(self, array: Any, name: str = "") -> str:
        name = name or f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def op(self, kind: str, *inputs: str, name: str = "", outputs: int = 1, **attributes: Any) -> str:
        name = name or f"{kind.lower()}{len(self.nodes)}"
        made = [f"{name}_out{i or ''}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), made, name=name, **attributes))
        return made[0]

    def conv(
        self,
        x: str,
        cin: int,
        cout: int,
        k: int = 3,
        group: int = 1,
        bias: bool = True,
        name: str = "",
        **attributes: Any,
    ) -> str:
        weight = self.rng.normal(size=(cout, cin // group, k, k)) / np.sqrt(cin // group * k * k)
        inputs = [x, self.constant(weight.astype(np.float32))]
        if bias:
            inputs.append(self.constant(self.rng.normal(size=cout).astype(np.float32) / 4))
        return self.op("Conv", *inputs, name=name, group=group, pads=[k // 2] * 4, **attributes)

    def gemm(self, x: str, cin: int, cout: int, **attributes: Any) -> str:
        weight = self.constant((self.rng.normal(size=(cout, cin)) / np.sqrt(cin)).astype(np.float32))
        return self.op(
            "Gemm", x, weight, self.constant(self.rng.normal(size=cout).astype(np.float32)), transB=1, **attributes
        )

    def model(self, *outputs: str) -> ir.Model:
        made = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
        initializers = [numpy_helper.from_array(a, n) for n, a in self.constants.items()]
        graph = helper.make_graph(self.nodes, "net", self.inputs, made, initializers)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        return ir.load(shape_inference.infer_shapes(proto))


def images(
    count: int = 8, shape: Sequence[int] = (1, 3, 16, 16), name: str = "x", seed: int = 1
) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [{name: rng.normal(size=shape).astype(np.float32)} for _ in range(count)]


def residual(opset: int = 17) -> ir.Model:
    """Convolutions with Relu, a residual Add, MaxPool, a depthwise one, pooling and a classifier."""
    n = Net(opset)
    x = n.input("x", ["batch", 3, 16, 16])
    a = n.op("Relu", n.conv(x, 3, 16, name="stem"))
    b = n.op("Relu", n.conv(a, 16, 16, name="inner"))
    s = n.op("Relu", n.op("Add", n.conv(b, 16, 16, name="outer"), a))
    p = n.op("MaxPool", s, kernel_shape=[2, 2], strides=[2, 2])
    d = n.op("Relu", n.conv(p, 16, 16, group=16, name="depthwise"))
    e = n.conv(d, 16, 32, k=1, name="pointwise")
    g = n.op("Flatten", n.op("GlobalAveragePool", n.op("Relu", e)))
    return n.model(n.gemm(g, 32, 10, name="classifier"))


def detector() -> ir.Model:
    """SiLU, Concat, Resize between convolutions, and a tail that puts pixels and probabilities into one tensor."""
    n = Net()
    x = n.input("x", [1, 3, 16, 16])
    a = n.conv(x, 3, 16, name="stem")
    a = n.op("Mul", a, n.op("Sigmoid", a))
    low = n.conv(a, 16, 16, name="low", strides=[2, 2])
    low = n.op("Mul", low, n.op("Sigmoid", low))
    up = n.op("Resize", low, "", n.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest", name="up")
    both = n.op("Concat", up, a, axis=1, name="join")
    mixed = n.conv(both, 32, 16, name="mixed")
    boxes = n.op("Mul", n.op("Exp", n.conv(mixed, 16, 4, k=1, name="boxes")), n.constant(np.float32(640)))
    scores = n.op("Sigmoid", n.conv(mixed, 16, 2, k=1, name="scores"), name="probability")
    return n.model(n.op("Concat", boxes, scores, axis=1, name="tail"))
