"""Random small valid models, for property tests: with `random.Random`, or as a hypothesis strategy that shrinks."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

OPSETS = (11, 13, 17, 21)
_SIZE = 8  # sides of the images
_IR_VERSION = 8


Chooser: TypeAlias = "Callable[[Sequence[Any]], Any]"  # one of the options: where decisions come from


def random_model(seed: int, *, nodes: int = 8) -> ir.Model:
    """A model of about `nodes` steps, each of one to five nodes; the same seed gives the same bytes."""
    generator = random.Random(seed)
    return _build(lambda options: generator.choice(options), nodes)


def graphs(nodes: int = 6) -> SearchStrategy[ir.Model]:
    """A hypothesis strategy for models as `random_model` makes them; needs the hypothesis package."""
    from hypothesis import strategies as st

    @st.composite
    def draw_model(draw: Callable[..., Any]) -> ir.Model:
        def choose(options: Sequence[Any]) -> Any:
            return draw(st.sampled_from(list(options)))

        return _build(choose, draw(st.integers(1, nodes)))

    return draw_model()


@dataclass
class _Value:
    name: str
    channels: int
    size: int  # side of the square image


@dataclass
class _State:
    """The graph so far. Weights are drawn by a generator whose seed is the number of weights made."""

    choose: Chooser
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    images: list[_Value] = field(default_factory=list)
    shared: dict[tuple[int, ...], str] = field(default_factory=dict)

    def add(self, op_type: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        outs = [name] + [f"{name}_{k}" for k in range(1, outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, outs, name=f"{op_type}_{len(self.nodes)}", **attributes))
        return name

    def weight(self, *shape: int, positive: bool = False, share: bool = False) -> str:
        """A new initializer, or, when asked, the first one of its shape: two layers may share one."""
        if share and shape in self.shared:
            return self.shared[shape]
        rng = np.random.default_rng(len(self.initializers))
        array = rng.uniform(0.5, 1.5, shape) if positive else rng.normal(0, 0.5, shape)
        return self.constant(array.astype(np.float32), shape)

    def constant(self, array: Any, shape: tuple[int, ...] | None = None) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        if shape is not None:
            self.shared.setdefault(shape, name)
        return name

    def pick(self) -> _Value:
        chosen: _Value = self.choose(self.images[-3:])
        return chosen

    def push(self, name: str, channels: int, size: int) -> None:
        self.images.append(_Value(name, channels, size))

    def axes(self, op_type: str, x: str, axes: list[int]) -> str:
        """Squeeze or Unsqueeze in the spelling of the opset."""
        if self.opset < 13:
            return self.add(op_type, [x], axes=axes)
        return self.add(op_type, [x, self.constant(np.array(axes, np.int64))])


def _conv(s: _State) -> None:
    x = s.pick()
    out = s.choose([2, 4])
    k = s.choose([1, 3])
    stride = s.choose([1, 1, 2]) if x.size >= 4 else 1
    group = s.choose([1, 2]) if x.channels % 2 == 0 else 1
    pad = k // 2
    source = x.name
    if k == 3 and s.choose([False, True]):
        pads = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
        source, pad = s.add("Pad", [x.name, s.constant(pads)]), 0
    bias = s.choose([False, True, True])
    inputs = [source, s.weight(out, x.channels // group, k, k)]
    if bias:
        inputs.append(s.weight(out, share=s.choose([False, True])))
    y = s.add("Conv", inputs, kernel_shape=[k, k], strides=[stride] * 2, pads=[pad] * 4, group=group)
    size = (x.size - 1) // stride + 1
    follow = s.choose(["", "norm", "scale"])
    if follow == "norm":
        y = s.add(
            "BatchNormalization",
            [y, s.weight(out, positive=True), s.weight(out), s.weight(out), s.weight(out, positive=True)],
        )
    elif follow == "scale":
        y = s.add(s.choose(["Mul", "Add", "Sub", "Div"]), [y, s.weight(out, 1, 1, positive=True)])
    s.push(y, out, size)


def _unary(s: _State) -> None:
    x = s.pick()
    op = s.choose(["Relu", "Relu", "Sigmoid", "Neg", "Abs", "Identity", "Dropout", "Tanh", "LeakyRelu"])
    s.push(s.add(op, [x.name]), x.channels, x.size)


def _clip(s: _State) -> None:
    x = s.pick()
    low, high = s.choose([(0.0, 6.0), (-1.0, 1.0), (0.0, None)])
    inputs = [x.name, s.constant(np.float32(low))] + ([] if high is None else [s.constant(np.float32(high))])
    s.push(s.add("Clip", inputs), x.channels, x.size)


def _scale(s: _State) -> None:
    x = s.pick()
    shape: tuple[int, ...] = s.choose([(), (1,), (x.channels, 1, 1), (1, x.channels, 1, 1)])
    constant = s.weight(*shape, positive=True)
    inputs = [x.name, constant]
    op = s.choose(["Mul", "Add", "Sub", "Div"])
    if op != "Div" and s.choose([False, True]):
        inputs.reverse()
    y = s.add(op, inputs)
    if s.choose([False, True]):
        y = s.add(op, [y, constant])
    s.push(y, x.channels, x.size)


def _residual(s: _State) -> None:
    x = s.pick()
    others = [v for v in s.images if (v.channels, v.size) == (x.channels, x.size)]
    other = s.choose(others)
    s.push(s.add(s.choose(["Add", "Mul", "Sub", "Max"]), [x.name, other.name]), x.channels, x.size)


def _concat(s: _State) -> None:
    x = s.pick()
    others = [v for v in s.images if v.size == x.size]
    other = s.choose(others)
    s.push(s.add("Concat", [x.name, other.name], axis=1), x.channels + other.channels, x.size)


def _slice(s: _State) -> None:
    x = s.pick()
    end = s.choose([x.channels, max(1, x.channels // 2), 2**63 - 1])
    arrays = [np.array([v], np.int64) for v in (0, end, 1)]
    y = s.add("Slice", [x.name, *(s.constant(a) for a in arrays)])
    s.push(y, min(end, x.channels), x.size)


def _transpose(s: _State) -> None:
    x = s.pick()
    y = s.add("Transpose", [x.name], perm=[0, 2, 3, 1])
    if s.choose([False, True]):
        y = s.add("Relu", [y])
    s.push(s.add("Transpose", [y], perm=[0, 3, 1, 2]), x.channels, x.size)


def _reshape(s: _State) -> None:
    """Reshape to rows and back, with the batch read from the shape, as exporters write it."""
    x = s.pick()
    flat = s.add("Reshape", [x.name, s.constant(np.array([0, x.channels, -1], np.int64))])
    shape = s.add("Shape", [x.name])
    batch = s.axes("Unsqueeze", s.add("Gather", [shape, s.constant(np.int64(0))]), [0])
    tail = s.constant(np.array([x.channels, x.size, x.size], np.int64))
    target = s.add("Concat", [batch, tail], axis=0)
    s.push(s.add("Reshape", [flat, target]), x.channels, x.size)


def _squeeze(s: _State) -> None:
    x = s.pick()
    s.push(s.axes("Squeeze", s.axes("Unsqueeze", x.name, [1]), [1]), x.channels, x.size)


def _cast(s: _State) -> None:
    x = s.pick()
    wide = s.add("Cast", [x.name], to=TensorProto.DOUBLE)
    s.push(s.add("Cast", [wide], to=TensorProto.FLOAT), x.channels, x.size)


def _constants(s: _State) -> None:
    """A value that depends on constants only."""
    x = s.pick()
    tensor = numpy_helper.from_array(np.full((1, 1, 1), 2, np.float32))
    a = s.add("Constant", [], value=tensor)
    b = s.add(s.choose(["Neg", "Sqrt", "Exp"]), [a])
    c = s.add("Add", [b, s.weight(x.channels, 1, 1)])
    s.push(s.add("Mul", [x.name, c]), x.channels, x.size)


def _pool(s: _State) -> None:
    x = s.pick()
    op = s.choose(["MaxPool", "AveragePool"])
    s.push(s.add(op, [x.name], kernel_shape=[3, 3], pads=[1, 1, 1, 1]), x.channels, x.size)


def _twice(s: _State) -> None:
    x = s.pick()
    a, b = s.add("Sigmoid", [x.name]), s.add("Sigmoid", [x.name])
    s.push(s.add("Add", [a, b]), x.channels, x.size)


def _dead(s: _State) -> None:
    s.add("Exp", [s.pick().name])


_STEPS = (
    _conv,
    _conv,
    _conv,
    _unary,
    _unary,
    _clip,
    _scale,
    _scale,
    _residual,
    _residual,
    _concat,
    _slice,
    _transpose,
    _reshape,
    _squeeze,
    _cast,
    _constants,
    _pool,
    _twice,
    _dead,
)


def _build(choose: Chooser, steps: int) -> ir.Model:
    s = _State(choose, choose(OPSETS))
    s.push("x", choose([2, 4]), _SIZE)
    batch: int | str = choose(["N", 2])
    for _ in range(steps):
        choose(_STEPS)(s)
    outputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, s.images[0].channels, _SIZE, _SIZE])]
    inputs, outputs = outputs, []
    last = s.images[-1]
    if last.name == "x":
        s.push(s.add("Relu", ["x"]), last.channels, last.size)
        last = s.images[-1]
    if choose([False, True]):  # a classifier at the end
        pooled = s.add("Flatten", [s.add("GlobalAveragePool", [last.name])])
        product = s.add("MatMul", [pooled, s.weight(last.channels, 3)])
        logits = s.add("Add", [product, s.weight(3)])
        outputs.append(helper.make_tensor_value_info(logits, TensorProto.FLOAT, [batch, 3]))
    shown = {last.name: last}
    for _ in range(choose([0, 0, 1])):
        extra = choose(s.images[1:])
        shown[extra.name] = extra
    outputs += [
        helper.make_tensor_value_info(v.name, TensorProto.FLOAT, [batch, v.channels, v.size, v.size])
        for v in shown.values()
    ]
    graph = helper.make_graph(s.nodes, "random", inputs, outputs, s.initializers)
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", s.opset)], ir_version=_IR_VERSION))
