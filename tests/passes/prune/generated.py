"""A strategy for networks that mix every pattern."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st

from tests.passes.prune.networks import Net

ACTIVATIONS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "Elu", "Softplus", "Abs", "Neg")
SIZE = 8  # height and width at the input


class _Grower:
    """Grows a network from drawn decisions; `values` are the maps so far as (name, channels, height and width)."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.net = Net(draw(st.integers(0, 999)), opset=18)
        self.values = [(self.net.input("N", 3, SIZE, SIZE), 3, SIZE)]
        self.outputs: list[str] = []

    def pick(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def take(self) -> tuple[str, int, int]:
        """One of the last maps, the last one most often."""
        return self.values[max(0, len(self.values) - 1 - self.draw(st.integers(0, 2)))]

    def width(self) -> int:
        return self.pick(4, 6, 8, 12)

    def grow(self) -> None:
        kinds = [name for name in dir(self) if name.startswith("add_")]
        getattr(self, self.draw(st.sampled_from(kinds)))(*self.take())

    def put(self, name: str, channels: int, size: int) -> None:
        self.values.append((name, channels, size))

    def add_conv(self, x: str, c: int, size: int) -> None:
        out, stride = self.width(), self.pick(1, 1, 2) if size > 4 else 1
        y = self.net.conv(x, c, out, self.pick(1, 3), stride=stride, bias=self.pick(True, False))
        self.put(y, out, -(-size // stride))

    def add_activation(self, x: str, c: int, size: int) -> None:
        self.put(self.net.op(self.pick(*ACTIVATIONS), x), c, size)

    def add_norm(self, x: str, c: int, size: int) -> None:
        kind = self.pick("batch", "instance", "prelu")
        if kind == "batch":
            y = self.net.bn(x, c)
        elif kind == "instance":
            y = self.net.op("InstanceNormalization", x, self.net.small(c, 1), self.net.small(c))
        else:
            y = self.net.op("PRelu", x, self.net.constant(self.net.rng.random((c, 1, 1)).astype(np.float32)))
        self.put(y, c, size)

    def add_scale(self, x: str, c: int, size: int) -> None:
        factor = self.net.constant(self.net.rng.random(self.pick((1, c, 1, 1), (c, 1, 1), ())).astype(np.float32))
        self.put(self.net.op(self.pick("Mul", "Add", "Sub", "Max"), x, factor), c, size)

    def add_residual(self, x: str, c: int, size: int) -> None:
        y = self.net.conv(self.net.conv(x, c, c, 3, act="Relu"), c, c, 1)
        self.put(self.net.op(self.pick("Add", "Mul", "Sub"), x, y), c, size)

    def add_join(self, x: str, c: int, size: int) -> None:
        same = [(n, k) for n, k, s in self.values[1:] if s == size and k == c]
        if same:
            other, _ = self.draw(st.sampled_from(same))
            self.put(self.net.op(self.pick("Add", "Mul", "Max"), x, other), c, size)

    def add_concat(self, x: str, c: int, size: int) -> None:
        others = [(n, k) for n, k, s in self.values if s == size]
        chosen = self.draw(st.lists(st.sampled_from(others), min_size=1, max_size=2))
        if c + sum(k for _, k in chosen) <= 40:
            y = self.net.op("Concat", x, *(n for n, _ in chosen), axis=self.pick(1, -3))
            self.put(y, c + sum(k for _, k in chosen), size)

    def add_split(self, x: str, c: int, size: int) -> None:
        if c < 4:
            return
        first = self.draw(st.integers(2, c - 2))
        a, b = self.net.op("Split", x, self.net.ints(first, c - first), outputs=2, axis=1)
        self.put(a, first, size)
        self.put(b, c - first, size)

    def add_slice(self, x: str, c: int, size: int) -> None:
        start, stop, step = self.pick((0, c - 1, 1), (1, c, 1), (0, c, 2), (c - 1, -c - 1, -1), (0, 1 << 60, 1))
        count = len(range(c)[slice(start, None if step < 0 else stop, step)])
        if count > 1:
            bounds = (self.net.ints(number) for number in (start, stop, 1, step))
            y = self.net.op("Slice", x, *bounds)
            self.put(y, count, size)

    def add_gather(self, x: str, c: int, size: int) -> None:
        picks = self.draw(st.lists(st.integers(-c, c - 1), min_size=2, max_size=c + 1))
        self.put(self.net.op("Gather", x, self.net.ints(*picks), axis=1), len(picks), size)

    def add_depthwise(self, x: str, c: int, size: int) -> None:
        times = self.pick(1, 1, 2) if c <= 16 else 1
        self.put(self.net.conv(x, c, c * times, 3, group=c), c * times, size)

    def add_grouped(self, x: str, c: int, size: int) -> None:
        group = self.pick(2, 3)
        if c % group == 0 and c > group:
            out = group * self.pick(2, 4)
            self.put(self.net.conv(x, c, out, 3, group=group), out, size)

    def add_shuffle(self, x: str, c: int, size: int) -> None:
        group = self.pick(2, 3)
        if c % group == 0 and c > group:
            y = self.net.op("Reshape", x, self.net.ints(0, group, c // group, size, size))
            y = self.net.op("Transpose", y, perm=[0, 2, 1, 3, 4])
            self.put(self.net.op("Reshape", y, self.net.ints(-1, c, size, size)), c, size)

    def add_gate(self, x: str, c: int, size: int) -> None:
        pooled = (
            self.net.op("GlobalAveragePool", x)
            if self.pick(True, False)
            else self.net.op("ReduceMean", x, self.net.ints(2, 3))
        )
        gate = self.net.conv(self.net.conv(pooled, c, 6, act="Relu"), 6, c)
        self.put(self.net.op("Mul", x, self.net.op("Sigmoid", gate)), c, size)

    def add_spatial_gate(self, x: str, c: int, size: int) -> None:
        mean = self.net.op(self.pick("ReduceMean", "ReduceSum"), x, self.net.ints(1))
        self.put(self.net.op("Mul", x, self.net.op("Sigmoid", mean)), c, size)

    def add_pool(self, x: str, c: int, size: int) -> None:
        if size > 2:
            kind = self.pick("MaxPool", "AveragePool")
            self.put(self.net.op(kind, x, kernel_shape=[2, 2], strides=[2, 2]), c, size // 2)

    def add_up(self, x: str, c: int, size: int) -> None:
        if size <= 8:
            if self.pick(True, False):
                scales = self.net.constant(np.array([1, 1, 2, 2], np.float32))
                y = self.net.op("Resize", x, "", scales, mode="nearest")
            else:
                y = self.net.op("Resize", x, "", "", self.net.ints(2, c, 2 * size, 2 * size), mode="nearest")
            self.put(y, c, 2 * size)

    def add_transposed(self, x: str, c: int, size: int) -> None:
        group = self.pick(1, 1, c, 2 if c % 2 == 0 else 1)
        out = group if group == c else group * self.pick(2, 3)
        if size <= 8:
            w = self.net.weight(c, out // group, 2, 2)
            y = self.net.op("ConvTranspose", x, w, self.net.small(out), strides=[2, 2], group=group)
            self.put(y, out, 2 * size)

    def add_pixel_shuffle(self, x: str, c: int, size: int) -> None:
        if c % 4 == 0 and size <= 8:
            self.put(self.net.op("DepthToSpace", x, blocksize=2, mode=self.pick("DCR", "CRD")), c // 4, 2 * size)
        elif size % 2 == 0 and c <= 8:
            self.put(self.net.op("SpaceToDepth", x, blocksize=2), 4 * c, size // 2)

    def add_pad(self, x: str, c: int, size: int) -> None:
        before, after = self.pick((0, 0), (2, 0), (1, 3))
        y = self.net.op("Pad", x, self.net.ints(0, before, 1, 0, 0, after, 0, 1))
        self.put(y, c + before + after, size + 1)

    def add_tile(self, x: str, c: int, size: int) -> None:
        if c <= 12:
            self.put(self.net.op("Tile", x, self.net.ints(1, 2, 1, 1)), 2 * c, size)

    def add_last_axis(self, x: str, c: int, size: int) -> None:
        """Channels last, a linear layer per position, and back."""
        y, out = self.net.op("Transpose", x, perm=[0, 2, 3, 1]), self.width()
        y = self.net.op("Add", self.net.op("MatMul", y, self.net.weight(c, out)), self.net.small(out))
        self.put(self.net.op("Transpose", y, perm=[0, 3, 1, 2]), out, size)

    def add_attention(self, x: str, c: int, size: int) -> None:
        """Two heads over the positions."""
        if c % 2 or c < 4:
            return
        y = self.net.op("Transpose", self.net.op("Reshape", x, self.net.ints(0, c, size * size)), perm=[0, 2, 1])
        q, k, v = (
            self.net.op(
                "Transpose",
                self.net.op(
                    "Reshape", self.net.op("MatMul", y, self.net.weight(c, c)), self.net.ints(0, size * size, 2, c // 2)
                ),
                perm=[0, 2, 1, 3],
            )
            for _ in range(3)
        )
        scores = self.net.op("Softmax", self.net.op("MatMul", q, self.net.op("Transpose", k, perm=[0, 1, 3, 2])))
        y = self.net.op("Transpose", self.net.op("MatMul", scores, v), perm=[0, 1, 3, 2])
        self.put(self.net.op("Reshape", y, self.net.ints(0, c, size, size)), c, size)

    def add_shared(self, x: str, c: int, size: int) -> None:
        """One layer used twice, with a bias that others may share."""
        w, b = self.net.weight(c, c, 3, 3), self.net.constant(np.zeros(c, np.float32))
        y = self.net.op("Conv", x, w, b, pads=[1] * 4)
        y = self.net.op("Conv", self.net.op("Relu", y), w, b, pads=[1] * 4)
        self.put(self.net.op("Conv", y, self.net.weight(c, c, 1, 1), b), c, size)

    def finish(self) -> onnx.ModelProto:
        x, c, size = self.values[-1]
        head = self.pick("pooled", "flat", "map", "recurrent")
        if head == "pooled":
            y = self.net.head(x, c)
        elif head == "flat":
            y = self.net.gemm(self.net.op("Flatten", x), c * size * size, 5, trans_b=self.pick(True, False))
        elif head == "map":
            y = self.net.conv(x, c, 3)
        else:
            y = self.net.op("Transpose", self.net.op("Reshape", x, self.net.ints(-1, c * size, size)), perm=[2, 0, 1])
            w, r = self.net.weight(1, 18, c * size), self.net.weight(1, 18, 6)
            y = self.net.op("GRU", y, w, r, hidden_size=6)
            y = self.net.op("MatMul", self.net.op("Squeeze", y, self.net.ints(1)), self.net.weight(6, 4))
        return self.net.model(y)


@st.composite
def networks(draw: Any, steps: int = 9) -> onnx.ModelProto:
    """A network of up to `steps` patterns; its batch is free, except behind a Resize to given sizes (2)."""
    grower = _Grower(draw)
    grower.add_conv(*grower.values[0])
    for _ in range(draw(st.integers(2, steps))):
        grower.grow()
    return grower.finish()
