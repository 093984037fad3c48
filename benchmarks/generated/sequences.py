"""Pieces of transformers and recurrent networks: each takes (batch, steps, width) and gives the same shape."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.generated.draft import Draft, Value
from benchmarks.generated.images import activation, gelu


def linear(d: Draft, x: Value, out: int, bias: bool | None = None) -> Value:
    """x W + b: MatMul and Add in either order, or Gemm on rows with either layout of the weight."""
    width = x.shape[-1]
    assert isinstance(width, int)
    with_bias = d.chance(0.8) if bias is None else bias
    if len(x.shape) == 2 and d.chance(0.5):
        return gemm(d, x, out)
    if len(x.shape) == 3 and d.chance(0.15):
        d.said("Gemm on rows")
        rows = d.reshape(x, -1, width, shape=(f"{x.shape[0]}*{x.shape[1]}", width))
        y = gemm(d, rows, out)
        sizes = [d.dynamic_size(x, axis) for axis in (0, 1)]
        return d.reshape(y, *sizes, out, shape=(*x.shape[:-1], out))
    turned = d.chance(0.2)
    weight = d.op("Transpose", d.weight(out, width), perm=[1, 0]) if turned else d.weight(width, out, fan=width)
    y = d.node("MatMul", x, weight, shape=(*x.shape[:-1], out))
    if not with_bias:
        return y
    b = d.vector(out)
    return d.like(y, "Add", *d.pick((y, b), (b, y)))


def gemm(d: Draft, x: Value, out: int) -> Value:
    """Gemm with alpha, beta and transB; alpha or beta are 0 sometimes."""
    width = x.shape[-1]
    assert isinstance(width, int)
    attributes: dict[str, Any] = {}
    transposed = d.chance(0.5)
    if transposed:
        attributes["transB"] = 1
    if d.chance(0.2):
        attributes["alpha"] = d.pick(0.0, 0.5, 1.0, 1.0000001)
    if d.chance(0.2):
        attributes["beta"] = d.pick(0.0, 0.5, 1.0)
    if 0.0 in (attributes.get("alpha"), attributes.get("beta")):
        d.said("Gemm with alpha or beta 0")
    weight = d.weight(out, width) if transposed else d.weight(width, out, fan=width)
    inputs: list[Any] = [x, weight]
    if d.opset < 11 or d.chance(0.8):
        inputs.append(
            d.vector(out)
            if d.chance(0.8)
            else np.float32(0.5)
            if d.chance(0.5)
            else np.full((1, out), 0.25, np.float32)
        )
    return d.node("Gemm", *inputs, shape=(x.shape[0], out), **attributes)


def layer_norm(d: Draft, x: Value) -> Value:
    """LayerNormalization as one node, or as many: by Pow or Mul, Div by Sqrt or Mul with a reciprocal; RMS, too."""
    width = x.shape[-1]
    assert isinstance(width, int)
    how = d.pick("one", "many", "many", "rms")
    scale = d.vector(width, 0.5, 1.5)
    if how == "one" and d.opset >= 17:
        bias = [d.vector(width)] if d.chance(0.8) else []
        return d.like(x, "LayerNormalization", x, scale, *bias, axis=d.pick(-1, len(x.shape) - 1), epsilon=1e-5)
    d.said("LayerNormalization of many nodes")
    centred = x if how == "rms" else d.like(x, "Sub", x, d.reduce("ReduceMean", x, -1))
    source = centred
    if d.chance(0.1):
        source = d.cast(d.cast(centred, "float64"), "float32")
    square = (
        d.like(x, "Pow", source, np.float32(d.pick(2, 2, 2, 2.0000002)))
        if d.chance(0.7)
        else d.like(x, "Mul", source, source)
    )
    spread = d.reduce("ReduceMean", square, -1)
    spread = d.like(spread, "Add", spread, np.float32(1e-5))
    root = d.like(spread, "Sqrt")
    y = d.like(x, "Div", centred, root) if d.chance(0.6) else d.like(x, "Mul", centred, d.like(root, "Reciprocal"))
    y = d.like(x, "Mul", *d.pick((y, scale), (scale, y)))
    return y if how == "rms" else d.like(x, "Add", y, d.vector(width))


def heads_of(d: Draft, x: Value, heads: int) -> Value:
    """(batch, steps, width) to (batch, heads, steps, width / heads)."""
    n, s, width = x.shape
    assert isinstance(width, int)
    how = d.pick("0, -1", "0, 0", "computed")
    if how == "0, -1":
        sizes: list[Any] = [0, -1]
    elif how == "0, 0":
        sizes = [0, 0]
    else:
        sizes = [d.dynamic_size(x, 0), d.dynamic_size(x, 1)]
    split = d.reshape(x, *sizes, heads, width // heads, shape=(n, s, heads, width // heads))
    return d.transpose(split, 0, 2, 1, 3)


def queries(d: Draft, x: Value, heads: int, source: Value) -> tuple[Value, Value, Value]:
    """Queries, keys and values by head: three layers, or one that is cut by Split, Gather (timm) or Slice."""
    n, s, width = x.shape
    assert isinstance(width, int)
    if source is not x or d.chance(0.5):
        d.said("separate QKV")
        made = [linear(d, each, width) for each in (x, source, source)]
        q, k, v = (heads_of(d, each, heads) for each in made)
        return q, k, v
    fused = linear(d, x, 3 * width)
    how = d.pick("split", "gather", "slice")
    d.said(f"fused QKV by {how}")
    if how == "split":
        q, k, v = (heads_of(d, each, heads) for each in d.split(fused, 2, width, width, width))
        return q, k, v
    if how == "slice":
        q, k, v = (heads_of(d, d.slice(fused, 2, i * width, (i + 1) * width, width), heads) for i in range(3))
        return q, k, v
    size = width // heads
    sizes = [d.dynamic_size(fused, 0), d.dynamic_size(fused, 1)]
    five = d.reshape(fused, *sizes, 3, heads, size, shape=(n, s, 3, heads, size))
    five = d.transpose(five, 2, 0, 3, 1, 4)
    shape = (n, heads, s, size)
    if d.opset >= 11 and d.chance(0.4):
        parts = d.split(five, 0, 1, 1, 1)
        return tuple(d.squeeze(part, 0) for part in parts)  # type: ignore[return-value]
    return tuple(d.node("Gather", five, np.int64(i), shape=shape, axis=0) for i in range(3))  # type: ignore[return-value]


def rotary(d: Draft, x: Value) -> Value:
    """Rotary positions over the last axis: x cos + rotate_half(x) sin, tables constant and cut to the steps."""
    *_, s, size = x.shape
    if not isinstance(size, int) or size % 2 or d.opset < 10 or (isinstance(s, int) and s > 64):
        return x
    d.said("rotary positions")
    half = size // 2
    angles = np.arange(64)[:, None] / 100.0 ** (np.arange(half) / half)
    tables = [f(np.concatenate([angles, angles], 1)).astype(np.float32) for f in (np.cos, np.sin)]
    if isinstance(s, int):
        cos, sin = (Value(d.constant(table[:s]), (s, size)) for table in tables)
    else:
        positions = d.size_of(x, 2)
        cos, sin = (
            d.node("Slice", table, d.ints(0), positions, d.ints(0), shape=(s, size), dtype="float32")
            for table in tables
        )
    if d.chance(0.5):
        a, b = d.slice(x, 3, 0, half, half), d.slice(x, 3, half, 2**63 - 1, half)
    else:
        a, b = d.split(x, 3, half, half)
    turned = d.node("Concat", d.like(b, "Neg"), a, shape=x.shape, axis=d.pick(-1, 3) if d.opset >= 11 else 3)
    return d.like(x, "Add", d.like(x, "Mul", x, cos), d.like(x, "Mul", turned, sin))


def mask_of(d: Draft, x: Value, scores: Value) -> Value | None:
    """A mask to add to scores (batch, heads, steps, steps), of an input, or causal; -inf, -1e4 or the least float."""
    n, s, _ = x.shape
    least = np.float32(d.pick(-np.inf, -1e4, np.finfo(np.float32).min, -1e9))
    how = d.pick("none", "none", "input", "input bool", "causal", "constant")
    derived = isinstance(s, str) and s != "S"  # not the size of an input
    if how == "none" or d.opset < 10 or (derived and how.startswith("input")):
        return None
    if np.isinf(least):
        d.said("-inf masks")
    d.said(f"mask: {how}")
    if how == "input":
        given = d.input((n, s), d.pick("int64", "int64", "int32"), low=0, high=1)
        wide = d.cast(d.unsqueeze(given, 1, 2), "float32")
        gap = d.like(wide, "Sub", np.float32(1), wide)
        if np.isinf(least):
            least = np.float32(-1e4)
        return d.like(gap, "Mul", gap, least)
    if how == "input bool":
        given = d.unsqueeze(d.input((n, s), "bool", low=0, high=1), 1, 2)
        return d.node("Where", given, np.float32(0), least, shape=given.shape, dtype="float32")
    if how == "constant" and isinstance(s, int):
        return Value(d.constant(np.triu(np.full((1, 1, s, s), least, np.float32), 1)), (1, 1, s, s))
    if d.opset >= 14 and d.chance(0.5):
        ones = d.node("Concat", d.size_of(x, 1), d.size_of(x, 1), shape=(2,), dtype="int64", axis=0)
        full = d.node("Expand", least, ones, shape=(s, s), dtype="float32")
        return d.like(full, "Trilu", full, np.int64(1), upper=1)
    steps = d.node("Squeeze", d.size_of(x, 1), shape=(), dtype="int64")
    places = d.node("Range", np.int64(0), steps, np.int64(1), shape=(s,), dtype="int64")
    if d.opset < 11:
        return None
    later = d.node("Less", d.unsqueeze(places, 1), d.unsqueeze(places, 0), shape=(s, s), dtype="bool")
    return d.node("Where", later, least, np.float32(0), shape=(s, s), dtype="float32")


def attention(d: Draft, x: Value) -> Value:
    """Multi-head attention as exporters write it."""
    n, s, width = x.shape
    assert isinstance(width, int)
    heads = d.pick(2, 2, 4, 1)
    size = width // heads
    source = x
    q, k, v = queries(d, x, heads, source)
    if d.chance(0.3):
        q, k = rotary(d, q), rotary(d, k)
    root = np.float32(size**0.5)
    where = d.pick("q", "scores div", "scores mul", "both")
    if where == "q":
        q = d.like(q, "Mul", q, np.float32(1 / root))
    if where == "both":
        q, k = (d.like(each, "Mul", each, np.float32(root**-0.5)) for each in (q, k))
    turned = d.node("Transpose", k, shape=(n, heads, size, s), perm=[0, 1, 3, 2])
    scores = d.node("MatMul", q, turned, shape=(n, heads, s, s))
    if where == "scores div":
        scores = d.like(scores, "Div", scores, root)
    if where == "scores mul":
        scores = d.like(scores, "Mul", scores, np.float32(1 / root))
    mask = mask_of(d, x, scores)
    if mask is not None:
        scores = d.like(scores, "Add", *d.pick((scores, mask), (mask, scores)))
    shares = d.softmax(scores)
    if d.chance(0.2):
        shares = dropout(d, shares)
    mixed = d.node("MatMul", shares, v, shape=(n, heads, s, size))
    mixed = d.transpose(mixed, 0, 2, 1, 3)
    back = d.pick([0, 0, width], [0, -1, width], [d.dynamic_size(x, 0), d.dynamic_size(x, 1), -1])
    y = d.reshape(mixed, *back, shape=(n, s, width))
    return linear(d, y, width)


def dropout(d: Draft, x: Value) -> Value:
    """Dropout as it stands in a network that was exported for inference."""
    if d.opset < 12:
        return d.like(x, "Dropout", ratio=0.1)
    more = d.pick([], [np.float32(0.1)], [np.float32(0.1), np.bool_(False)])
    return d.like(x, "Dropout", x, *more)


def encoder(d: Draft, x: Value) -> Value:
    """Attention and a feed-forward part, with the normalization before or behind."""
    width = x.shape[-1]
    assert isinstance(width, int)
    before = d.chance(0.5)
    y = attention(d, layer_norm(d, x) if before else x)
    x = d.like(x, "Add", *d.pick((x, y), (y, x)))
    x = x if before else layer_norm(d, x)
    return feed_forward(d, x, before)


def feed_forward(d: Draft, x: Value, before: bool = True) -> Value:
    width = x.shape[-1]
    assert isinstance(width, int)
    z = layer_norm(d, x) if before else x
    hidden = d.pick(width, 2 * width)
    if d.chance(0.2):
        d.said("gated feed-forward")
        gate, up = linear(d, z, hidden, False), linear(d, z, hidden, False)
        y = d.like(up, "Mul", d.like(gate, "Mul", gate, d.like(gate, "Sigmoid")), up)
    else:
        y = linear(d, z, hidden)
        y = gelu(d, y) if d.chance(0.6) else activation(d, y)
    y = linear(d, y, width)
    x = d.like(x, "Add", x, y)
    return x if before else layer_norm(d, x)


def positions(d: Draft, x: Value) -> Value:
    """Adds a table of positions, cut to the steps."""
    _, s, width = x.shape
    assert isinstance(width, int)
    table = (d.rng.standard_normal((1, 64, width)) / 2).astype(np.float32)
    if isinstance(s, int):
        return d.like(x, "Add", x, table[:, :s]) if s <= 64 else x
    if d.opset < 10:
        return x
    end = d.size_of(x, 1)
    part = d.node("Slice", table, d.ints(0), end, d.ints(1), shape=(1, s, width), dtype="float32")
    return d.like(x, "Add", x, part)


def class_token(d: Draft, x: Value) -> Value:
    """A learned token before the others, expanded to the batch."""
    n, s, width = x.shape
    assert isinstance(width, int)
    token = d.weight(1, 1, width)
    if not isinstance(n, int) and d.opset < 8:
        return x
    if isinstance(n, int):
        first: Any = np.tile(d.rng.standard_normal((1, 1, width)), (n, 1, 1)).astype(np.float32)
    else:
        sizes = d.node("Concat", d.size_of(x, 0), d.ints(1), d.ints(width), shape=(3,), dtype="int64", axis=0)
        first = d.node("Expand", token, sizes, shape=(n, 1, width), dtype="float32")
    steps = s + 1 if isinstance(s, int) else f"{s}+1"
    return d.node("Concat", first, x, shape=(n, steps, width), dtype="float32", axis=1)


def recurrent(d: Draft, x: Value) -> Value:
    """LSTM, GRU or RNN, in one or both directions, steps first; all states or the last one."""
    n, s, width = x.shape
    assert isinstance(width, int)
    kind = d.pick("LSTM", "LSTM", "GRU", "GRU", "RNN")
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    directions = d.pick(1, 1, 2)
    hidden = d.pick(4, 8, width)
    y = d.transpose(x, 1, 0, 2)
    inputs: list[Any] = [
        y,
        d.weight(directions, gates * hidden, width, fan=width, kind="plain"),
        d.weight(directions, gates * hidden, hidden, fan=hidden, kind="plain"),
    ]
    if d.chance(0.8):
        inputs.append(d.rng.uniform(-0.2, 0.2, (directions, 2 * gates * hidden)).astype(np.float32))
    states = 2 if kind == "LSTM" else 1
    start = d.pick("absent", "zeros", "computed", "constant", "empty")
    inputs += [None] * (5 - len(inputs))
    shape = (directions, n, hidden)
    if start == "computed" or (start in ("zeros", "constant") and not isinstance(n, int)):
        batch = d.size_of(y, 1)
        sizes = d.node("Concat", d.ints(directions), batch, d.ints(hidden), shape=(3,), dtype="int64", axis=0)
        if start == "constant" and d.opset >= 8:
            h0 = d.node(
                "Expand",
                d.rng.uniform(-0.5, 0.5, (directions, 1, hidden)).astype(np.float32),
                sizes,
                shape=shape,
                dtype="float32",
            )
            inputs += [h0] * states
        elif d.opset >= 9:
            zero = d.node("ConstantOfShape", sizes, shape=shape, dtype="float32")
            inputs += [zero] * states
    elif start == "zeros" and isinstance(n, int):
        inputs += [np.zeros((directions, n, hidden), np.float32) for _ in range(states)]
    elif start == "constant" and isinstance(n, int):
        inputs += [d.rng.uniform(-0.5, 0.5, (directions, n, hidden)).astype(np.float32) for _ in range(states)]
    elif start == "empty":
        d.said("trailing empty inputs")
    while start != "empty" and inputs[-1] is None:
        inputs.pop()
    attributes: dict[str, Any] = {"hidden_size": hidden}
    if directions == 2:
        attributes["direction"] = "bidirectional"
    elif d.chance(0.3):
        attributes["direction"] = d.pick("forward", "reverse")
    if kind == "GRU":
        attributes["linear_before_reset"] = d.pick(0, 1)
    if kind == "RNN" and d.chance(0.4):
        attributes["activations"] = ["Relu"] * directions
    d.said(kind)
    names = d.op(kind, *inputs, outputs=1 + states, **attributes)
    d.types.update(dict.fromkeys(names, "float32"))
    every = Value(names[0], (s, directions, n, hidden))
    if directions == 1 and d.chance(0.2):
        last = Value(names[1], shape)
        summary = d.transpose(last, 1, 0, 2)  # (batch, 1, hidden)
        return d.like(x, "Add", x, linear(d, summary, width))
    if directions == 1:
        z = d.transpose(d.squeeze(every, 1), 1, 0, 2)
    else:
        z = d.transpose(every, 2, 0, 1, 3)
        z = d.reshape(z, 0, 0, 2 * hidden, shape=(n, s, 2 * hidden))
    return z if z.shape == x.shape and d.chance(0.7) else linear(d, z, width)


def cell(d: Draft, x: Value, state: Value, kernel: str, bias: str) -> Value:
    """One step: tanh((x, state) W + b)."""
    n, width = x.shape
    hidden = state.shape[1]
    assert isinstance(width, int) and isinstance(hidden, int)
    both = d.node("Concat", x, state, shape=(n, width + hidden), axis=1)
    y = d.node("MatMul", both, kernel, shape=(n, hidden))
    return d.like(y, "Tanh", d.like(y, "Add", y, bias))


def looped(d: Draft, x: Value) -> Value:
    """A cell in a Loop, as tf2onnx writes it, or in a Scan: weights captured or inside, cond absent sometimes."""
    n, s, width = x.shape
    assert isinstance(width, int)
    hidden = width
    y = d.transpose(x, 1, 0, 2)
    kernel, bias = d.weight(width + hidden, hidden, fan=width, kind="plain"), d.vector(hidden)
    if d.opset < 9:
        return x
    shape = d.node("Concat", d.size_of(y, 1), d.ints(hidden), shape=(2,), dtype="int64", axis=0)
    start = d.node("ConstantOfShape", shape, shape=(n, hidden), dtype="float32")
    if d.chance(0.4):
        d.said("Scan")
        with d.body() as scope:
            state_in, step = Value(d.name("state"), (n, hidden)), Value(d.name("step"), (n, width))
            state = cell(d, step, state_in, kernel, bias)
            shown = d.like(state, "Identity") if d.chance(0.5) else d.like(state, "Mul", state, np.float32(1))
        body = d.graph(scope, [state_in, step], [state, shown])
        names = d.op("Scan", start, y, outputs=2, body=body, num_scan_inputs=1)
        d.types.update(dict.fromkeys(names, "float32"))
        return d.transpose(Value(names[1], (s, n, hidden)), 1, 0, 2)
    d.said("Loop")
    trips = d.node("Squeeze", d.size_of(y, 0), shape=(), dtype="int64")
    condition: Any = np.bool_(True)
    if d.chance(0.4):
        d.said("Loop without cond")
        condition = None
    with d.body() as scope:
        i, go = Value(d.name("i"), (), "int64"), Value(d.name("cond"), (), "bool")
        state_in = Value(d.name("state"), (n, hidden))
        step = d.node("Gather", y, i, shape=(n, width), axis=0)
        state = cell(d, step, state_in, kernel, bias)
        shown = d.like(state, "Identity")
        on = d.like(go, "Identity") if d.chance(0.6) else Value(d.constant(np.bool_(True)), (), "bool")
        if not any(on.name in node.output for node in scope.nodes):
            on = d.like(on, "Identity")
    body = d.graph(scope, [i, go, state_in], [on, state, shown], ranks=True)
    names = d.op("Loop", trips, condition, start, outputs=2, body=body)
    d.types.update(dict.fromkeys(names, "float32"))
    return d.transpose(Value(names[1], (s, n, hidden)), 1, 0, 2)


def along(d: Draft, x: Value) -> Value:
    """A convolution over the steps."""
    width = x.shape[2]
    assert isinstance(width, int)
    y = d.transpose(x, 0, 2, 1)
    group = d.pick(1, width)
    inputs = [y, d.weight(width, width // group, 3)]
    if d.chance(0.7):
        inputs.append(d.vector(width))
    z = d.node("Conv", *inputs, shape=y.shape, pads=[1, 1], group=group)
    return d.transpose(activation(d, z), 0, 2, 1)


def mixed(d: Draft, x: Value) -> Value:
    """What stands between layers: activations, products, cuts and joins of the width."""
    width = x.shape[2]
    assert isinstance(width, int)
    how = d.pick("act", "glu", "einsum", "noise", "mean", "scan", "dropout")
    if how == "act":
        return activation(d, x)
    if how == "glu":
        a, b = d.split(linear(d, x, 2 * width), 2, width, width)
        return d.like(a, "Mul", a, d.like(b, "Sigmoid"))
    if how == "einsum" and d.opset >= 12:
        d.said("Einsum")
        return d.node("Einsum", x, d.weight(width, width), shape=x.shape, equation="bsd,ed->bse")
    if how == "mean":
        return d.like(x, "Sub", x, d.reduce("ReduceMean", x, 1))
    if how == "scan" and d.opset >= 11:
        return d.like(x, "Mul", d.like(x, "CumSum", x, np.int64(1)), np.float32(0.1))
    return dropout(d, x)


PIECES = (
    *[encoder] * 5, attention, feed_forward, feed_forward, layer_norm, recurrent, recurrent, looped, along, mixed,
    mixed, positions, class_token,
)  # fmt: skip
RECURRENT = (*[recurrent] * 6, looped, looped, looped, feed_forward, layer_norm, mixed, along)
