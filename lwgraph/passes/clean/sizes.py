"""Follows sizes through a graph: integers that are known, also in terms of the inputs' dynamic dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lwgraph import ir
from lwgraph.arrays import Ints
from lwgraph.passes.clean.polynomial import Poly

Polys: TypeAlias = "npt.NDArray[Any]"  # arrays of Poly objects
_MOST = 64  # elements of a tensor of sizes
_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)
_SAME_SHAPE = frozenset(
    {
        "Abs",
        "Cast",
        "Ceil",
        "Clip",
        "Dropout",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "LayerNormalization",
        "LeakyRelu",
        "Log",
        "LogSoftmax",
        "Mish",
        "Neg",
        "Not",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Sigmoid",
        "Sign",
        "Softmax",
        "Softplus",
        "Sqrt",
        "Tanh",
        "InstanceNormalization",
        "BatchNormalization",
        "GroupNormalization",
    }
)
_BROADCAST = frozenset(
    {
        "Add",
        "And",
        "Div",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Max",
        "Min",
        "Mul",
        "Or",
        "Pow",
        "Sub",
        "Where",
    }
)


class Sizes:
    """The known shapes (`dims`) and small integer tensors (`array`) of one graph, after `follow`.

    A dimension without a name is a symbol of its own, which begins with "?". Any symbol may be zero.
    """

    def __init__(self) -> None:
        self._arrays: dict[ir.Value, Polys] = {}
        self._truths: dict[ir.Value, npt.NDArray[np.bool_]] = {}  # of comparisons between sizes
        self._dims: dict[ir.Value, tuple[Poly, ...]] = {}

    def follow(self, graph: ir.Graph) -> None:
        """One walk in graph order."""
        for node in graph:
            if node.domain != "":
                continue
            dims = self._result_dims(node)
            if dims is not None:
                self._dims[node.outputs[0]] = _with_recorded(dims, node.outputs[0])
            if node.op_type == "Equal" and (truth := _equal(self, node)) is not None:
                self._truths[node.outputs[0]] = truth
            handler = _HANDLERS.get(node.op_type)
            if handler is not None:
                try:
                    found = handler(self, node)
                except (ir.ReferenceAttributeError, IndexError, ValueError, ZeroDivisionError):
                    continue  # an operator that is not understood leaves its outputs unknown
                if found is not None and found.size <= _MOST:
                    self._arrays[node.outputs[0]] = found

    def dims(self, value: ir.Value | None) -> tuple[Poly, ...] | None:
        """The shape, None when the rank is unknown."""
        if value is None:
            return None
        if value in self._dims:
            return self._dims[value]
        if value in self._arrays:
            return tuple(Poly.of(size) for size in self._arrays[value].shape)
        shape: ir.Shape | None = value.shape
        constant = ir.constant_shape(value)
        if constant is not None:
            return tuple(Poly.of(d) for d in constant)
        if shape is None:
            return None
        return tuple(
            Poly.of(d if isinstance(d, int) else (d.value or f"?{value.name}.{axis}")) for axis, d in enumerate(shape)
        )

    def array(self, value: ir.Value | None) -> Polys | None:
        """The elements of a small integer tensor, None when nothing is known of them."""
        if value is None:
            return None
        if value in self._arrays:
            return self._arrays[value]
        tensor = ir.constant_tensor(value)
        if tensor is None or tensor.dtype not in _INTEGERS or tensor.size > _MOST:
            return None
        array = tensor.numpy()
        return _polys([Poly.of(int(v)) for v in array.reshape(-1)], array.shape)

    def numbers(self, value: ir.Value | None) -> Ints | None:
        """The elements, when all are numbers."""
        found = self.array(value)
        if found is None:
            return None
        numbers = [p.number for p in found.reshape(-1)]
        if any(n is None for n in numbers):
            return None
        return np.array(numbers, np.int64).reshape(found.shape)

    def computed(self) -> dict[ir.Value, Polys]:
        """Every followed tensor."""
        return self._arrays

    def truth(self, value: ir.Value | None) -> npt.NDArray[np.bool_] | None:
        """The elements of a comparison between sizes, None where it depends on the inputs."""
        return None if value is None else self._truths.get(value)

    def followed(self) -> dict[ir.Value, tuple[Poly, ...]]:
        """Every shape that was computed."""
        return self._dims

    def _result_dims(self, node: ir.Node) -> tuple[Poly, ...] | None:
        rule = _DIMS.get(node.op_type)
        if node.op_type in _SAME_SHAPE:
            return self.dims(node.inputs[0])
        if node.op_type in _BROADCAST:
            return _broadcast([self.dims(value) for value in node.inputs])
        try:
            return None if rule is None else rule(self, node)
        except (ir.ReferenceAttributeError, IndexError):
            return None  # an operator that is not understood leaves its output unknown


def _with_recorded(dims: tuple[Poly, ...], value: ir.Value) -> tuple[Poly, ...]:
    """Computed sizes, and what is recorded where they depend on sizes without a name."""
    shape = value.shape
    if shape is None or len(shape) != len(dims):
        return dims
    unnamed = [any(symbol.startswith("?") for symbol in size.symbols) for size in dims]
    return tuple(
        Poly.of(old) if open_ and isinstance(old, int) else size
        for size, old, open_ in zip(dims, shape, unnamed, strict=True)
    )


def _broadcast(shapes: Sequence[tuple[Poly, ...] | None]) -> tuple[Poly, ...] | None:
    """The shape that several are broadcast to; None where two sizes may be equal or not."""
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes):
        return None
    rank = max((len(shape) for shape in known), default=0)
    dims: list[Poly] = []
    for axis in range(rank):
        found: set[Poly] = set()
        for shape in known:
            place = axis - rank + len(shape)
            if place >= 0 and shape[place].number != 1:
                found.add(shape[place])
        numbers = [size for size in found if size.number is not None]
        if len(found) > 1 and len(numbers) != 1:
            return None
        dims.append(numbers[0] if numbers else found.pop() if found else Poly.of(1))
    return tuple(dims)


def _transpose_dims(sizes: Sizes, node: ir.Node) -> tuple[Poly, ...] | None:
    source = sizes.dims(node.inputs[0])
    if source is None:
        return None
    perm = node.attributes.get_ints("perm") or tuple(reversed(range(len(source))))
    return tuple(source[p] for p in perm) if len(perm) == len(source) else None


def _flatten_dims(sizes: Sizes, node: ir.Node) -> tuple[Poly, ...] | None:
    source = sizes.dims(node.inputs[0])
    if source is None:
        return None
    axis = ir.attribute(node, "axis", 1)
    axis += len(source) if axis < 0 else 0
    return (math.prod(source[:axis], start=Poly.of(1)), math.prod(source[axis:], start=Poly.of(1)))


def _reshape_dims(sizes: Sizes, node: ir.Node) -> tuple[Poly, ...] | None:
    source = sizes.dims(node.inputs[0])
    target = sizes.array(node.inputs[1]) if len(node.inputs) > 1 else None
    if source is None or target is None:
        return None
    if ir.attribute(node, "allowzero", 0) and any(size.number == 0 for size in target.reshape(-1)):
        return None
    return resolve_reshape(source, list(target.reshape(-1)))


def _matmul_dims(sizes: Sizes, node: ir.Node) -> tuple[Poly, ...] | None:
    a, b = sizes.dims(node.inputs[0]), sizes.dims(node.inputs[1])
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return None
    before = _broadcast([a[:-2], b[:-2]])
    return None if before is None else (*before, a[-2], b[-1])


def _gather_dims(sizes: Sizes, node: ir.Node) -> tuple[Poly, ...] | None:
    data, indices = sizes.dims(node.inputs[0]), sizes.dims(node.inputs[1])
    if data is None or indices is None or not data:
        return None
    axis = ir.attribute(node, "axis", 0) % len(data)
    return (*data[:axis], *indices, *data[axis + 1 :])


def _unsqueeze_dims(sizes: Sizes, node: ir.Node) -> tuple[Poly, ...] | None:
    source, axes = sizes.dims(node.inputs[0]), axes_of(node, sizes.numbers)
    if source is None or axes is None:
        return None
    new = {axis % (len(source) + len(axes)) for axis in axes}
    left = iter(source)
    return tuple(Poly.of(1) if axis in new else next(left) for axis in range(len(source) + len(axes)))


def _expand_dims(sizes: Sizes, node: ir.Node) -> tuple[Poly, ...] | None:
    target = sizes.array(node.inputs[1])
    return None if target is None else _broadcast([sizes.dims(node.inputs[0]), tuple(target.reshape(-1))])


_DIMS: dict[str, Callable[[Sizes, ir.Node], tuple[Poly, ...] | None]] = {
    "Expand": _expand_dims,
    "Flatten": _flatten_dims,
    "Gather": _gather_dims,
    "MatMul": _matmul_dims,
    "Reshape": _reshape_dims,
    "Transpose": _transpose_dims,
    "Unsqueeze": _unsqueeze_dims,
}


def resolve_reshape(source: tuple[Poly, ...], target: list[Poly]) -> tuple[Poly, ...] | None:
    """The shape that Reshape (allowzero=0) makes of `source`; None when a -1 cannot be resolved."""
    dims: list[Poly | None] = []
    for axis, size in enumerate(target):
        if size.number == 0:
            if axis >= len(source):
                return None
            dims.append(source[axis])
        else:
            dims.append(None if size.number == -1 else size)
    if None in dims:
        rest = math.prod((d for d in dims if d is not None), start=Poly.of(1))
        missing = math.prod(source, start=Poly.of(1)).divided(rest)
        if missing is None:
            return None
        dims = [missing if d is None else d for d in dims]
    return tuple(d for d in dims if d is not None)


def _polys(items: list[Poly], shape: tuple[int, ...]) -> Polys:
    made = np.empty(len(items), dtype=object)
    made[:] = items
    return made.reshape(shape)


def _shape(sizes: Sizes, node: ir.Node) -> Polys | None:
    dims = sizes.dims(node.inputs[0])
    if dims is None:
        return None
    rank = len(dims)
    start, end = (_clamp(ir.attribute(node, name, default), rank) for name, default in (("start", 0), ("end", rank)))
    part = list(dims[start:end])
    return _polys(part, (len(part),))


def _clamp(index: int, rank: int) -> int:
    return min(max(index + rank if index < 0 else index, 0), rank)


def _size(sizes: Sizes, node: ir.Node) -> Polys | None:
    dims = sizes.dims(node.inputs[0])
    return None if dims is None else _polys([math.prod(dims, start=Poly.of(1))], ())


def _gather(sizes: Sizes, node: ir.Node) -> Polys | None:
    data, indices = sizes.array(node.inputs[0]), sizes.numbers(node.inputs[1])
    if data is None or indices is None:
        return None
    found = np.take(data, indices, axis=ir.attribute(node, "axis", 0))
    return found if isinstance(found, np.ndarray) else _polys([found], ())


def _slice(sizes: Sizes, node: ir.Node) -> Polys | None:
    data, parts = sizes.array(node.inputs[0]), slice_parts(node, sizes.numbers)
    if data is None or parts is None:
        return None
    cuts: list[Any] = [slice(None)] * data.ndim
    for axis, start, end, step in parts:
        cuts[axis] = slice(start, end, step)  # clamps as ONNX does
    return np.asarray(data[tuple(cuts)], dtype=object)


def slice_parts(
    node: ir.Node, numbers: Callable[[ir.Value | None], Ints | None]
) -> list[tuple[int, int, int, int]] | None:
    """(axis, start, end, step) of a Slice, from attributes or inputs; None when one of them is not known."""
    if "starts" in node.attributes:
        starts, ends = ir.attribute(node, "starts"), ir.attribute(node, "ends")
        axes = ir.attribute(node, "axes") or range(len(starts))
        return [(a, s, e, 1) for a, s, e in zip(axes, starts, ends, strict=True)]
    found = [numbers(v) for v in (*node.inputs[1:], *[None] * 4)[:4]]
    given = [v is not None for v in (*node.inputs[1:], *[None] * 4)[:4]]
    if found[0] is None or found[1] is None or any(g and f is None for g, f in zip(given, found, strict=True)):
        return None
    count = found[0].size
    axes_ = list(range(count)) if found[2] is None else found[2].reshape(-1).tolist()
    steps = [1] * count if found[3] is None else found[3].reshape(-1).tolist()
    return [
        (int(a), int(s), int(e), int(t))
        for a, s, e, t in zip(axes_, found[0].reshape(-1), found[1].reshape(-1), steps, strict=True)
    ]


def _concat(sizes: Sizes, node: ir.Node) -> Polys | None:
    parts = [sizes.array(v) for v in node.inputs]
    if any(p is None for p in parts):
        return None
    return np.concatenate([p for p in parts if p is not None], axis=ir.attribute(node, "axis", 0))


def axes_of(node: ir.Node, numbers: Callable[[ir.Value | None], Ints | None]) -> list[int] | None:
    """The axes of Squeeze or Unsqueeze, from the attribute or the input; None when they are not known."""
    if "axes" in node.attributes:
        return list(ir.attribute(node, "axes"))
    found = numbers(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if found is None else [int(a) for a in found.reshape(-1)]


def _unsqueeze(sizes: Sizes, node: ir.Node) -> Polys | None:
    data, axes = sizes.array(node.inputs[0]), axes_of(node, sizes.numbers)
    return None if data is None or axes is None else np.expand_dims(data, tuple(axes))


def _squeeze(sizes: Sizes, node: ir.Node) -> Polys | None:
    data, axes = sizes.array(node.inputs[0]), axes_of(node, sizes.numbers)
    if data is None or (axes is None and len(node.inputs) > 1):
        return None
    found = np.squeeze(data, None if axes is None else tuple(axes))
    return found if isinstance(found, np.ndarray) else _polys([found], ())


def _reshape(sizes: Sizes, node: ir.Node) -> Polys | None:
    data, shape = sizes.array(node.inputs[0]), sizes.numbers(node.inputs[1])
    if data is None or shape is None or 0 in shape:
        return None
    return data.reshape(tuple(int(s) for s in shape))


def _cast(sizes: Sizes, node: ir.Node) -> Polys | None:
    return sizes.array(node.inputs[0]) if ir.attribute(node, "to") in _INTEGERS else None


def _identity(sizes: Sizes, node: ir.Node) -> Polys | None:
    return sizes.array(node.inputs[0])


def _elementwise(function: Callable[[Poly, Poly], Poly | None]) -> Callable[[Sizes, ir.Node], Polys | None]:
    def handle(sizes: Sizes, node: ir.Node) -> Polys | None:
        a, b = sizes.array(node.inputs[0]), sizes.array(node.inputs[1])
        if a is None or b is None:
            return None
        a, b = np.broadcast_arrays(a, b)
        made = [function(x, y) for x, y in zip(a.reshape(-1), b.reshape(-1), strict=True)]
        return None if any(m is None for m in made) else _polys([m for m in made if m is not None], a.shape)

    return handle


def _divide(a: Poly, b: Poly) -> Poly | None:
    x, y = a.number, b.number
    if x is not None and y is not None:
        return Poly.of(abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)) if y else None  # towards zero
    return a.divided(b)


def _constant_of_shape(sizes: Sizes, node: ir.Node) -> Polys | None:
    shape, fill = sizes.numbers(node.inputs[0]), ir.attribute(node, "value")
    if shape is None or fill is None or fill.dtype.kind != "i" or math.prod(shape.tolist()) > _MOST:
        return None
    return _polys([Poly.of(int(fill.reshape(-1)[0]))] * math.prod(shape.tolist()), tuple(shape.tolist()))


def _equal(sizes: Sizes, node: ir.Node) -> npt.NDArray[np.bool_] | None:
    """Which elements of two tensors of sizes are equal; None unless all of them surely are, or surely are not."""
    a, b = sizes.array(node.inputs[0]), sizes.array(node.inputs[1])
    if a is None or b is None:
        return None
    a, b = np.broadcast_arrays(a, b)
    found = []
    for x, y in zip(a.reshape(-1), b.reshape(-1), strict=True):
        apart = (x - y).terms
        never = () in apart and len({factor > 0 for factor in apart.values()}) == 1  # no symbol is below zero
        if apart and not never:
            return None
        found.append(not apart)
    return np.array(found, bool).reshape(a.shape)


def _where(sizes: Sizes, node: ir.Node) -> Polys | None:
    which, a, b = sizes.truth(node.inputs[0]), sizes.array(node.inputs[1]), sizes.array(node.inputs[2])
    if which is None or a is None or b is None:
        return None
    return np.asarray(np.where(which, a, b), dtype=object)


_HANDLERS: dict[str, Callable[[Sizes, ir.Node], Polys | None]] = {
    "Add": _elementwise(lambda a, b: a + b),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _elementwise(_divide),
    "Gather": _gather,
    "Identity": _identity,
    "Mul": _elementwise(lambda a, b: a * b),
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _elementwise(lambda a, b: a - b),
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
