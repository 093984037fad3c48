"""One layer of a transformer in the spellings of exporters, with random weights: 4 heads of 6, 20 neurons."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.passes.prune.networks import Net

D, HEADS, NEURONS = 24, 4, 20
HEAD = D // HEADS


class Encoder(Net):
    """Methods are parts of the layer; `said` are the ways in which it departs from the plainest spelling."""

    def __init__(self, said: dict[str, Any]) -> None:
        super().__init__(opset=said.get("opset", 17))
        self.said = said

    def number(self, value: float) -> str:
        return self.constant(np.float32(value))

    def linear(self, x: str, rows: int, columns: int) -> str:
        if self.said.get("gemm"):  # PyTorch's view to two axes around addmm
            flat = self.op("Reshape", x, self.ints(-1, rows))
            y = self.op("Gemm", flat, self.weight(rows, columns), self.small(columns))
            shape = self.op("Slice", self.op("Shape", x), self.ints(0), self.ints(2))
            return self.op("Reshape", y, self.op("Concat", shape, self.ints(columns), axis=0))
        y, bias = self.op("MatMul", x, self.weight(rows, columns)), self.small(columns)
        return self.op("Add", *((bias, y) if self.said.get("bias_first") else (y, bias)))

    def norm(self, x: str) -> str:
        scale, bias = self.small(D, 1), self.small(D)
        if self.said.get("norm") != "many":
            return self.op("LayerNormalization", x, scale, bias)
        centred = self.op("Sub", x, self.op("ReduceMean", x, axes=[-1]))
        variance = self.op("ReduceMean", self.op("Pow", centred, self.number(2)), axes=[-1])
        root = self.op("Sqrt", self.op("Add", variance, self.number(1e-5)))
        return self.op("Add", self.op("Mul", self.op("Div", centred, root), scale), bias)

    def sizes(self, x: str, *last: int) -> str:
        """A target (batch, sequence, *last): copied, or computed from the shape of x."""
        if not self.said.get("computed"):
            return self.ints(0, 0, *last)
        shape = self.op("Shape", x)
        first = [
            self.op("Unsqueeze", self.op("Gather", shape, self.constant(np.int64(i)), axis=0), self.ints(0))
            for i in (0, 1)
        ]
        return self.op("Concat", *first, self.ints(*last), axis=0)

    def to_heads(self, x: str, heads: int = HEADS) -> str:
        return self.op("Transpose", self.op("Reshape", x, self.sizes(x, heads, HEAD)), perm=[0, 2, 1, 3])

    def operands(self, x: str) -> list[str]:
        """Queries, keys and values, (batch, heads, sequence, head)."""
        how = self.said.get("qkv", "separate")
        if how == "separate":
            kv = self.said.get("kv_heads", HEADS)
            found = [self.to_heads(self.linear(x, D, heads * HEAD), heads) for heads in (HEADS, kv, kv)]
            return [found[0], *(self.repeated(each, kv) if kv < HEADS else each for each in found[1:])]
        fused = self.linear(x, D, 3 * D)
        if how == "split":
            parts = self.op("Split", fused, self.ints(D, D, D), axis=-1, outputs=3)
            return [self.to_heads(part) for part in parts]
        if how == "slice":
            return [
                self.to_heads(
                    self.op("Slice", fused, self.ints(i * D), self.ints((i + 1) * D), self.ints(2), self.ints(1))
                )
                for i in range(3)
            ]
        five = self.op("Reshape", fused, self.sizes(fused, 3, HEADS, HEAD))
        five = self.op("Transpose", five, perm=[2, 0, 3, 1, 4])
        if how == "slices of five":  # unbind, as torch.export takes it apart
            ends = [(self.ints(i), self.ints(i + 1)) for i in range(3)]
            return [self.op("Squeeze", self.op("Slice", five, *each, self.ints(0)), self.ints(0)) for each in ends]
        if how == "gather":
            return [self.op("Gather", five, self.constant(np.int64(i)), axis=0) for i in range(3)]
        parts = self.op("Split", five, self.ints(1, 1, 1), axis=0, outputs=3)
        return [self.op("Squeeze", part, self.ints(0)) for part in parts]

    def repeated(self, x: str, heads: int) -> str:
        """Each head for several queries: (b, h, s, d) -> (b, h, n, s, d) -> (b, h n, s, d)."""
        wide = self.op("Unsqueeze", x, self.ints(2))
        size = self.op("Shape", x)
        b, s = (self.op("Slice", size, self.ints(i), self.ints(i + 1)) for i in (0, 2))
        wide = self.op(
            "Expand", wide, self.op("Concat", b, self.ints(heads, HEADS // heads), s, self.ints(HEAD), axis=0)
        )
        return self.op("Reshape", wide, self.op("Concat", b, self.ints(HEADS), s, self.ints(HEAD), axis=0))

    def turned(self, x: str) -> str:
        """Rotary positions: x cos + (the halves swapped) sin."""
        angles = np.arange(5, dtype=np.float32)[:, None] * np.float32([1, 0.1, 0.01, 1, 0.1, 0.01])
        half = HEAD // 2
        low = self.op("Slice", x, self.ints(0), self.ints(half), self.ints(3), self.ints(1))
        high = self.op("Slice", x, self.ints(half), self.ints(1 << 62), self.ints(3), self.ints(1))
        swapped = self.op("Concat", self.op("Neg", high), low, axis=-1)
        cos, sin = self.constant(np.cos(angles)), self.constant(np.sin(angles))
        return self.op("Add", self.op("Mul", x, cos), self.op("Mul", swapped, sin))

    def scores(self, q: str, k: str) -> str:
        if self.said.get("keys") == "batched":  # as scaled_dot_product_attention is exported
            s = self.op("Shape", k)
            b, h, t, d = (self.op("Slice", s, self.ints(i), self.ints(i + 1)) for i in range(4))
            flat = self.op("Reshape", k, self.op("Concat", self.ints(-1), t, d, axis=0))
            k = self.op("Reshape", self.op("Transpose", flat, perm=[0, 2, 1]), self.op("Concat", b, h, d, t, axis=0))
        else:
            k = self.op("Transpose", k, perm=[0, 1, 3, 2])
        if self.said.get("scaled") == "both":  # as torch.export decomposes scaled_dot_product_attention
            scale = self.number(HEAD**-0.25)
            scores = self.op("MatMul", self.op("Mul", q, scale), self.op("Mul", k, scale))
        else:
            scores = self.op("Div", self.op("MatMul", q, k), self.number(HEAD**0.5))
        mask = self.said.get("mask")
        if mask:
            shape = self.op("Unsqueeze", self.input("N", 5, name="mask"), self.ints(1, 2))
            if mask == "infinite":  # a mask of truth values, as sdpa takes it
                allowed = self.op("Less", shape, self.number(0.5))
                low = self.op("Where", allowed, self.number(0), self.number(-np.inf))
                scores = self.op("Add", scores, low)
            elif mask == "added":
                scores = self.op("Add", scores, self.op("Mul", shape, self.number(-1e4)))
            else:
                wide = self.op("Expand", self.op("Greater", shape, self.number(0)), self.op("Shape", scores))
                scores = self.op("Where", wide, self.number(-1e4), scores)
        if self.said.get("positions") == "relative":
            table = self.op("Gather", self.weight(9, HEADS), self.constant(np.arange(25).reshape(5, 5) % 9), axis=0)
            scores = self.op(
                "Add", scores, self.op("Unsqueeze", self.op("Transpose", table, perm=[2, 0, 1]), self.ints(0))
            )
        shares = self.op("Softmax", scores, axis=-1)
        if self.said.get("guarded"):  # rows of -inf alone give no numbers
            shares = self.op("Where", self.op("IsNaN", shares), self.number(0), shares)
        return shares

    def attention(self, x: str) -> str:
        if self.said.get("operator"):
            return self.whole(x)
        if self.said.get("qkv") == "beside the batch":
            return self.multihead(x)
        q, k, v = self.operands(x)
        if self.said.get("positions") == "rotary":
            q, k = self.turned(q), self.turned(k)
        y = self.op("Transpose", self.op("MatMul", self.scores(q, k), v), perm=[0, 2, 1, 3])
        return self.linear(self.op("Reshape", y, self.sizes(y, D)), D, D)

    def multihead(self, x: str) -> str:
        """torch.nn.MultiheadAttention: the sequence comes first, and heads lie beside the batch."""
        y = self.linear(self.op("Transpose", x, perm=[1, 0, 2]), D, 3 * D)
        y = self.op("Unsqueeze", self.op("Reshape", y, self.ints(5, -1, 3, D)), self.ints(0))
        y = self.op("Squeeze", self.op("Transpose", y, perm=[3, 1, 2, 0, 4]), self.ints(3))
        operands = []
        for i in range(3):
            part = self.op("Gather", y, self.constant(np.int64(i)), axis=0)
            part = self.op("Transpose", self.op("Reshape", part, self.ints(5, -1, HEAD)), perm=[1, 0, 2])
            operands.append(self.op("Reshape", part, self.ints(-1, HEADS, 5, HEAD)))
        y = self.op("MatMul", self.scores(*operands[:2]), operands[2])
        y = self.op("Reshape", self.op("Transpose", y, perm=[2, 0, 1, 3]), self.ints(-1, D))
        y = self.op("Gemm", y, self.weight(D, D), self.small(D), transB=1)
        return self.op("Transpose", self.op("Reshape", y, self.ints(5, -1, D)), perm=[1, 0, 2])

    def whole(self, x: str) -> str:
        """By ONNX's operator, with four axes or three."""
        kv = self.said.get("kv_heads", HEADS)
        three = [self.linear(x, D, heads * HEAD) for heads in (HEADS, kv, kv)]
        if self.said["operator"] == 3:
            y = self.op("Attention", *three, q_num_heads=HEADS, kv_num_heads=kv)
        else:
            operands = [self.to_heads(each, heads) for each, heads in zip(three, (HEADS, kv, kv), strict=True)]
            y = self.op("Transpose", self.op("Attention", *operands), perm=[0, 2, 1, 3])
            y = self.op("Reshape", y, self.sizes(y, D))
        return self.linear(y, D, D)

    def feed_forward(self, x: str) -> str:
        y, how = self.linear(x, D, NEURONS), self.said.get("gelu", "erf")
        if how == "node":
            y = self.op("Gelu", y)
        elif how == "erf":
            part = self.op("Add", self.op("Erf", self.op("Div", y, self.number(2**0.5))), self.number(1))
            y = self.op("Mul", self.op("Mul", y, part), self.number(0.5))
        elif how == "tanh":
            cube = self.op("Mul", self.op("Pow", y, self.number(3)), self.number(0.044715))
            inner = self.op("Tanh", self.op("Mul", self.op("Add", y, cube), self.number((2 / np.pi) ** 0.5)))
            y = self.op("Mul", self.op("Mul", y, self.number(0.5)), self.op("Add", inner, self.number(1)))
        elif how == "gated":
            gate = self.linear(x, D, NEURONS)
            y = self.op("Mul", y, self.op("Mul", gate, self.op("Sigmoid", gate)))
        elif how == "halves":
            y, gate = self.op("Split", self.linear(x, D, 2 * NEURONS), self.ints(NEURONS, NEURONS), axis=-1, outputs=2)
            y = self.op("Mul", y, self.op("Sigmoid", gate))
        return self.linear(y, NEURONS, D)


