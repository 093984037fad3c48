"""How networks begin and end: integer inputs, embeddings, patches; classifiers, boxes, choices."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.generated.draft import Draft, Size, Value
from benchmarks.generated.images import activation, conv
from benchmarks.generated.sequences import linear


def image(d: Draft) -> Value:
    """An image: float, or bytes that are cast and scaled; batch and sizes dynamic or fixed."""
    batch: Size = d.pick("N", "N", 1, 2)
    side: Any = d.pick(("H", "W"), (8, 8), (8, 8), (12, 8))
    channels = d.pick(1, 3, 3, 4)
    if d.chance(0.15):
        d.said("bytes as input")
        raw = d.input((batch, channels, *side), "uint8", low=0, high=255)
        x = d.cast(raw, "float32")
        return (
            d.like(x, d.pick("Mul", "Div"), x, np.float32(1 / 64))
            if d.chance(0.5)
            else d.like(x, "Mul", x, np.float32(1 / 128))
        )
    if d.chance(0.15):
        d.said("channels last")
        return d.transpose(d.input((batch, *side, channels)), 0, 3, 1, 2)
    return d.input((batch, channels, *side))


def tokens(d: Draft) -> Value:
    """A sequence: floats, or integers that index a table, with types and positions sometimes."""
    batch: Size = d.pick("N", "N", 1, 2)
    steps: Size = d.pick("S", "S", 6, 5)
    width = d.pick(8, 8, 12, 16)
    if d.chance(0.5):
        x = d.input((batch, steps, width))
        return linear(d, x, width) if d.chance(0.3) else x
    d.said("embeddings")
    ids = d.input((batch, steps), d.pick("int64", "int64", "int32"), low=0, high=19)
    table = d.weight(20, width, fan=1, kind=d.pick("plain", "plain", "dead"))
    x = d.node("Gather", table, ids, shape=(batch, steps, width), dtype="float32")
    if d.chance(0.4):
        kinds = d.input((batch, steps), "int64", low=0, high=1)
        y = d.node("Gather", d.weight(2, width, fan=1), kinds, shape=x.shape, dtype="float32")
        x = d.like(x, "Add", x, y)
    return x


def patches(d: Draft, x: Value) -> Value:
    """(batch, channels, height, width) to (batch, positions, channels), by a strided convolution or as it is."""
    n, c, h, w = x.shape
    assert isinstance(c, int)
    if isinstance(h, int) and isinstance(w, int) and h % 2 == 0 and w % 2 == 0 and d.chance(0.6):
        inputs = [x, d.weight(8, c, 2, 2), d.vector(8)]
        x = d.node("Conv", *inputs, shape=(n, 8, h // 2, w // 2), strides=[2, 2], kernel_shape=[2, 2])
        n, c, h, w = x.shape
    count: Size = h * w if isinstance(h, int) and isinstance(w, int) else f"{h}*{w}"
    flat = d.reshape(x, d.dynamic(x, 0), c, -1, shape=(n, c, count))
    return d.transpose(flat, 0, 2, 1)


def rows(d: Draft) -> Value:
    """A table: numbers, and categories by embedding or OneHot, side by side."""
    batch: Size = d.pick("N", "N", 2)
    width = d.pick(4, 8)
    x = d.input((batch, width), scale=d.pick(1.0, 1.0, 30.0))
    if d.chance(0.5):
        x = d.like(x, "Div", d.like(x, "Sub", x, d.vector(width)), d.vector(width, 0.5, 1.5))
    if d.chance(0.5):
        d.said("categories")
        ids = d.input((batch,), d.pick("int64", "int64", "int32"), low=0, high=4)
        if ids.dtype == "int64" and d.chance(0.6) and d.opset >= 11:
            more = d.node("OneHot", ids, np.int64(5), np.float32([0, 1]), shape=(batch, 5), dtype="float32", axis=-1)
        else:
            more = d.node("Gather", d.weight(5, 4, fan=1), ids, shape=(batch, 4), dtype="float32")
        x = d.node("Concat", x, more, shape=(batch, width + more.shape[1]), axis=1)  # type: ignore[operator]
    return x


def dense(d: Draft, x: Value) -> Value:
    """A layer on rows with what follows it."""
    y = linear(d, x, d.pick(4, 6, 8))
    if d.chance(0.3):
        width = y.shape[1]
        assert isinstance(width, int)
        y = d.like(
            y,
            "BatchNormalization",
            y,
            d.vector(width, 0.5, 1.5),
            d.vector(width),
            d.vector(width),
            d.vector(width, 0.5, 1.5),
        )
    elif d.chance(0.3):
        y = d.like(y, d.pick("Mul", "Add", "Div", "Sub"), y, d.vector(y.shape[1], 0.5, 1.5))  # type: ignore[arg-type]
    y = activation(d, y) if d.chance(0.8) else y
    return d.like(y, "Add", y, x) if y.shape == x.shape and d.chance(0.5) else y


def integers(d: Draft) -> list[Value]:
    """Arithmetic on integers of any size: what is no identity for negative or large ones must stay."""
    d.said("integer arithmetic")
    kind = d.pick("int64", "int64", "int32")
    shape = (d.pick("N", 2), d.pick("S", 4))
    x = y = d.input(shape, kind, low=-60, high=60)
    for _ in range(d.pick(3, 5, 7)):
        how = d.pick("Mul", "Add", "Sub", "Div", "Mod", "cast", "square", "Abs", "Neg", "Where", "Clip", "Max", "shape")
        if how in ("Mul", "Add", "Sub"):
            number = np.array(d.pick(0, 1, 2, -1, 3), kind)
            y = d.like(y, how, *d.pick((y, number), (number, y)))
        elif how == "Div":
            y = d.like(y, "Div", y, np.array(d.pick(1, 2, -1, 3), kind))
        elif how == "Mod" and d.opset >= 10:
            y = d.like(y, "Mod", y, np.array(d.pick(7, 1, 5), kind), fmod=d.pick(0, 1))
        elif how == "cast":
            y = d.cast(d.cast(y, d.pick("int8", "float32", "bool", "int64", "uint8")), kind)
        elif how == "square":
            y = d.like(y, "Mod", d.like(y, "Mul", y, y), np.array(101, kind), fmod=1) if d.opset >= 10 else y
        elif how in ("Abs", "Neg"):
            y = d.like(y, how)
        elif how == "Where" and d.opset >= 9:
            equal = d.node(
                d.pick("Equal", "Less", "Greater"), y, np.array(d.pick(0, 1), kind), shape=shape, dtype="bool"
            )
            y = d.like(y, "Where", equal, x, y)
        elif how in ("Clip", "Max") and d.opset >= 12:
            y = d.like(y, "Max", y, np.array(d.pick(0, -3), kind))
        elif how == "shape":
            y = d.like(y, "Reshape", y, d.node("Shape", x, shape=(2,), dtype="int64"))
    real = d.cast(y, "float32")
    return [y, d.like(real, "Mul", real, np.float32(0.5))]


def pooled(d: Draft, x: Value) -> Value:
    """A map to rows (batch, channels)."""
    n, c = x.shape[:2]
    how = d.pick("flatten", "reshape", "mean", "squeeze")
    if how == "mean":
        return d.reduce("ReduceMean", x, 2, 3, keep=False)
    y = d.node("GlobalAveragePool", x, shape=(n, c, 1, 1))
    if how == "flatten":
        return d.node("Flatten", y, shape=(n, c), axis=1)
    if how == "squeeze":
        return d.squeeze(y, 2, 3)
    return (
        d.reshape(y, d.pick(0, -1), c, shape=(n, c))
        if d.chance(0.5)
        else d.reshape(y, d.dynamic_size(y, 0), -1, shape=(n, c))
    )


def classifier(d: Draft, x: Value) -> list[Value]:
    """Rows to logits, scores or the class."""
    logits = linear(d, x, d.pick(3, 5))
    how = d.pick("logits", "softmax", "log", "argmax", "topk", "sigmoid")
    if how == "softmax":
        return [d.softmax(logits)]
    if how == "log":
        return [d.softmax(logits, "LogSoftmax")]
    if how == "sigmoid":
        return [d.like(logits, "Sigmoid")]
    if how == "argmax":
        return [d.node("ArgMax", logits, shape=(x.shape[0],), dtype="int64", axis=1, keepdims=0), logits]
    if how == "topk":
        count = {"k": 2} if d.opset < 10 else {}
        names = d.op("TopK", logits, *([] if count else [d.ints(2)]), outputs=2, axis=1, **count)
        shape = (x.shape[0], 2)
        return [Value(names[0], shape), Value(names[1], shape, "int64")]
    return [logits]


def detector(d: Draft, maps: list[Value]) -> list[Value]:
    """Boxes and scores from maps, as YOLO exports have them, then what chooses among them."""
    d.said("detector")
    anchors, classes = d.pick(1, 2), d.pick(1, 3)
    width = 4 + classes
    found = []
    for x in maps:
        n, _, h, w = x.shape
        y = conv(d, x, anchors * width, 1, like=True)
        sizes = [d.dynamic_size(y, axis) for axis in (2, 3)]
        y = d.reshape(y, d.dynamic(y, 0), anchors, width, *sizes, shape=(n, anchors, width, h, w))
        y = d.transpose(y, 0, 1, 3, 4, 2)
        y = d.like(y, "Sigmoid") if d.chance(0.7) else y
        if d.chance(0.5):
            place, size, score = d.split(y, 4, 2, 2, classes)
        else:
            place, size, score = (d.slice(y, 4, a, b, b - a) for a, b in ((0, 2), (2, 4), (4, 4 + classes)))
        place = d.like(place, "Add", d.like(place, "Mul", place, np.float32(2)), grid(d, y))
        place = d.like(place, "Mul", place, np.float32(d.pick(8, 16)))
        size = d.like(size, "Pow", size, np.float32(2)) if d.chance(0.5) else d.like(size, "Mul", size, size)
        size = d.like(size, "Mul", size, np.float32([[[[[3.0, 4.0]]]]]))
        y = d.node("Concat", place, size, score, shape=y.shape, axis=d.pick(4, -1) if d.opset >= 11 else 4)
        found.append(d.reshape(y, d.dynamic(y, 0), -1, width, shape=(n, f"{anchors}*{h}*{w}", width)))
    count = "+".join(str(each.shape[1]) for each in found)
    every = d.node("Concat", *found, shape=(found[0].shape[0], count, width), axis=1)
    return [every, *chosen(d, every)] if d.chance(0.5) else chosen(d, every) or [every]


def grid(d: Draft, y: Value) -> Any:
    """The places of the cells: a constant where the sizes are, otherwise computed by Range."""
    _, _, h, w, _ = y.shape
    if isinstance(h, int) and isinstance(w, int):
        across = np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1).astype(np.float32)
        return across[None, None]
    if d.opset < 11:
        return np.float32(0.5)
    lines = []
    for axis, place in ((3, (1, 1, 1, -1, 1)), (2, (1, 1, -1, 1, 1))):
        size = d.node("Squeeze", d.size_of(y, axis), shape=(), dtype="int64")
        steps = d.node("Range", np.int64(0), size, np.int64(1), shape=(y.shape[axis],), dtype="int64")
        sizes: tuple[Size, ...] = tuple(1 if p == 1 else y.shape[axis] for p in place)
        lines.append(d.reshape(d.cast(steps, "float32"), *place, shape=sizes))
    whole = d.node(
        "Concat", d.ints(1, 1), d.size_of(y, 2), d.size_of(y, 3), d.ints(1), shape=(5,), dtype="int64", axis=0
    )
    made = [d.node("Expand", line, whole, shape=(1, 1, h, w, 1)) for line in lines]
    return d.node("Concat", *made, shape=(1, 1, h, w, 2), axis=4)


def chosen(d: Draft, every: Value) -> list[Value]:
    """Boxes that are chosen: by TopK, by a threshold (of which there may be none), by NonMaxSuppression, or all."""
    n, count, width = every.shape
    assert isinstance(width, int)
    boxes = d.slice(every, 2, 0, 4, 4)
    scores = d.slice(every, 2, 4, width, width - 4)
    best = d.reduce("ReduceMax", scores, 2, keep=False)
    how = d.pick("all", "topk", "threshold", "nms")
    if how == "topk" and d.opset >= 11:
        d.said("TopK")
        names = d.op("TopK", best, d.ints(2), outputs=2, axis=1)
        index = d.unsqueeze(Value(names[1], (n, 2), "int64"), 2)
        index = d.node("Expand", index, d.ints(1, 1, 4), shape=(n, 2, 4), dtype="int64")
        return [d.node("GatherElements", boxes, index, shape=(n, 2, 4), axis=1), Value(names[0], (n, 2))]
    if how == "threshold" and d.opset >= 12:
        d.said("NonZero")
        over = d.node("Greater", best, np.float32(d.pick(0.5, 0.5, 1e9)), shape=(n, count), dtype="bool")
        places = d.transpose(d.node("NonZero", over, shape=(2, "found"), dtype="int64"), 1, 0)
        picked = d.node("GatherND", boxes, places, shape=("found", 4))
        again = d.reshape(picked, d.size_of(picked, 0), 2, 2, shape=("found", 2, 2))
        return [again, d.node("GatherND", best, places, shape=("found",))]
    if how == "nms" and d.opset >= 10:
        d.said("NonMaxSuppression")
        turned = d.transpose(scores, 0, 2, 1)
        limits = [np.int64([3]), np.float32([0.5]), np.float32([d.pick(0.4, 1e9)])]
        found = d.node(
            "NonMaxSuppression", boxes, turned, *limits, shape=("found", 3), dtype="int64", center_point_box=1
        )
        if n != 1:
            return [found]
        index = d.squeeze(d.slice(found, 1, 2, 3, 1), 1)
        flat = d.squeeze(boxes, 0)
        return [d.node("Gather", flat, index, shape=("found", 4)), found]
    top = d.node("ArgMax", scores, shape=(n, count), dtype="int64", axis=2, keepdims=0)
    return [boxes, top]
