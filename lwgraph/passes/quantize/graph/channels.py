"""Finds channels that may be scaled freely: all between two layers is positively homogeneous."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from lwgraph import ir
from lwgraph.arrays import Array, Ints, slabs
from lwgraph.passes.quantize.placing.roles import clip_range

# f(s x) = s f(x) for s > 0, channel by channel (axis 1)
_HOMOGENEOUS = {
    "Relu",
    "LeakyRelu",
    "PRelu",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Identity",
    "Dropout",
    "Resize",
    "Upsample",
    "Abs",
    "Neg",
}


@dataclass(frozen=True)
class ScaledLayer:
    """A layer between channels: its weight takes the scales of both."""

    node: ir.Node
    inputs: Ints
    outputs: Ints

    @cached_property
    def energy(self) -> Array:
        """(groups, inputs) the sum of the squares of the weights that read each input."""
        parts = (np.square(part.astype(np.float64)).sum(axis=(1, 3)) for part in self._parts())
        total: Array = functools.reduce(np.add, parts)
        return total

    @cached_property
    def largest(self) -> Array:
        """(groups, outputs, inputs) the largest magnitude among the taps."""
        return np.concatenate([np.abs(part).max(axis=3) for part in self._parts()], axis=1)

    @property
    def taps(self) -> int:
        """How many weights connect an input with an output."""
        return int(self._weight().shape[3])

    def _weight(self) -> Array:
        weight = ir.constant(self.node.inputs[1])
        assert weight is not None
        return oi_weight(self.node, weight)

    def _parts(self) -> Iterator[Array]:
        weight = self._weight()
        return (weight[:, part] for part in slabs(weight.shape, 1))


@dataclass
class Channels:
    """A variable for every channel of every tensor; equal variables must be scaled alike, frozen ones not at all.

    Attributes:
        ids: tensor -> (channels,) variables; use `roots` on them.
        layers: what produces and consumes channels.
        constants: (node, input index) of constants that are added to channels -> the channels.
        clips: (output, low, high) of Clip nodes: scaled channels must stay inside.
    """

    ids: dict[ir.Value, Ints] = field(default_factory=dict)
    layers: list[ScaledLayer] = field(default_factory=list)
    constants: dict[tuple[ir.Node, int], Ints] = field(default_factory=dict)
    clips: list[tuple[ir.Value, float, float]] = field(default_factory=list)
    _parent: list[int] = field(default_factory=list)
    _frozen: set[int] = field(default_factory=set)

    @staticmethod
    def of(graph: ir.Graph) -> Channels:
        """Analyse a main graph whose values have shapes where those are known. O(nodes + channels)."""
        made = Channels()
        for value in graph.inputs:
            if value.shape is not None and len(value.shape) > 1 and isinstance(value.shape[1], int):
                made._freeze(made._new(value, value.shape[1]))
        for node in graph:
            made._visit(node)
        for value, ids in list(made.ids.items()):
            if value.is_graph_output() or any(user.graph is not graph for user in value.consumers()):
                made._freeze(ids)
        return made

    def roots(self, ids: Ints) -> Ints:
        """The representative variables."""
        return np.array([self._root(int(i)) for i in ids], np.int64)

    def frozen(self, ids: Ints) -> npt.NDArray[np.bool_]:
        """Which of them may not be scaled."""
        held = {self._root(i) for i in self._frozen}
        return np.array([self._root(int(i)) in held for i in ids], bool)

    @property
    def size(self) -> int:
        """The number of variables."""
        return len(self._parent)

    def _root(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def _new(self, value: ir.Value, count: int) -> Ints:
        ids = np.arange(self.size, self.size + count, dtype=np.int64)
        self._parent += ids.tolist()
        self.ids[value] = ids
        return ids

    def _held(self, count: int) -> Ints:
        """Frozen variables for channels that nothing is known of."""
        ids = np.arange(self.size, self.size + count, dtype=np.int64)
        self._parent += ids.tolist()
        self._freeze(ids)
        return ids

    def _freeze(self, ids: Ints) -> None:
        self._frozen.update(int(i) for i in ids)

    def _tie(self, a: Ints, b: Ints) -> None:
        for i, j in zip(a.tolist(), b.tolist(), strict=True):
            self._parent[self._root(i)] = self._root(j)

    def _visit(self, node: ir.Node) -> None:
        handler: Callable[[ir.Node], bool] | None = None
        if node.domain in ("", "ai.onnx"):
            if node.op_type in ir.LINEAR:
                handler = self._layer
            elif node.op_type in _HOMOGENEOUS:
                handler = self._same
            else:
                handler = getattr(self, f"_{node.op_type.lower()}", None)
        if handler is None or not handler(node):
            for value in node.inputs:
                if value is not None and value in self.ids:
                    self._freeze(self.ids[value])

    def _layer(self, node: ir.Node) -> bool:
        x, out = node.inputs[0], node.outputs[0]
        weight = ir.constant_shape(node.inputs[1])
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if weight is None:
            return False
        outputs = layer_outputs(node, weight)
        fits = x is not None and x in self.ids and len(self.ids[x]) == layer_inputs(node, weight)
        if node.op_type == "MatMul":
            fits = fits and x is not None and x.shape is not None and len(x.shape) == 2 and len(weight) == 2
        if node.op_type == "Gemm":
            fits = (
                fits
                and not ir.attribute(node, "transA", 0)
                and (bias is None or ir.constant_shape(bias) in ((outputs,), (1, outputs)))
            )
        if node.op_type == "MatMul" and (out.shape is None or len(out.shape) != 2):
            return False
        inputs = self.ids[x] if fits and x is not None else self._held(layer_inputs(node, weight))
        if not (bias is None or ir.constant_tensor(bias) is not None):
            self._freeze(self._new(out, outputs))
            return False
        self.layers.append(ScaledLayer(node, inputs, self._new(out, outputs)))
        return fits

    def _same(self, node: ir.Node) -> bool:
        x = node.inputs[0]
        if x is None or x not in self.ids or len(node.outputs) != 1:
            return False
        if node.op_type == "Resize" and len(node.inputs) > 1 and _nonempty(node.inputs[1]):
            return False  # a region of interest with a fill value
        self.ids[node.outputs[0]] = self.ids[x]
        return True

    def _clip(self, node: ir.Node) -> bool:
        """Homogeneous only as long as no channel reaches the clip that did not before: see `clips`."""
        low, high = clip_range(node)
        if low is None or high is None or not low <= 0 < high or not self._same(node):
            return False
        self.clips.append((node.outputs[0], low, high))
        return True

    def _pad(self, node: ir.Node) -> bool:
        pads = ir.attribute(node, "pads", ()) or ir.constant(node.inputs[1] if len(node.inputs) > 1 else None)
        fill = ir.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
        if pads is None or (fill is not None and fill.size and float(fill.reshape(-1)[0])):
            return False
        half = len(pads) // 2
        return half > 1 and not any(int(pads[i]) for i in (1, 1 + half)) and self._same(node)

    def _reducemean(self, node: ir.Node) -> bool:
        axes = ir.attribute(node, "axes", ()) or (ir.constant(node.inputs[1]) if len(node.inputs) > 1 else None)
        x = node.inputs[0]
        if axes is None or x is None or x.shape is None:
            return False
        return all(int(a) % len(x.shape) > 1 for a in axes) and self._same(node)

    _reducemax = _reducemean

    def _flatten(self, node: ir.Node) -> bool:
        x = node.inputs[0]
        if x is None or x not in self.ids or ir.attribute(node, "axis", 1) != 1 or x.shape is None:
            return False
        rest = [d for d in x.shape[2:] if isinstance(d, int)]
        if len(rest) != len(x.shape) - 2:
            return False
        self.ids[node.outputs[0]] = np.repeat(self.ids[x], int(np.prod(rest, dtype=np.int64)))
        return True

    def _reshape(self, node: ir.Node) -> bool:
        """(n, c, h, w) to (n, c*h*w) only."""
        x, out = node.inputs[0], node.outputs[0]
        if out.shape is None or len(out.shape) != 2 or x is None or x.shape is None or x not in self.ids:
            return False
        return self._flatten(node) and len(self.ids[out]) == out.shape[1]

    def _squeeze(self, node: ir.Node) -> bool:
        axes = ir.attribute(node, "axes", ()) or (ir.constant(node.inputs[1]) if len(node.inputs) > 1 else None)
        x = node.inputs[0]
        if axes is None or x is None or x.shape is None:
            return False
        return all(int(a) % len(x.shape) > 1 for a in axes) and self._same(node)

    def _add(self, node: ir.Node) -> bool:
        a, b = node.inputs
        assert a is not None and b is not None
        for place, constant, other in ((1, b, a), (0, a, b)):
            if ir.constant_tensor(constant) is not None:
                if other not in self.ids or other.shape is None or node.outputs[0].shape is None:
                    return False
                if len(node.outputs[0].shape) != len(other.shape):
                    return False
                self.constants[node, place] = self.ids[node.outputs[0]] = self.ids[other]
                return True
        if a not in self.ids or b not in self.ids or len(self.ids[a]) != len(self.ids[b]):
            return False
        if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
            return False
        self._tie(self.ids[a], self.ids[b])
        self.ids[node.outputs[0]] = self.ids[a]
        return True

    _sub = _add

    def _mul(self, node: ir.Node) -> bool:
        """Tie y's channels to x's: y = c x with a constant c, or with a gate that nothing scales."""
        a, b = node.inputs
        assert a is not None and b is not None
        if ir.constant_tensor(a) is not None:
            a, b = b, a
        if a not in self.ids or a.shape is None or node.outputs[0].shape is None:
            return False
        if len(a.shape) != len(node.outputs[0].shape) or (b in self.ids and b is a):
            return False
        if b in self.ids:
            self._freeze(self.ids[b])
        self.ids[node.outputs[0]] = self.ids[a]
        return True

    def _concat(self, node: ir.Node) -> bool:
        if any(v is None or v not in self.ids for v in node.inputs):
            return False
        parts = [v for v in node.inputs if v is not None]
        rank = len(parts[0].shape) if parts[0].shape is not None else None
        axis = ir.attribute(node, "axis", 1)
        if rank is None or axis % rank != 1:
            return False
        self.ids[node.outputs[0]] = np.concatenate([self.ids[v] for v in parts])
        return True

    def _split(self, node: ir.Node) -> bool:
        x = node.inputs[0]
        if x is None or x not in self.ids or x.shape is None or ir.attribute(node, "axis", 0) % len(x.shape) != 1:
            return False
        widths = [v.shape[1] if v.shape is not None and len(v.shape) > 1 else None for v in node.outputs]
        if not all(isinstance(w, int) for w in widths):
            return False
        ends = np.cumsum([int(w) for w in widths if isinstance(w, int)])
        if ends[-1] != len(self.ids[x]):
            return False
        for value, part in zip(node.outputs, np.split(self.ids[x], ends[:-1]), strict=True):
            self.ids[value] = part
        return True

    def _slice(self, node: ir.Node) -> bool:
        x = node.inputs[0]
        fixed = [ir.constant(v) if v is not None else None for v in node.inputs[1:]]
        if x is None or x not in self.ids or x.shape is None or len(fixed) < 3 or any(f is None for f in fixed[:3]):
            return False
        ids = self.ids[x]
        starts, ends, axes = (np.asarray(f, np.int64) for f in fixed[:3])
        steps = np.asarray(fixed[3], np.int64) if len(fixed) > 3 and fixed[3] is not None else np.ones_like(starts)
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            if axis % len(x.shape) == 0:
                continue
            if axis % len(x.shape) == 1:
                ids = ids[slice(int(start), int(end), int(step))] if step > 0 else ids[:0]
        if not len(ids):
            return False
        self.ids[node.outputs[0]] = ids
        return True


def layer_outputs(node: ir.Node, weight: tuple[int, ...]) -> int:
    """The number of output channels of a layer from its weight's shape."""
    if node.op_type == "Conv":
        return weight[0]
    if node.op_type == "ConvTranspose":
        return weight[1] * int(ir.attribute(node, "group", 1))
    return weight[0] if node.op_type == "Gemm" and ir.attribute(node, "transB", 0) else weight[-1]


def layer_inputs(node: ir.Node, weight: tuple[int, ...]) -> int:
    """The number of input channels of a layer from its weight's shape."""
    if node.op_type == "Conv":
        return weight[1] * int(ir.attribute(node, "group", 1))
    if node.op_type == "ConvTranspose":
        return weight[0]
    return weight[1] if node.op_type == "Gemm" and ir.attribute(node, "transB", 0) else weight[0]


def oi_weight(node: ir.Node, weight: Array) -> Array:
    """A view (groups, outputs per group, inputs per group, taps) of a layer's weight."""
    group = int(ir.attribute(node, "group", 1))
    if node.op_type in ir.CONVOLUTIONS:
        grouped = weight.reshape(group, weight.shape[0] // group, weight.shape[1], -1)
        return grouped if node.op_type == "Conv" else grouped.swapaxes(1, 2)
    transposed = weight if node.op_type == "Gemm" and ir.attribute(node, "transB", 0) else weight.T
    return np.asarray(transposed.reshape(1, *transposed.shape, 1))


def _nonempty(value: ir.Value | None) -> bool:
    return value is not None and ir.constant_shape(value) != (0,)


__all__ = ["Channels", "ScaledLayer", "layer_inputs", "layer_outputs", "oi_weight"]