SPELLINGS: dict[str, dict[str, Any]] = {
    "transformers": {"mask": "added", "bias_first": True},
    "transformers, keys in a batch": {"mask": "added", "keys": "batched", "computed": True},
    "distilbert": {"mask": "where", "computed": True},
    "computed targets": {"computed": True, "norm": "many"},
    "gpt2": {"qkv": "split", "gemm": True, "gelu": "tanh", "computed": True},
    "slices": {"qkv": "slice", "gelu": "tanh", "norm": "many"},
    "timm": {"qkv": "unbind", "first": True},
    "timm, Gather": {"qkv": "gather", "first": True, "computed": True},
    "torch.export": {"qkv": "slices of five", "keys": "batched", "scaled": "both", "guarded": True, "mask": "infinite"},
    "torch.export, rotary": {"positions": "rotary", "keys": "batched", "scaled": "both", "opset": 20, "gelu": "node"},
    "MultiheadAttention": {"qkv": "beside the batch", "scaled": "both"},
    "MultiheadAttention, keys in a batch": {"qkv": "beside the batch", "keys": "batched", "gelu": "tanh"},
    "timm, rotary": {"qkv": "unbind", "positions": "rotary", "scaled": "both", "first": True},
    "one Gelu": {"gelu": "node", "opset": 20, "mask": "added"},
    "relative": {"positions": "relative", "gelu": "gated"},
    "rotary": {"positions": "rotary", "gelu": "halves", "first": True},
    "llama": {"positions": "rotary", "kv_heads": 2, "gelu": "gated", "first": True},
    "operator": {"operator": 4, "opset": 23},
    "operator, three axes": {"operator": 3, "opset": 23, "kv_heads": 2, "gelu": "node"},
}


def encoder(**said: Any) -> onnx.ModelProto:
    """(N, 5, D) -> the same; a `mask` (N, 5) where there is one."""
    net = Encoder(said)
    x = net.input("N", 5, D)
    if said.get("first"):
        x = net.op("Add", x, net.attention(net.norm(x)))
        x = net.op("Add", x, net.feed_forward(net.norm(x)))
    else:
        x = net.norm(net.op("Add", x, net.attention(x)))
        x = net.norm(net.op("Add", x, net.feed_forward(x)))
    made = net.model(net.op("Identity", x))
    del made.graph.output[:]
    made.graph.output.append(helper.make_tensor_value_info(x, TensorProto.FLOAT, ["N", 5, D]))
    made.graph.node.pop()
    return made


__all__ = ["HEADS", "NEURONS", "SPELLINGS", "encoder"]
