"""Pieces of convolutional networks: each takes a map of shape (batch, channels, height, width) and gives another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.generated.draft import Draft, Size, Value

MOST_CHANNELS = 32


def scaled(size: Size, change: Callable[[int], int], words: str) -> Size:
    """A size after a change; the text of a dynamic one is the same wherever the change is."""
    return change(size) if isinstance(size, int) else words.format(size)


def halved(size: Size) -> Size:
    return scaled(size, lambda n: -(-n // 2), "half({})")


def may_halve(x: Value) -> bool:
    return all(size >= 4 if isinstance(size, int) else size in ("H", "W") for size in x.shape[2:])


def conv(d: Draft, x: Value, out: int = 0, kernel: int = 0, stride: int = 0, like: bool = False) -> Value:
    """A convolution that keeps the size, or halves it; in the many ways of saying its padding."""
    n, c, h, w = x.shape
    assert isinstance(c, int)
    kernel = kernel or d.pick(1, 1, 3, 3, 3, 5)
    stride = stride or (d.pick(1, 1, 1, 2) if may_halve(x) and not like else 1)
    dilation = d.pick(1, 1, 1, 1, 2) if kernel == 3 and stride == 1 else 1
    groups = [1, 1, 1, 1, *(g for g in (2, 3) if c % g == 0), *([c, c] if c > 1 else [])]
    group = d.pick(*groups)
    out = out or (group * d.pick(1, 1, 2, 4) if group == c and group > 1 else d.pick(4, 6, 8, 12))
    if out % group:
        group = 1
    weight = d.weight(out, c // group, kernel, kernel)
    if d.chance(0.05):
        d.said("weights that are computed")
        weight = d.op(d.pick("Identity", "Neg"), weight)
    inputs = [x, weight]
    bias = d.pick("none", "own", "own")
    if bias == "own":
        inputs.append(d.vector(out))
    elif d.chance(0.1):
        d.said("trailing empty inputs")
        inputs.append(None)
    around = dilation * (kernel // 2)
    attributes: dict[str, Any] = {}
    source = x
    how = d.pick("pads", "pads", "pads", "node", "SAME_UPPER")
    if kernel == 1 and how != "SAME_UPPER":
        pass
    elif how == "node":
        padded = tuple(scaled(s, lambda k: k + 2 * around, f"{{}}+{2 * around}") for s in (h, w))
        source = d.pad(x, [0, 0, around, around], [0, 0, around, around], (n, c, *padded))
        inputs[0] = source
    elif how == "SAME_UPPER" and dilation == 1 and stride == 1:
        attributes["auto_pad"] = d.pick("SAME_UPPER", "SAME_LOWER")
    else:
        attributes["pads"] = [around] * 4
    if stride > 1 or d.chance(0.3):
        attributes["strides"] = [stride, stride]
    if dilation > 1 or d.chance(0.3):
        attributes["dilations"] = [dilation, dilation]
    if group > 1 or d.chance(0.3):
        attributes["group"] = group
    if d.chance(0.7):
        attributes["kernel_shape"] = [kernel, kernel]
    sizes = (halved(h), halved(w)) if stride == 2 else (h, w)
    return d.node("Conv", *inputs, shape=(n, out, *sizes), **attributes)


def norm(d: Draft, x: Value) -> Value:
    """BatchNormalization with the attributes of the opset."""
    c = x.shape[1]
    assert isinstance(c, int)
    attributes: dict[str, Any] = {}
    if d.chance(0.6):
        attributes["epsilon"] = d.pick(1e-3, 1e-5, 0.0)
    if d.opset < 9 and d.chance(0.4):
        attributes["spatial"] = 1
    if d.opset >= 14 and d.chance(0.3):
        attributes["training_mode"] = 0
    if d.chance(0.3):
        attributes["momentum"] = 0.9
    statistics = [d.vector(c), d.vector(c, 0.5, 1.5)]
    if d.chance(0.05):
        statistics = [d.vector(c), np.full(c, 1e-3, np.float32)]
    return d.like(x, "BatchNormalization", x, d.vector(c, 0.5, 1.5), d.vector(c), *statistics, **attributes)


def other_norm(d: Draft, x: Value) -> Value:
    c = x.shape[1]
    assert isinstance(c, int)
    kind = d.pick("InstanceNormalization", "LRN", "GroupNormalization", "MeanVariance")
    if kind == "InstanceNormalization":
        return d.like(x, kind, x, d.vector(c, 0.5, 1.5), d.vector(c), epsilon=1e-3)
    if kind == "LRN":
        return d.like(x, kind, size=3, alpha=0.01)
    if kind == "GroupNormalization" and d.opset >= 21 and c % 2 == 0:
        d.said("GroupNormalization 21")
        return d.like(x, kind, x, d.vector(c, 0.5, 1.5), d.vector(c), num_groups=2)
    mean = d.reduce("ReduceMean", x, 2, 3)
    centred = d.like(x, "Sub", x, mean)
    spread = d.reduce("ReduceMean", d.like(x, "Mul", centred, centred), 2, 3)
    return d.like(x, "Div", centred, d.like(spread, "Sqrt", d.like(spread, "Add", spread, np.float32(1e-3))))


def activation(d: Draft, x: Value) -> Value:
    """One of many, in the spellings of exporters."""
    kind = d.pick(
        "Relu", "Relu", "Relu", "LeakyRelu", "PRelu", "Elu", "Sigmoid", "Tanh", "HardSigmoid", "Selu", "Softplus",
        "Softsign", "Abs", "Neg", "ThresholdedRelu", "relu6", "silu", "hswish", "mish", "gelu", "tanh gelu",
        "HardSwish", "Celu", "Gelu", "clip", "Mish",
    )  # fmt: skip
    rank = len(x.shape)
    if kind == "PRelu":
        slope = d.rng.uniform(-0.2, 0.4, d.pick((), (1,), *([(x.shape[1], 1, 1)] if rank == 4 else []))).astype(
            np.float32
        )
        return d.like(x, kind, x, slope)
    if kind in ("relu6", "clip"):
        # A number of a pattern, or one that differs from it only slightly.
        low, high = d.pick(
            (0.0, 6.0), (0.0, 6.0000005), (-1e-7, 6.0), (0.0, None), (None, 0.5), (-0.0, 1e30), (0.5, 0.5)
        )
        return d.clip(x, low, high)
    if kind == "silu":
        gate = d.like(x, "Sigmoid")
        return d.like(x, "Mul", *d.pick((x, gate), (gate, x)))
    if kind == "hswish":
        gate = d.clip(d.like(x, "Add", x, np.float32(d.pick(3, 3, 3.0000002))), 0.0, 6.0)
        if d.chance(0.5):
            return d.like(x, "Div", d.like(x, "Mul", x, gate), np.float32(6))
        return d.like(x, "Mul", x, d.like(x, "Mul", gate, np.float32(1 / 6)))
    if kind == "mish":
        return d.like(x, "Mul", x, d.like(x, "Tanh", d.like(x, "Softplus")))
    since = {"HardSwish": 14, "Celu": 12, "Gelu": 20, "Mish": 18}
    if kind in ("gelu", "tanh gelu") or d.opset < since.get(kind, 0):
        return gelu(d, x)
    options = {"alpha": d.pick(0.01, 0.5, 1.0, 0.0)} if kind in ("LeakyRelu", "Elu") else {}
    return d.like(x, kind, **options)


def gelu(d: Draft, x: Value) -> Value:
    """By Erf or Tanh, in the orders of PyTorch, of TensorFlow and of Transformers."""
    half, one = np.float32(0.5), np.float32(1)
    if d.opset >= 9 and d.chance(0.6):
        d.said("Gelu by Erf")
        inner = (
            d.like(x, "Div", x, np.float32(2**0.5))
            if d.chance(0.6)
            else d.like(x, "Mul", x, np.float32(d.pick(0.5**0.5, 0.7071)))
        )
        gate = d.like(x, "Add", d.like(x, "Erf", inner), one)
        if d.chance(0.5):
            return d.like(x, "Mul", d.like(x, "Mul", x, gate), half)
        return d.like(x, "Mul", d.like(x, "Mul", x, half), gate)
    d.said("Gelu by Tanh")
    cube = d.like(x, "Pow", x, np.float32(3)) if d.chance(0.6) else d.like(x, "Mul", x, d.like(x, "Mul", x, x))
    inner = d.like(x, "Add", x, d.like(x, "Mul", cube, np.float32(0.044715)))
    gate = d.like(x, "Tanh", d.like(x, "Mul", np.float32(0.7978845608), inner))
    return d.like(x, "Mul", half, d.like(x, "Mul", x, d.like(x, "Add", gate, one)))


def scale(d: Draft, x: Value) -> Value:
    """Arithmetic with constants: by channel, by one number of rank 0 or 1, twice in a row."""
    c = x.shape[1]
    for _ in range(d.pick(1, 1, 2)):
        shape = d.pick((), (1,), (1, c, 1, 1), (c, 1, 1), (1, 1, 1, 1))
        array = d.rng.uniform(0.5, 1.5, shape).astype(np.float32)
        kind = d.pick("Mul", "Add", "Sub", "Div", "Mul", "Add", "Max", "Min")
        swapped = kind != "Div" and d.chance(0.4)
        x = d.like(x, kind, *((array, x) if swapped else (x, array)))
    return x


def block(d: Draft, x: Value) -> Value:
    """Convolution, BatchNormalization, activation, in the usual order and in others."""
    y = conv(d, x)
    after = d.pick("norm", "norm", "norm", "scale", "", "", "unknown")
    if after == "unknown":
        y = unknown_rank(d, y)
        after = "norm"
    y = norm(d, y) if after == "norm" else scale(d, y) if after == "scale" else y
    return activation(d, y) if d.chance(0.8) else y


def unknown_rank(d: Draft, x: Value) -> Value:
    """A squeeze as PyTorch exports it: If, whose branches differ in rank; the rank is then not known."""
    c = x.shape[1]
    if not isinstance(c, int) or c == 1 or d.opset < 11:
        return x
    d.said("unknown rank")
    one = d.node("Equal", d.size_of(x, 1), d.ints(1), shape=(1,), dtype="bool")
    condition = d.squeeze(one, 0) if d.chance(0.5) else one
    return d.branches(condition, lambda: d.squeeze(d.slice(x, 1, 0, 1, 1), 1), lambda: d.like(x, "Identity"), x.shape)


def residual(d: Draft, x: Value) -> Value:
    """y = x + f(x)."""
    c = x.shape[1]
    assert isinstance(c, int)
    y = conv(d, x, d.pick(4, 8, c), 1, like=True)
    y = norm(d, y) if d.chance(0.6) else y
    y = conv(d, activation(d, y), c, 3, like=True)
    y = norm(d, y) if d.chance(0.4) else y
    y = d.like(x, d.pick("Add", "Add", "Add", "Sub", "Mul"), *d.pick((x, y), (y, x)))
    return activation(d, y) if d.chance(0.5) else y


def gate(d: Draft, x: Value) -> Value:
    """Squeeze and excitation, or a gate by positions."""
    c = x.shape[1]
    assert isinstance(c, int)
    if d.chance(0.3):
        over = d.reduce(d.pick("ReduceMean", "ReduceMax", "ReduceSum"), x, d.pick(1, -3))
        return d.like(x, "Mul", x, d.like(over, "Sigmoid"))
    pooled = (
        d.node("GlobalAveragePool", x, shape=(*x.shape[:2], 1, 1)) if d.chance(0.6) else d.reduce("ReduceMean", x, 2, 3)
    )
    hidden = d.node("Conv", pooled, d.weight(4, c, 1, 1), d.vector(4), shape=(x.shape[0], 4, 1, 1))
    hidden = d.node("Conv", activation(d, hidden), d.weight(c, 4, 1, 1), shape=(x.shape[0], c, 1, 1))
    return d.like(x, "Mul", *d.pick((x, d.like(hidden, "Sigmoid")), (d.like(hidden, "HardSigmoid"), x)))


def pool(d: Draft, x: Value) -> Value:
    kind = d.pick("MaxPool", "AveragePool", "MaxPool", "AveragePool", "LpPool")
    attributes: dict[str, Any] = {}
    if may_halve(x) and d.chance(0.5):
        if all(isinstance(s, int) and s % 2 == 0 for s in x.shape[2:]):
            attributes = {"kernel_shape": [2, 2], "strides": [2, 2]}
        else:
            attributes = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
        shape = (*x.shape[:2], *map(halved, x.shape[2:]))
    else:
        attributes, shape = {"kernel_shape": [3, 3], "pads": [1] * 4}, x.shape
    if kind == "AveragePool" and d.chance(0.5):
        attributes["count_include_pad"] = d.pick(0, 1)
    if kind != "LpPool" and d.opset >= 10 and d.chance(0.2):
        attributes["ceil_mode"] = 0
    if ((kind == "MaxPool" and d.opset >= 10) or d.opset >= 19) and d.chance(0.2):
        attributes["dilations"] = [1, 1]
    source = x
    if kind == "MaxPool" and d.chance(0.2) and "pads" in attributes and d.opset >= 11:
        d.said("Pad with -inf")
        n, c, h, w = x.shape
        del attributes["pads"]
        more = tuple(scaled(s, lambda k: k + 2, "{}+2") for s in (h, w))
        source = d.pad(x, [0, 0, 1, 1], [0, 0, 1, 1], (n, c, *more), -np.inf)
    return d.node(kind, source, shape=shape, **attributes)


def enlarge(d: Draft, x: Value) -> Value:
    """Twice the height and width: Upsample or Resize by factors or by computed sizes, ConvTranspose, DepthToSpace."""
    n, c, h, w = x.shape
    if any(s > 8 if isinstance(s, int) else not s.startswith("half") for s in (h, w)):
        return x
    assert isinstance(c, int)
    doubled = tuple(scaled(s, lambda k: 2 * k, "2*({})") for s in (h, w))
    how = d.pick("resize", "resize", "transposed", "shuffle")
    if how == "transposed":
        group = d.pick(1, 1, c)
        out = c if group == c else d.pick(4, 6)
        weight = d.weight(c, out // group, 2, 2, fan=c)
        bias = [d.vector(out)] if d.chance(0.6) else []
        y = d.node("ConvTranspose", x, weight, *bias, shape=(n, out, *doubled), strides=[2, 2], group=group)
        return norm(d, y) if d.chance(0.4) else y
    if how == "shuffle" and c % 4 == 0:
        options = {"mode": d.pick("DCR", "CRD")} if d.opset >= 11 else {}
        return d.node("DepthToSpace", x, shape=(n, c // 4, *doubled), blocksize=2, **options)
    factors = np.array([1, 1, 2, 2], np.float32)
    shape = (n, c, *doubled)
    if d.opset < 9:
        return d.node("Upsample", x, shape=shape, scales=factors.tolist(), mode="nearest")
    if d.opset == 9:
        return d.node("Upsample", x, factors, shape=shape, mode=d.pick("nearest", "linear"))
    if d.opset == 10:
        return d.node("Resize", x, factors, shape=shape, mode="nearest")
    options = d.pick(
        {"mode": "nearest"},
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    )
    roi: Any = None if d.opset >= 13 or d.chance(0.3) else np.zeros(0, np.float32)
    if d.chance(0.5):
        if d.opset < 13:
            roi = np.zeros(0, np.float32)
        return d.node("Resize", x, roi, factors, shape=shape, **options)
    sizes = [d.like(d.size_of(x, axis), "Mul", d.size_of(x, axis), d.ints(2)) for axis in (2, 3)]
    first = d.slice(d.node("Shape", x, shape=(4,), dtype="int64"), 0, 0, 2, 2)
    target = d.node("Concat", first, *sizes, shape=(4,), dtype="int64", axis=0)
    scales: Any = None if d.opset >= 13 else np.zeros(0, np.float32)
    return d.node(
        "Resize", x, np.zeros(0, np.float32) if d.opset < 13 else None, scales, target, shape=shape, **options
    )


def concat(d: Draft, x: Value) -> Value:
    """Two branches side by side, cut and reordered."""
    n, c, h, w = x.shape
    assert isinstance(c, int)
    if c > MOST_CHANNELS // 2:
        return conv(d, x, 8, 1, like=True)
    other = activation(d, conv(d, x, d.pick(4, c), like=True)) if d.chance(0.7) else x
    parts = [x, other] if d.chance(0.5) else [other, x]
    if d.chance(0.1):
        d.said("empty tensors")
        empty = np.zeros((1, 0, 1, 1), np.float32)
        if isinstance(n, int) and isinstance(h, int) and isinstance(w, int):
            empty = np.zeros((n, 0, h, w), np.float32)
            parts.insert(1, Value(d.constant(empty), (n, 0, h, w)))
    width = sum(p.shape[1] for p in parts)  # type: ignore[misc]
    y = d.node("Concat", *parts, shape=(n, width, h, w), axis=d.pick(1, -3) if d.opset >= 11 else 1)
    if d.chance(0.3) and width % 2 == 0:
        y = d.reshape(
            y, d.dynamic(y, 0), 2, width // 2, *(d.dynamic_size(y, k) for k in (2, 3)), shape=(n, 2, width // 2, h, w)
        )
        y = d.transpose(y, 0, 2, 1, 3, 4)
        y = d.reshape(y, d.dynamic(y, 0), width, *(d.dynamic_size(y, k) for k in (3, 4)), shape=(n, width, h, w))
    return y


def cut(d: Draft, x: Value) -> Value:
    """Channels by Slice, Split or Gather."""
    n, c, h, w = x.shape
    assert isinstance(c, int)
    if c < 4:
        return x
    how = d.pick("slice", "split", "gather", "all", "reverse")
    if how == "slice":
        return d.slice(x, 1, 1, c, c - 1)
    if how == "all":
        return d.slice(x, 1, 0, 2**63 - 1, c)
    if how == "reverse" and d.opset >= 10:
        return d.slice(x, 1, -1, -(2**31), c, -1)
    if how == "split":
        a, b = d.split(x, 1, c // 2, c - c // 2)
        if c % 2 == 0:
            return d.like(a, d.pick("Add", "Mul", "Max"), a, b)
        return d.node("Concat", b, a, shape=x.shape, axis=1)
    picks = [d.random.randrange(c) - (c if d.opset >= 11 and d.chance(0.2) else 0) for _ in range(d.pick(c, c - 1))]
    return d.node("Gather", x, d.ints(*picks), shape=(n, len(picks), h, w), axis=1)


def channels_last(d: Draft, x: Value) -> Value:
    """As tf2onnx writes it: there, something by channel in the last place, and back."""
    n, c, h, w = x.shape
    assert isinstance(c, int)
    d.said("channels last")
    y = d.transpose(x, 0, 2, 3, 1)
    for _ in range(d.pick(1, 2)):
        how = d.pick("bias", "relu", "linear", "conv", "pad", "mean")
        c = y.shape[3]  # type: ignore[assignment]
        if how == "bias":
            y = d.like(y, d.pick("Add", "Mul"), y, d.vector(c))
        elif how == "relu":
            y = activation(d, y) if d.chance(0.5) else d.like(y, "Relu")
        elif how == "linear":
            out = d.pick(4, 6)
            y = d.node("MatMul", y, d.weight(c, out, fan=c), shape=(n, h, w, out))
            y = d.like(y, "Add", y, d.vector(out))
        elif how == "conv":
            z = conv(d, d.transpose(y, 0, 3, 1, 2), like=True)
            y = d.transpose(z, 0, 2, 3, 1)
        elif how == "pad" and isinstance(h, int):
            y = d.pad(y, [0, 0, 0, 0], [0, 1, 0, 0], (n, h + 1, w, c))
            h += 1
        elif how == "mean":
            y = d.like(y, "Sub", y, d.reduce("ReduceMean", y, 3))
    return d.transpose(y, 0, 3, 1, 2)


def flat_and_back(d: Draft, x: Value) -> Value:
    """To rows and back, with sizes read from the shape."""
    n, c, h, w = x.shape
    flat = d.reshape(x, d.dynamic(x, 0), c, -1, shape=(n, c, f"{h}*{w}"))
    y = activation(d, flat) if d.chance(0.5) else flat
    back = [d.size_of(x, 0), d.ints(c) if d.chance(0.5) else c, d.size_of(x, 2), d.size_of(x, 3)]
    if d.chance(0.3):
        back[d.pick(0, 2, 3)] = -1
    return d.reshape(y, *back, shape=x.shape)


def tile(d: Draft, x: Value) -> Value:
    n, c, h, w = x.shape
    assert isinstance(c, int)
    if c > MOST_CHANNELS // 2:
        return x
    return d.node("Tile", x, d.ints(1, 2, 1, 1), shape=(n, 2 * c, h, w))


def pad_channels(d: Draft, x: Value) -> Value:
    n, c, h, w = x.shape
    assert isinstance(c, int)
    before, after = d.pick((0, 2), (1, 1), (-1, 0), (0, 0))
    if c <= 2:
        before = 0
    return d.pad(x, [0, before, 0, 0], [0, after, 0, 0], (n, c + before + after, h, w))


PIECES = (
    *[block] * 6, conv, norm, activation, activation, scale, scale, residual, residual, residual, gate, pool, pool,
    enlarge, concat, concat, cut, channels_last, channels_last, flat_and_back, tile, pad_channels, other_norm,
    unknown_rank,
)  # fmt: skip
