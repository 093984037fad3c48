"""A network while it grows: nodes, constants and inputs in the spelling of one opset, and each value's shape."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lwgraph.arrays import Array

Size = int | str  # of an axis; equal texts are equal sizes
Shape = tuple[Size, ...]


class Value(NamedTuple):
    """A tensor of the graph."""

    name: str
    shape: Shape
    dtype: str = "float32"


@dataclass(frozen=True)
class Input:
    """A graph input, and what it may hold: integers from `low` to `high`, floats of about `scale`."""

    name: str
    shape: Shape
    dtype: str = "float32"
    low: int = 0
    high: int = 7
    scale: float = 1.0

    def sample(self, sizes: dict[str, int], rng: np.random.Generator) -> Array:
        """Values at the given sizes."""
        shape = [size if isinstance(size, int) else sizes[size] for size in self.shape]
        kind = np.dtype(self.dtype)
        if kind.kind == "f":
            return (self.scale * rng.standard_normal(shape)).astype(kind)
        made = rng.integers(self.low, self.high, shape, endpoint=True)
        return made.astype(kind)


@dataclass
class Scope:
    """The nodes and initializers of one graph."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)


class Draft:
    """Decisions come from `random.Random(seed)`, weights from a NumPy generator of the same seed.

    Inputs of nodes are values, names, arrays (which become constants) or None (absent).
    """

    def __init__(self, seed: int, opset: int) -> None:
        self.random = random.Random(seed)
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.scope = self.main = Scope()
        self.inputs: list[Input] = []
        self.types: dict[str, str] = {}
        self.kinds: set[str] = set()  # what the network has, in words
        self.shared: dict[tuple[int, ...], str] = {}
        self.as_nodes = self.pick(0.0, 0.0, 0.3, 1.0)  # share of constants that are Constant nodes
        self.share = self.pick(0.0, 0.0, 0.3, 0.6)  # share of weights that an equal shape takes over
        self.shaped: list[Value] = []  # outputs of which the shape is known
        self.number = 0

    # decisions

    def pick(self, *options: Any) -> Any:
        return self.random.choice(options)

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def said(self, kind: str) -> None:
        """Remember that the network has this."""
        self.kinds.add(kind)

    # names, constants, nodes

    def name(self, stem: str = "v") -> str:
        self.number += 1
        return f"{stem}{self.number}"

    def constant(self, array: Any) -> str:
        """A constant: an initializer of this graph or of the main one, or a Constant node."""
        array = np.asarray(array)
        name = self.name("c")
        self.types[name] = array.dtype.name
        tensor = numpy_helper.from_array(array, name)
        if self.chance(self.as_nodes):
            self.scope.nodes.append(helper.make_node("Constant", [], [name], name=self.name("Constant_"), value=tensor))
        elif self.scope is not self.main and self.chance(0.5):
            self.scope.constants.append(tensor)
        else:
            self.main.constants.append(tensor)
        return name

    def weight(self, *shape: int, fan: int | None = None, kind: str = "") -> str:
        """A weight of variance 1/fan; sometimes one that another layer has, sometimes an odd one."""
        if shape in self.shared and self.scope is self.main and self.chance(self.share):
            self.said("shared weights")
            return self.shared[shape]
        fan = int(np.prod(shape[1:])) if fan is None else fan
        array = (self.rng.standard_normal(shape) / np.sqrt(max(fan, 1))).astype(np.float32)
        kind = kind or self.pick(*["plain"] * 24, "zero", "dead", "dead", "tiny", "equal")
        if kind != "plain":
            self.said(f"weights: {kind}")
        if kind == "zero":
            array[:] = 0
        elif kind == "dead":
            array[self.rng.random(shape[0]) < 0.5] = 0
        elif kind == "tiny":
            array *= np.float32(1e-12)
        elif kind == "equal":
            array[:] = array.reshape(-1)[:1]
        name = self.constant(array)
        if self.scope is self.main:
            self.shared.setdefault(shape, name)
        return name

    def vector(self, width: int, low: float = -0.5, high: float = 0.5) -> str:
        """A bias or scale; zeros or one number sometimes, shared sometimes."""
        key = (width,) if (low, high) == (-0.5, 0.5) else (width, 0, int(10 * low))
        if key in self.shared and self.scope is self.main and self.chance(self.share):
            self.said("shared biases")
            return self.shared[key]
        array = self.rng.uniform(low, high, width).astype(np.float32)
        if low < 0 and self.chance(0.08):
            array[:] = self.pick(0.0, -0.0, 0.25)
        name = self.constant(array)
        if self.scope is self.main:
            self.shared.setdefault(key, name)
        return name

    def _named(self, value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, Value):
            return value.name
        return value if isinstance(value, str) else self.constant(value)

    def op(self, kind: str, *inputs: Any, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """Add a node; the names of its outputs, or the name."""
        names = [self._named(value) for value in inputs]
        outs = [self.name(kind.lower()[:6] + "_") for _ in range(outputs)]
        stem = self.pick(f"/model/{kind}_", f"{kind}_", f"layers[{self.number}]/", "")
        title = self.name(stem) if stem else ""
        self.scope.nodes.append(helper.make_node(kind, names, outs, title, domain=domain, **attributes))
        return outs[0] if outputs == 1 else tuple(outs)

    def node(self, kind: str, *inputs: Any, shape: Shape, dtype: str = "", **attributes: Any) -> Value:
        """Add a node with one output of the given shape; of the type of its first input unless stated."""
        if not dtype:
            first = next((each for each in inputs if isinstance(each, Value)), None)
            dtype = first.dtype if first is not None else "float32"
        name = self.op(kind, *inputs, **attributes)
        self.types[name] = dtype
        return Value(name, shape, dtype)

    def like(self, x: Value, kind: str, *inputs: Any, **attributes: Any) -> Value:
        """Add a node that gives the shape and type of x; its inputs are x alone unless stated."""
        return self.node(kind, *(inputs or (x,)), shape=x.shape, dtype=x.dtype, **attributes)

    def input(self, shape: Shape, dtype: str = "float32", **range_: Any) -> Value:
        name = self.name(self.pick("x", "input.", "images"))
        self.inputs.append(Input(name, shape, dtype, **range_))
        self.types[name] = dtype
        return Value(name, shape, dtype)

    # spellings that depend on the opset

    def ints(self, *values: int) -> Array:
        return np.array(values, np.int64)

    def squeeze(self, x: Value, *axes: int, kind: str = "Squeeze") -> Value:
        """Also Unsqueeze; axes are not negative."""
        if kind == "Squeeze":
            shape = tuple(size for axis, size in enumerate(x.shape) if axis not in axes)
        else:
            sizes = list(x.shape)
            for axis in sorted(axes):
                sizes.insert(axis, 1)
            shape = tuple(sizes)
        if self.opset < 13:
            return self.node(kind, x, shape=shape, axes=list(axes))
        return self.node(kind, x, self.ints(*axes), shape=shape)

    def unsqueeze(self, x: Value, *axes: int) -> Value:
        return self.squeeze(x, *axes, kind="Unsqueeze")

    def reduce(self, kind: str, x: Value, *axes: int, keep: bool = True) -> Value:
        """A reduction over axes (all where none is given); they may be negative."""
        over = {axis % len(x.shape) for axis in axes} if axes else set(range(len(x.shape)))
        shape = tuple(1 if i in over else s for i, s in enumerate(x.shape) if keep or i not in over)
        as_input = self.opset >= (13 if kind == "ReduceSum" else 18)
        options: dict[str, Any] = {} if keep and self.chance(0.5) else {"keepdims": int(keep)}
        if axes and not as_input:
            if self.opset < 11:
                axes = tuple(sorted(over))
            return self.node(kind, x, shape=shape, axes=list(axes), **options)
        return self.node(kind, x, *([self.ints(*axes)] if axes else []), shape=shape, **options)

    def clip(self, x: Value, low: float | None, high: float | None) -> Value:
        if self.opset < 11:
            options = {k: v for k, v in (("min", low), ("max", high)) if v is not None}
            return self.like(x, "Clip", **options)
        bounds = [None if b is None else np.float32(b) for b in (low, high)]
        while bounds and bounds[-1] is None and self.chance(0.5):
            bounds.pop()
        return self.like(x, "Clip", x, *bounds)

    def slice(self, x: Value, axis: int, start: int, stop: int, size: Size, step: int = 1) -> Value:
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        if self.opset < 10:
            return self.node("Slice", x, shape=shape, axes=[axis], starts=[start], ends=[stop])
        more = [] if step == 1 and self.chance(0.5) else [self.ints(step)]
        return self.node("Slice", x, self.ints(start), self.ints(stop), self.ints(axis), *more, shape=shape)

    def split(self, x: Value, axis: int, *sizes: int) -> list[Value]:
        given: list[Any] = []
        options: dict[str, Any] = {"axis": axis}
        if len(set(sizes)) > 1 or self.chance(0.5):
            if self.opset < 13:
                options["split"] = list(sizes)
            else:
                given = [self.ints(*sizes)]
        elif self.opset >= 18:
            options["num_outputs"] = len(sizes)
        names = self.op("Split", x, *given, outputs=len(sizes), **options)
        names = (names,) if isinstance(names, str) else names
        self.types.update(dict.fromkeys(names, x.dtype))
        return [
            Value(n, (*x.shape[:axis], s, *x.shape[axis + 1 :]), x.dtype) for n, s in zip(names, sizes, strict=True)
        ]

    def pad(
        self, x: Value, before: Sequence[int], after: Sequence[int], shape: Shape, value: float | None = None
    ) -> Value:
        pads = [*before, *after]
        if self.opset < 11:
            return self.node("Pad", x, shape=shape, pads=pads, **({} if value is None else {"value": value}))
        return self.node("Pad", x, self.ints(*pads), *([] if value is None else [np.float32(value)]), shape=shape)

    def softmax(self, x: Value, kind: str = "Softmax") -> Value:
        """Over the last axis."""
        return self.like(x, kind, axis=len(x.shape) - 1 if self.opset < 11 else self.pick(-1, len(x.shape) - 1))

    def transpose(self, x: Value, *order: int) -> Value:
        return self.node("Transpose", x, shape=tuple(x.shape[axis] for axis in order), perm=list(order))

    def cast(self, x: Value, dtype: str) -> Value:
        to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.node("Cast", x, shape=x.shape, dtype=dtype, to=int(to))

    # sizes as exporters compute them

    def size_of(self, x: Value, axis: int) -> Value:
        """One size as a vector of one element: by Slice, or by Gather and Unsqueeze."""
        shape = self.node("Shape", x, shape=(len(x.shape),), dtype="int64")
        if self.chance(0.4):
            return self.slice(shape, 0, axis, axis + 1, 1)
        index = np.int64(axis) if self.chance(0.7) else np.int64([axis])
        gathered = self.node("Gather", shape, index, shape=index.shape, dtype="int64", axis=0)
        return gathered if index.ndim else self.unsqueeze(gathered, 0)

    def reshape(self, x: Value, *sizes: Any, shape: Shape) -> Value:
        """To sizes, each an integer or a value of one element: a constant, or a Concat of all."""
        if all(isinstance(size, int) for size in sizes):
            target: Any = self.ints(*sizes)
        else:
            parts = [self.ints(size) if isinstance(size, int) else size for size in sizes]
            target = self.node("Concat", *parts, shape=(len(parts),), dtype="int64", axis=0)
        return self.node("Reshape", x, target, shape=shape)

    def dynamic(self, x: Value, axis: int) -> Any:
        """What stands for the size of an axis in a Reshape at that place: the integer, 0, or the computed size."""
        size = x.shape[axis]
        if isinstance(size, int):
            return size
        return self.size_of(x, axis) if self.chance(0.7) else 0

    def dynamic_size(self, x: Value, axis: int) -> Any:
        """The size of an axis for a Reshape in which it stands at another place: never 0."""
        size = x.shape[axis]
        return size if isinstance(size, int) else self.size_of(x, axis)

    # bodies

    @contextmanager
    def body(self) -> Iterator[Scope]:
        """Within: nodes go to a graph of their own."""
        outer, self.scope = self.scope, Scope()
        try:
            yield self.scope
        finally:
            self.scope = outer

    def graph(
        self, scope: Scope, inputs: Sequence[Value], outputs: Sequence[Value], ranks: bool = False
    ) -> onnx.GraphProto:
        """A body; its inputs and outputs have types, and ranks where that is asked for, but no sizes."""

        def info(value: Value) -> onnx.ValueInfoProto:
            shape = [None] * len(value.shape) if ranks else None
            return helper.make_tensor_value_info(value.name, element_type(value.dtype), shape)

        name = self.name("body")
        return helper.make_graph(scope.nodes, name, list(map(info, inputs)), list(map(info, outputs)), scope.constants)

    def branches(self, condition: Value, then: Callable[[], Value], other: Callable[[], Value], shape: Shape) -> Value:
        graphs = []
        for make in (then, other):
            with self.body() as scope:
                made = make()
                if not any(made.name in node.output for node in scope.nodes):
                    made = self.like(made, "Identity")
            graphs.append(self.graph(scope, [], [made]))
        return self.node("If", condition, shape=shape, dtype=made.dtype, then_branch=graphs[0], else_branch=graphs[1])


def element_type(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
