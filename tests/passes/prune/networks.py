"""Small networks of every pattern that pruners meet, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Net:
    """Builds a model; each method adds nodes and returns the name of the value it made. NCHW, float32."""

    def __init__(self, seed: int = 0, opset: int = 17) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: dict[str, tuple[Any, ...]] = {}
        self.opset = opset
        self.count = 0

    def fresh(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def input(self, *shape: Any, name: str = "x") -> str:
        self.inputs[name] = shape
        return name

    def constant(self, array: Any, stem: str = "c") -> str:
        name = self.fresh(stem)
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weight(self, *shape: int, gain: float = 1.0) -> str:
        fan_in = max(1, int(np.prod(shape[1:])))
        return self.constant((self.rng.standard_normal(shape) * gain / fan_in**0.5).astype(np.float32), "w")

    def small(self, size: int, around: float = 0.0) -> str:
        return self.constant((around + 0.3 * self.rng.standard_normal(size)).astype(np.float32), "b")

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [self.fresh("v") for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=self.fresh(f"{kind}_"), **attributes))
        return names[0] if outputs == 1 else names

    def conv(
        self,
        x: str,
        cin: int,
        cout: int,
        k: int = 1,
        *,
        stride: int = 1,
        group: int = 1,
        bias: bool = True,
        act: str = "",
    ) -> str:
        inputs = [x, self.weight(cout, cin // group, k, k, gain=1.4)] + ([self.small(cout)] if bias else [])
        y = self.op("Conv", *inputs, kernel_shape=[k, k], pads=[k // 2] * 4, strides=[stride] * 2, group=group)
        return self.op(act, y) if act else y

    def bn(self, x: str, size: int) -> str:
        variance = self.constant((0.5 + self.rng.random(size)).astype(np.float32), "v")
        return self.op("BatchNormalization", x, self.small(size, 1), self.small(size), self.small(size), variance)

    def gemm(self, x: str, cin: int, cout: int, *, trans_b: bool = True) -> str:
        w = self.weight(cout, cin) if trans_b else self.weight(cin, cout)
        return self.op("Gemm", x, w, self.small(cout), transB=int(trans_b))

    def head(self, x: str, cin: int, classes: int = 7) -> str:
        return self.gemm(self.op("Flatten", self.op("GlobalAveragePool", x)), cin, classes)

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64), "i")

    def model(self, *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in self.inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
            self.weights,
        )
        return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", self.opset)])


def plain() -> onnx.ModelProto:
    net = Net()
    x = net.conv(net.input("N", 3, 12, 12), 3, 16, 3, act="Relu")
    x = net.conv(x, 16, 32, 3, act="Relu", stride=2)
    x = net.conv(x, 32, 64, 3, act="Relu")
    return net.model(net.head(x, 64))


def flatten_gemm() -> onnx.ModelProto:
    net = Net()
    x = net.conv(net.input("N", 3, 8, 8), 3, 16, 3, act="Relu")
    x = net.conv(x, 16, 32, 3, act="Relu")
    x = net.op("Flatten", net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]))
    x = net.op("Relu", net.gemm(x, 32 * 16, 24, trans_b=False))
    return net.model(net.gemm(x, 24, 5))


def residual() -> onnx.ModelProto:
    net = Net()
    x = net.op("Relu", net.bn(net.conv(net.input("N", 3, 8, 8), 3, 16, 3, bias=False), 16))
    for _ in range(3):
        y = net.op("Relu", net.bn(net.conv(x, 16, 16, 3, bias=False), 16))
        x = net.op("Relu", net.op("Add", net.bn(net.conv(y, 16, 16, 3, bias=False), 16), x))
    y = net.conv(x, 16, 32, 3, stride=2, act="Relu")
    x = net.op("Add", net.conv(y, 32, 32, 3), net.conv(x, 16, 32, 1, stride=2))
    return net.model(net.head(net.op("Relu", x), 32))


def dense_concat(first: int = 16, growth: int = 8) -> onnx.ModelProto:
    net = Net()
    x, width = net.conv(net.input("N", 3, 8, 8), 3, first, 3), first
    for _ in range(3):
        y = net.conv(net.op("Relu", net.bn(x, width)), width, growth, 3)
        x, width = net.op("Concat", x, y, axis=1), width + growth
    x = net.op("Concat", x, x, axis=1)  # the same tensor twice
    return net.model(net.head(net.conv(x, 2 * width, 24, 1, act="Relu"), 24))


def mobile() -> onnx.ModelProto:
    net = Net()
    six = net.constant(np.float32(6)), net.constant(np.float32(0))

    def relu6(x: str) -> str:
        return net.op("Clip", x, six[1], six[0])

    x = relu6(net.conv(net.input("N", 3, 8, 8), 3, 16, 3))
    for stride in (1, 2, 1):
        y = relu6(net.conv(x, 16, 64, 1))
        y = relu6(net.conv(y, 64, 64, 3, group=64, stride=stride))
        y = net.conv(y, 64, 16, 1)
        x = net.op("Add", x, y) if stride == 1 else y
    return net.model(net.head(relu6(net.conv(x, 16, 48, 1)), 48))


def shuffle() -> onnx.ModelProto:
    net = Net()
    x = net.conv(net.input("N", 3, 8, 8), 3, 32, 3, act="Relu")
    for _ in range(2):
        left, right = net.op("Split", x, net.ints(16, 16), outputs=2, axis=1)
        right = net.conv(right, 16, 16, 1, act="Relu")
        right = net.conv(net.conv(right, 16, 16, 3, group=16), 16, 16, 1, act="Relu")
        x = net.op("Concat", left, right, axis=1)
        x = net.op("Reshape", x, net.ints(-1, 2, 16, 8, 8))
        x = net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 1, 3, 4]), net.ints(-1, 32, 8, 8))
    return net.model(net.head(net.conv(x, 32, 24, 1, act="Relu"), 24))


def squeeze_excite(width: int = 24) -> onnx.ModelProto:
    net, wider, few = Net(), width * 4 // 3, width // 3
    x = net.conv(net.input("N", 3, 8, 8), 3, width, 3, act="Relu")
    s = net.conv(net.op("ReduceMean", x, axes=[2, 3]), width, few, act="Relu")
    x = net.op("Mul", x, net.op("Sigmoid", net.conv(s, few, width)))
    x = net.conv(x, width, wider, 3, act="Relu")
    s = net.op("Relu", net.gemm(net.op("Flatten", net.op("GlobalAveragePool", x)), wider, few))
    gate = net.op("Reshape", net.op("HardSigmoid", net.gemm(s, few, wider)), net.ints(0, wider, 1, 1))
    return net.model(net.head(net.op("Mul", x, gate), wider))


def conv_gru(kind: str = "GRU", direction: str = "bidirectional") -> onnx.ModelProto:
    net, hidden, gates, two = Net(), 12, {"GRU": 3, "LSTM": 4, "RNN": 1}[kind], 1 + (direction == "bidirectional")
    x = net.conv(net.input("N", 1, 4, 10), 1, 16, 3, act="Relu")
    x = net.op("Reshape", x, net.ints(-1, 64, 10))  # channels and height
    x = net.op("Transpose", x, perm=[2, 0, 1])
    w, r = net.weight(two, gates * hidden, 64), net.weight(two, gates * hidden, hidden)
    b = net.constant((0.1 * net.rng.standard_normal((two, 2 * gates * hidden))).astype(np.float32))
    y = net.op(kind, x, w, r, b, hidden_size=hidden, direction=direction)
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(10, -1, two * hidden))
    return net.model(net.op("MatMul", y, net.weight(two * hidden, 9)))


def conv_lstm() -> onnx.ModelProto:
    return conv_gru("LSTM", "forward")


def conv_rnn() -> onnx.ModelProto:
    return conv_gru("RNN", "reverse")


def c2f() -> onnx.ModelProto:
    net = Net()

    def silu(x: str) -> str:
        return net.op("Mul", x, net.op("Sigmoid", x))

    x = silu(net.conv(net.input("N", 3, 8, 8), 3, 16, 3))
    parts = net.op("Split", silu(net.conv(x, 16, 32)), outputs=2, axis=1)
    for _ in range(2):
        y = silu(net.conv(silu(net.conv(parts[-1], 16, 16, 3)), 16, 16, 3))
        parts.append(net.op("Add", parts[-1], y))
    x = silu(net.conv(net.op("Concat", *parts, axis=1), 64, 24))
    return net.model(net.head(x, 24), net.conv(x, 24, 5))


def unet() -> onnx.ModelProto:
    net = Net()
    a = net.conv(net.input("N", 3, 8, 8), 3, 16, 3, act="Relu")
    b = net.conv(net.op("MaxPool", a, kernel_shape=[2, 2], strides=[2, 2]), 16, 24, 3, act="Relu")
    up = net.op("Resize", b, "", net.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
    x = net.conv(net.op("Concat", up, a, axis=1), 40, 16, 3, act="Relu")
    w = net.weight(16, 12, 2, 2)
    x = net.op("ConvTranspose", x, w, net.small(12), strides=[2, 2])
    return net.model(net.conv(net.op("Relu", x), 12, 2))


def decoder() -> onnx.ModelProto:
    net = Net()
    x = net.op("Relu", net.gemm(net.input("N", 6), 6, 16 * 9))
    x = net.op("Reshape", x, net.ints(0, 16, 3, 3))
    for cin, cout, group in ((16, 24, 1), (24, 24, 24), (24, 12, 2)):
        w = net.weight(cin, cout // group, 4, 4)
        x = net.op("ConvTranspose", x, w, net.small(cout), strides=[2, 2], pads=[1, 1, 1, 1], group=group)
        x = net.op("LeakyRelu", net.bn(x, cout))
    return net.model(net.op("Tanh", net.conv(x, 12, 3, 3)))


def resnext() -> onnx.ModelProto:
    net = Net()
    x = net.conv(net.input("N", 3, 8, 8), 3, 32, 3, act="Relu")
    for _ in range(2):
        y = net.conv(x, 32, 32, act="Relu")
        y = net.conv(y, 32, 32, 3, group=4, act="Relu")
        x = net.op("Relu", net.op("Add", x, net.conv(y, 32, 32)))
    return net.model(net.head(x, 32))


def attention(qkv: bool = False, norm: bool = False) -> onnx.ModelProto:
    net, d, heads = Net(), 24, 4
    x = net.op(
        "Add",
        net.op("MatMul", net.input("N", 5, 8), net.weight(8, d)),
        net.constant(net.rng.standard_normal((1, 5, d)).astype(np.float32)),
    )
    y = net.op("LayerNormalization", x, net.small(d, 1), net.small(d)) if norm else x
    if qkv:
        z = net.op("Add", net.op("MatMul", y, net.weight(d, 3 * d)), net.small(3 * d))
        z = net.op("Transpose", net.op("Reshape", z, net.ints(0, 5, 3, heads, d // heads)), perm=[2, 0, 3, 1, 4])
        q, k, v = (net.op("Gather", z, net.constant(np.int64(i)), axis=0) for i in range(3))
    else:
        q, k, v = (
            net.op(
                "Transpose",
                net.op(
                    "Reshape",
                    net.op("Add", net.op("MatMul", y, net.weight(d, d)), net.small(d)),
                    net.ints(-1, 5, heads, d // heads),
                ),
                perm=[0, 2, 1, 3],
            )
            for _ in range(3)
        )
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = net.op("Softmax", net.op("Mul", scores, net.constant(np.float32((d // heads) ** -0.5))), axis=-1)
    y = net.op("Reshape", net.op("Transpose", net.op("MatMul", scores, v), perm=[0, 2, 1, 3]), net.ints(0, 0, d))
    x = net.op("Add", x, net.op("MatMul", y, net.weight(d, d)))
    y = (
        net.op("Gelu", net.op("MatMul", x, net.weight(d, 48)))
        if net.opset >= 20
        else net.op("Relu", net.op("MatMul", x, net.weight(d, 48)))
    )
    x = net.op("Add", x, net.op("Add", net.op("MatMul", y, net.weight(48, d)), net.small(d)))
    return net.model(net.gemm(net.op("ReduceMean", x, axes=[1], keepdims=0), d, 5))


def attention_qkv() -> onnx.ModelProto:
    return attention(qkv=True, norm=True)


def two_inputs() -> onnx.ModelProto:
    net = Net()
    a = net.conv(net.input("N", 3, 8, 8), 3, 16, 3, act="Relu")
    b = net.conv(net.input("N", 2, 8, 8, name="z"), 2, 16, 3, act="Relu")
    raw = net.conv(net.op("Concat", a, "z", axis=1), 18, 16)
    x = net.op("Add", net.op("Mul", a, b), raw)
    return net.model(net.head(x, 16))


def shared_bias() -> onnx.ModelProto:
    net = Net()
    zeros = net.constant(np.zeros(16, np.float32))
    x = net.input("N", 3, 8, 8)
    for cin in (3, 16, 16):
        x = net.op("Relu", net.op("Conv", x, net.weight(16, cin, 3, 3), zeros, pads=[1] * 4))
    return net.model(net.head(net.conv(x, 16, 16, act="Relu"), 16))


def shared_weights() -> onnx.ModelProto:
    net = Net()
    x = net.conv(net.input("N", 3, 8, 8), 3, 16, 3, act="Relu")
    w, b = net.weight(16, 16, 3, 3), net.small(16)
    for _ in range(2):
        x = net.op("Relu", net.op("Conv", x, w, b, pads=[1] * 4))
    return net.model(net.head(x, 16))


def pixel_shuffle() -> onnx.ModelProto:
    net = Net()
    x = net.conv(net.input("N", 3, 4, 4), 3, 16, 3, act="Relu")
    down = net.conv(net.op("SpaceToDepth", x, blocksize=2), 64, 16, act="Relu")
    up = net.op("DepthToSpace", net.conv(down, 16, 48, 3), blocksize=2, mode="CRD")
    up = net.op("DepthToSpace", net.conv(net.op("Relu", up), 12, 32, 3), blocksize=2)
    return net.model(net.op("DepthToSpace", net.conv(up, 8, 12), blocksize=2))


PATTERNS: dict[str, Callable[[], onnx.ModelProto]] = {
    each.__name__: each
    for each in (
        plain,
        flatten_gemm,
        residual,
        dense_concat,
        mobile,
        shuffle,
        squeeze_excite,
        conv_gru,
        conv_lstm,
        conv_rnn,
        c2f,
        unet,
        decoder,
        resnext,
        attention,
        attention_qkv,
        two_inputs,
        shared_bias,
        shared_weights,
        pixel_shuffle,
    )
}


def resnet18(size: int = 224) -> onnx.ModelProto:
    net = Net()
    x = net.op("Relu", net.bn(net.conv(net.input("N", 3, size, size), 3, 64, 7, stride=2, bias=False), 64))
    x, width = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 64
    for stage in range(4):
        for block in range(2):
            out, stride = 64 << stage, 2 if stage and not block else 1
            y = net.op("Relu", net.bn(net.conv(x, width, out, 3, stride=stride, bias=False), out))
            y = net.bn(net.conv(y, out, out, 3, bias=False), out)
            x = net.bn(net.conv(x, width, out, stride=stride, bias=False), out) if width != out or stride > 1 else x
            x, width = net.op("Relu", net.op("Add", y, x)), out
    return net.model(net.head(x, width, 1000))
