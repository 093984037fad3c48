"""What real networks have in odd places: each takes any float tensor and gives one of the same shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.generated.draft import Draft, Value


def neutral(d: Draft, x: Value) -> Value:
    """Arithmetic that changes nothing, or nearly nothing: the number is that of a pattern, or differs slightly."""
    kind, numbers = d.pick(
        ("Mul", (1, 1, 1.0000001, 0.9999999, -1)),
        ("Add", (0, -0.0, 1e-7, 1e-30)),
        ("Sub", (0, -0.0, 1e-7)),
        ("Div", (1, 1, 1.0000001, 2)),
        ("Max", (-np.inf, -3e38, -1)),
        ("Min", (np.inf, 3e38, 1)),
    )
    shape = d.pick((), (1,), (1,) * len(x.shape))
    number = np.full(shape, d.pick(*numbers), np.float32)
    if np.isinf(number).any():
        d.said("infinite constants")
    return d.like(x, kind, *((number, x) if kind in ("Mul", "Add", "Max") and d.chance(0.4) else (x, number)))


def nothing(d: Draft, x: Value) -> Value:
    """A movement that gives back its input."""
    rank = len(x.shape)
    how = d.pick("identity", "cast", "transpose", "reshape", "expand", "tile", "concat", "slice", "pad", "sum", "split")
    if how == "cast":
        return d.cast(x, "float32") if d.chance(0.5) else d.cast(d.cast(x, "float64"), "float32")
    if how == "transpose":
        order = list(range(rank))
        d.random.shuffle(order)
        back = [order.index(axis) for axis in range(rank)]
        return d.transpose(d.transpose(x, *order), *back)
    if how == "reshape":
        shape: Any = d.node("Shape", x, shape=(rank,), dtype="int64")
        if d.chance(0.4):
            return d.like(x, "Reshape", d.node("Reshape", x, d.ints(-1), shape=("flat",)), shape)
        return d.like(x, "Reshape", x, d.ints(*[0] * rank) if d.chance(0.5) else shape)
    if how == "expand" and d.opset >= 8:
        return d.like(x, "Expand", x, d.ints(*[1] * d.pick(rank, max(rank - 1, 0))))
    if how == "tile":
        return d.like(x, "Tile", x, d.ints(*[1] * rank))
    if how == "concat":
        return d.like(x, "Concat", axis=d.random.randrange(rank))
    if how == "slice":
        axis = d.random.randrange(rank)
        return d.slice(x, axis, 0, 2**63 - 1, x.shape[axis])
    if how == "pad":
        return d.pad(x, [0] * rank, [0] * rank, x.shape)
    if how == "sum":
        return d.like(x, d.pick("Sum", "Max", "Min", "Mean"))
    if how == "split" and d.opset >= 13:
        (axis,) = [k for k, s in enumerate(x.shape) if isinstance(s, int) and s > 1][:1] or [None]
        if axis is not None:
            size = x.shape[axis]
            assert isinstance(size, int)
            parts = d.split(x, axis, 1, size - 1)
            return d.like(x, "Concat", *parts, axis=axis)
    return d.like(x, "Identity")


def squeezed(d: Draft, x: Value) -> Value:
    """There and back, or a reduction that reduces nothing."""
    if d.opset >= 18 and d.chance(0.3):
        return d.like(
            x, d.pick("ReduceSum", "ReduceMean", "ReduceMax"), x, np.zeros(0, np.int64), noop_with_empty_axes=1
        )
    axis = d.random.randrange(len(x.shape) + 1)
    return d.squeeze(d.unsqueeze(x, axis), axis)


def rank_0(d: Draft, x: Value) -> Value:
    """A number of rank 0 that is computed from x, by which x is scaled."""
    d.said("rank 0")
    how = d.pick("gather", "reduce", "size")
    if how == "gather":
        flat = d.node("Reshape", x, d.ints(-1), shape=("flat",))
        scalar = (
            d.reduce("ReduceMax", flat, 0, keep=False) if d.chance(0.5) else d.reduce("ReduceMean", flat, keep=False)
        )
    elif how == "reduce":
        scalar = d.reduce("ReduceMean", x, keep=False)
    else:
        count = d.node("Size", x, shape=(), dtype="int64")
        scalar = d.cast(count, "float32")
        scalar = d.like(scalar, "Reciprocal", d.like(scalar, "Add", scalar, np.float32(1)))
    return d.like(x, "Mul", x, d.like(scalar, "Tanh"))


def known(d: Draft, x: Value) -> Value:
    """A value that depends on constants only."""
    rank = len(x.shape)
    a = Value(d.constant(np.full((1,) * rank, 0.5, np.float32)), (1,) * rank)
    b = d.like(a, d.pick("Neg", "Sqrt", "Exp", "Relu", "Identity"))
    b = d.like(a, d.pick("Add", "Mul"), b, d.rng.uniform(0.5, 1, (1,) * rank).astype(np.float32))
    if d.chance(0.3) and d.opset >= 9:
        c = d.node("ConstantOfShape", d.ints(*[1] * rank), shape=(1,) * rank, dtype="float32")
        b = d.like(a, "Add", b, c)
    return d.like(x, d.pick("Mul", "Add"), x, b)


def twice(d: Draft, x: Value) -> Value:
    """The same thing computed twice, with something dead beside."""
    kind = d.pick("Sigmoid", "Tanh", "Relu")
    a, b = d.like(x, kind), d.like(x, kind)
    d.like(x, "Exp")
    return d.like(x, d.pick("Add", "Sub", "Mul"), a, b)


def same(d: Draft, x: Value) -> Value:
    """x with itself."""
    return d.like(x, d.pick("Add", "Mul", "Max"), x, x)


def chosen(d: Draft, x: Value) -> Value:
    """Where, with a condition that is constant, or computed; NaN and infinities caught."""
    how = d.pick("constant", "computed", "finite", "masked")
    if how == "constant" and d.opset >= 9:
        return d.like(x, "Where", np.full((1,) * len(x.shape), d.pick(True, False)), x, d.like(x, "Neg"))
    if how == "finite" and d.opset >= 10:
        bad = d.node("IsNaN", x, shape=x.shape, dtype="bool")
        return d.like(x, "Where", bad, np.float32(0), x)
    if how == "masked" and d.opset >= 9 and len(x.shape) > 1:
        d.said("-inf masks")
        over = d.node("Greater", x, np.float32(1.25), shape=x.shape, dtype="bool")
        masked = d.like(x, "Where", over, np.float32(-np.inf), x)
        return d.softmax(masked)
    if d.opset < 9:
        return x
    positive = d.node(d.pick("Greater", "Less"), x, np.float32(0), shape=x.shape, dtype="bool")
    if d.chance(0.5):
        positive = d.like(positive, "Not")
    if d.chance(0.3):
        positive = d.like(positive, "Not", d.like(positive, "Not"))
    return d.like(x, "Where", positive, x, d.like(x, "Mul", x, np.float32(0.25)))


def branched(d: Draft, x: Value) -> Value:
    """If with captured values: its condition constant, from a size, or from the data."""
    d.said("If")
    how = d.pick("constant", "size", "data")
    if how == "constant":
        condition = Value(d.constant(np.bool_(d.chance(0.5))), (), "bool")
    elif how == "size" and d.opset >= 11:
        count = d.node("Size", x, shape=(), dtype="int64")
        condition = d.node("Greater", count, np.int64(d.pick(0, 1 << 40)), shape=(), dtype="bool")
    else:
        condition = d.node("Greater", d.reduce("ReduceMean", x, keep=False), np.float32(0), shape=(), dtype="bool")
    twin = d.like(x, "Tanh")
    options: list[Callable[[], Value]] = [
        lambda: d.like(x, "Relu"),
        lambda: x,
        lambda: d.like(x, "Add", x, twin),
        lambda: twin,
        lambda: neutral(d, nothing(d, x)),
        lambda: d.like(x, "Mul", d.like(x, "Mul", x, np.float32(2)), np.float32(0.25)),
    ]
    if len(x.shape) == 3 and isinstance(x.shape[-1], int):
        width = x.shape[-1]
        weight, bias = d.weight(width, width), d.vector(width)

        def layer() -> Value:
            return d.like(x, "Add", d.like(x, "MatMul", x, weight), bias)

        options += [layer, layer]
    if len(x.shape) == 4 and isinstance(x.shape[1], int):
        c = x.shape[1]
        kernel, more = d.weight(c, c, 1, 1), d.vector(c)
        options += [lambda: d.like(x, "Conv", x, kernel, more), lambda: d.like(x, "Conv", twin, kernel)]
    return d.branches(condition, d.pick(*options), d.pick(*options), x.shape)


def repeated(d: Draft, x: Value) -> Value:
    """A Loop around something, with a constant number of trips, or a number of trips and no condition, or neither."""
    if d.opset < 8:
        return x
    d.said("Loop")
    trips: Any = np.int64(d.pick(0, 1, 1, 2, 3))
    condition: Any = d.pick(np.bool_(True), np.bool_(True), None, np.bool_(False))
    if condition is None:
        d.said("Loop without cond")
    outer = d.rng.uniform(-0.5, 0.5, (1,) * len(x.shape)).astype(np.float32)
    captured = d.constant(outer)
    with d.body() as scope:
        i, go, state = (
            Value(d.name("i"), (), "int64"), Value(d.name("cond"), (), "bool"), Value(d.name("state"), x.shape),
        )  # fmt: skip
        inner = d.like(x, "Mul", state, np.float32(0.5))
        inner = d.like(x, "Add", *d.pick((inner, captured), (inner, x)))
        on = d.like(go, "Identity")
    body = d.graph(scope, [i, go, state], [on, inner], ranks=True)
    inputs = [trips, condition, x]
    return d.node("Loop", *inputs, shape=x.shape, dtype=x.dtype, body=body)


def half_way(d: Draft, x: Value) -> Value:
    """A part in float16 or float64."""
    kind = d.pick("float16", "float64")
    d.said(f"a part in {kind}")
    y = d.cast(x, kind)
    y = d.like(y, d.pick("Mul", "Add"), y, np.array(0.5, kind))
    y = d.like(y, "Relu") if d.chance(0.5) and d.opset >= 14 else y
    return d.cast(y, "float32")


def tail(d: Draft, x: Value) -> Value:
    """Log of what is zero sometimes, square roots, reciprocals: values that are not finite, by design."""
    positive = d.like(x, "Relu")
    kind = d.pick("Log", "Sqrt", "safe")
    if kind == "Log":
        d.said("Log of zero")
        return d.like(x, "Max", d.like(x, "Log", positive), np.float32(-4))
    if kind == "Sqrt":
        return d.like(x, "Sqrt", positive)
    return d.like(x, "Log", d.like(x, "Add", positive, np.float32(1)))


PIECES = (
    *[neutral] * 6, *[nothing] * 6, squeezed, squeezed, rank_0, known, known, twice, same, chosen, chosen, branched,
    branched, repeated, half_way, tail,
)  # fmt: skip
