"""Random kernel calls, valid and invalid: the compiled kernels must compute what NumPy's do, or both raise ValueError.

    python -m benchmarks.runtime_fuzz [COUNT [FIRST_SEED]]      on every instruction set of this processor

Each case is a function of a random generator that returns a call; the tests run some hundred seeds.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from lwgraph.runtime import kernels

Rng = np.random.Generator
Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
# The large ones are such that no sum of products of them overflows: whether that is infinite, or NaN where an infinity
# of the other sign is added, depends on the order of the sum and on fused multiply-adds, which differ by right.
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e16, -1e16, 1e-38])


def _int(rng: Rng, low: int, high: int) -> int:
    return int(rng.integers(low, high + 1))


def _size(rng: Rng, high: int) -> int:
    """Usually 1 to high; sometimes 0."""
    return 0 if rng.random() < 0.03 else _int(rng, 1, high)


def _floats(rng: Rng, shape: tuple[int, ...], dtype: Any, special: bool) -> Any:
    array = rng.standard_normal(shape)
    if special and array.size:
        where = rng.random(shape) < 0.02
        array[where] = rng.choice(SPECIAL, int(where.sum()))
    with np.errstate(over="ignore"):
        array = array.astype(dtype)
    return _layout(rng, array)


def _bytes(rng: Rng, shape: tuple[int, ...]) -> Any:
    dtype = rng.choice([np.uint8, np.int8])
    info = np.iinfo(dtype)
    extreme = rng.random() < 0.2
    values = rng.choice([info.min, info.max], shape) if extreme else rng.integers(info.min, info.max + 1, shape)
    return _layout(rng, values.astype(dtype))


def _layout(rng: Rng, array: Any) -> Any:
    """Sometimes the same values in a non-contiguous array."""
    kind = rng.random()
    if kind < 0.15 and array.ndim:
        return np.asfortranarray(array)
    if kind < 0.3 and array.ndim:
        wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
        wide[..., ::2] = array
        return wide[..., ::2]
    return array


def _byte_zero(rng: Rng, dtype: Any) -> int:
    info = np.iinfo(dtype)
    return int(rng.choice([0, info.min, info.max, _int(rng, info.min, info.max)]))


def _window(rng: Rng, spatial: int, valid: bool) -> dict[str, list[int]]:
    small = [(_int(rng, 1, 3), _int(rng, 1, 3)) for _ in range(spatial)]
    fields = {
        "strides": [s for s, _ in small],
        "dilations": [d for _, d in small],
        "pads": [_int(rng, -1 if rng.random() < 0.1 else 0, 3) for _ in range(2 * spatial)],
    }
    if not valid:
        name = str(rng.choice(list(fields)))
        bad = rng.choice(["short", "zero", "huge", "negative"])
        if bad == "short":
            fields[name] = fields[name][:-1]
        else:
            at = _int(rng, 0, len(fields[name]) - 1)
            fields[name][at] = {"zero": 0, "huge": 1 << 40, "negative": -(1 << 33)}[str(bad)]
    return fields


def _conv_shapes(rng: Rng, valid: bool) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    spatial = _int(rng, 1, 3)
    limit = {1: 150, 2: 30, 3: 9}[spatial]
    group = int(rng.choice([1, 1, 1, 2, 3, 5]))
    channels, outputs = (_int(rng, 1, 1), _int(rng, 1, 2)) if rng.random() < 0.3 else (_size(rng, 9), _size(rng, 21))
    kernel = tuple(_int(rng, 1, 4) for _ in range(spatial))
    x = (_size(rng, 3), channels * group, *(_size(rng, limit) for _ in range(spatial)))
    w = (outputs * group, channels, *kernel)
    if not valid and rng.random() < 0.5:
        w = (*w[:1], w[1] + 1, *w[2:]) if rng.random() < 0.5 else (w[0] + (group > 1), *w[1:])
    return x, w, group


def conv(rng: Rng, valid: bool) -> Call:
    x, w, group = _conv_shapes(rng, valid)
    dtype = rng.choice([np.float32, np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
    special = rng.random() < 0.3
    bias = _floats(rng, w[:1], dtype, special) if rng.random() < 0.5 else None
    if not valid and bias is not None:
        bias = bias[:-1]
    args = (_floats(rng, x, dtype, special), _floats(rng, w, dtype, special), bias)
    return kernels.conv, args, {**_window(rng, len(x) - 2, valid), "group": group, "precise": bool(rng.random() < 0.3)}


def conv_transpose(rng: Rng, valid: bool) -> Call:
    x, w, group = _conv_shapes(rng, valid)
    w = (x[1], max(w[0] // group, 1), *w[2:])
    dtype = rng.choice([np.float32, np.float64])
    special = rng.random() < 0.1
    bias = _floats(rng, (w[1] * group,), dtype, False) if rng.random() < 0.5 else None
    args = (_floats(rng, x, dtype, special), _floats(rng, w, dtype, special), bias)
    window = _window(rng, len(x) - 2, valid)
    extra = [_int(rng, 0, max(s - 1, 0)) if s < 9 else 0 for s in window["strides"]]
    return kernels.conv_transpose, args, {**window, "output_padding": extra, "group": group}


def pool(rng: Rng, valid: bool) -> Call:
    spatial = _int(rng, 1, 3)
    x = (_size(rng, 2), _size(rng, 5), *(_size(rng, {1: 150, 2: 40, 3: 9}[spatial]) for _ in range(spatial)))
    kind = str(rng.choice(["max", "average", "norm"]))
    options = {
        **_window(rng, spatial, valid),
        "kernel": [_int(rng, 1, 4) for _ in range(spatial)],
        "ceil": bool(rng.random() < 0.4),
        "count_pad": bool(rng.random() < 0.5),
        "p": float(rng.choice([1, 2, 3])),
    }
    if kind == "max" and rng.random() < 0.4:
        return kernels.pool, (kind, _bytes(rng, x)), options
    dtype = rng.choice([np.float32, np.float32, np.float64, np.float16])
    return kernels.pool, (kind, _floats(rng, x, dtype, rng.random() < 0.3)), options


def shift(rng: Rng, valid: bool) -> Call:
    spatial = _int(rng, 1, 3)
    x = (_size(rng, 2), _size(rng, 5), *(_size(rng, 9) for _ in range(spatial)))
    dtype = rng.choice([np.float32, np.float64, np.float16, np.uint8, ml_dtypes.bfloat16])
    offsets = rng.integers(-3, 4, (x[1] + (not valid), spatial))
    strides = [_int(rng, 1, 3) for _ in range(spatial)]
    return kernels.shift, (_floats(rng, x, np.float32, False).astype(dtype), offsets), {"strides": strides}


def _matrices(rng: Rng, valid: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    m, k, n = _size(rng, 60), _size(rng, int(rng.choice([9, 600]))), _size(rng, 130)
    batch = tuple(_int(rng, 1, 3) for _ in range(_int(rng, 0, 2)))
    other = rng.random()
    if other < 0.3:
        left, right = batch, ()
    elif other < 0.6:
        left, right = batch, tuple(1 if rng.random() < 0.5 else b for b in batch)
    else:
        left, right = batch[len(batch) // 2 :], batch
    return (*left, m, k), (*right, k + (not valid and rng.random() < 0.7), n)


def matmul(rng: Rng, valid: bool) -> Call:
    a, b = _matrices(rng, valid)
    dtype = rng.choice([np.float32, np.float32, np.float64, np.float16])
    special = rng.random() < 0.2
    right = _floats(rng, b, dtype, special)
    if len(b) == 2 and rng.random() < 0.4:
        right = np.asfortranarray(right)
    c = _floats(rng, (b[-1],), dtype, False) if rng.random() < 0.3 else None
    return kernels.matmul, (_floats(rng, a, dtype, special), right, c), {"precise": bool(rng.random() < 0.3)}


def _output(rng: Rng, scale: Any) -> dict[str, Any]:
    if rng.random() < 0.3:
        return {}
    dtype = rng.choice([np.uint8, np.int8])
    return {"scale": scale, "y_zero": dtype(_byte_zero(rng, dtype))}


def conv_integer(rng: Rng, valid: bool) -> Call:
    x, w, group = _conv_shapes(rng, valid)
    left, right = _bytes(rng, x), _bytes(rng, w)
    zeros = (
        [_byte_zero(rng, right.dtype) for _ in range(w[0])]
        if rng.random() < 0.5 and w[0]
        else _byte_zero(rng, right.dtype)
    )
    bias = rng.integers(-(1 << 20), 1 << 20, w[0]).astype(np.int32) if rng.random() < 0.5 else None
    count = 1 if rng.random() < 0.3 else max(w[0], 1)
    scale = np.exp(rng.uniform(-9, 1, count)).astype(np.float32)
    options = {
        **_window(rng, len(x) - 2, valid),
        **_output(rng, scale),
        "group": group,
        "bias": bias,
        "x_zero": _byte_zero(rng, left.dtype) if valid else 300,
        "w_zero": zeros,
        "saturate": bool(rng.random() < 0.3),
    }
    return kernels.conv_integer, (left, right), options


def matmul_integer(rng: Rng, valid: bool) -> Call:
    a, b = _matrices(rng, valid)
    left, right = _bytes(rng, a), _bytes(rng, b)
    if len(b) == 2 and rng.random() < 0.4:
        right = np.asfortranarray(right)
    a_zero = (
        [_byte_zero(rng, left.dtype) for _ in range(a[-2])]
        if rng.random() < 0.4 and a[-2]
        else _byte_zero(rng, left.dtype)
    )
    b_zero = (
        [_byte_zero(rng, right.dtype) for _ in range(b[-1])]
        if rng.random() < 0.4 and b[-1]
        else _byte_zero(rng, right.dtype)
    )
    shape = [(1,), (max(b[-1], 1),), (max(a[-2], 1), 1)][_int(rng, 0, 2)]
    scale = np.exp(rng.uniform(-9, 1, shape)).astype(np.float32)
    options = {**_output(rng, scale), "a_zero": a_zero, "b_zero": b_zero, "saturate": bool(rng.random() < 0.3)}
    if not valid:
        options["a_zero"] = [0] * (a[-2] + 2)
    return kernels.matmul_integer, (left, right), options


def _scales(rng: Rng, shape: tuple[int, ...], valid: bool) -> tuple[tuple[int, ...], int, int]:
    axis = _int(rng, 0, len(shape) - 1)
    kind = _int(rng, 0, 2)
    if not valid:
        return (shape[axis] + 1, 2), axis, 0
    if kind == 0:
        return (), axis, 0
    if kind == 1:
        return (shape[axis],), axis, 0
    block = _int(rng, 1, max(shape[axis], 1))
    return (*shape[:axis], -(-shape[axis] // block), *shape[axis + 1 :]), axis, block


def quantize(rng: Rng, valid: bool) -> Call:
    shape = tuple(_size(rng, 9) for _ in range(_int(rng, 1, 4)))
    dtype = rng.choice([np.uint8, np.int8, np.uint16, np.int16])
    scales, axis, block = _scales(rng, shape, valid)
    info = np.iinfo(dtype)
    zero = rng.integers(info.min, info.max + 1, scales).astype(dtype) if rng.random() < 0.7 else None
    with np.errstate(over="ignore"):
        x = (_floats(rng, shape, np.float32, True) * rng.choice([1, 100, 30000])).astype(np.float32)
    scale = np.exp(rng.uniform(-4, 1, scales)).astype(np.float32)
    return kernels.quantize, (x, scale, zero, dtype), {"axis": axis, "block": block}


def dequantize(rng: Rng, valid: bool) -> Call:
    shape = tuple(_size(rng, 9) for _ in range(_int(rng, 1, 4)))
    dtype = rng.choice([np.uint8, np.int8, np.uint16, np.int16, np.int32])
    scales, axis, block = _scales(rng, shape, valid)
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max, shape, endpoint=True).astype(dtype)
    zero = (
        rng.integers(info.min // 2, info.max // 2, scales, endpoint=True).astype(dtype) if rng.random() < 0.7 else None
    )
    scale = np.exp(rng.uniform(-4, 1, scales)).astype(np.float32)
    return kernels.dequantize, (_layout(rng, x), scale, zero), {"axis": axis, "block": block}


CASES = [conv, conv_transpose, pool, shift, matmul, conv_integer, matmul_integer, quantize, dequantize]


def outcome(call: Call, backend: str, threads: int = 1) -> Any:
    """The result, or the ValueError."""
    kernels.backend(backend)
    function, args, options = call
    try:
        return function(*args, **options, threads=threads)
    except ValueError as error:
        return error
    finally:
        kernels.backend("compiled")


def compare(call: Call, got: Any, want: Any) -> None:
    """AssertionError when two outcomes differ by more than the rounding of sums in another order."""
    name = call[0].__name__
    if isinstance(want, ValueError) or isinstance(got, ValueError):
        assert isinstance(want, ValueError) and isinstance(got, ValueError), (name, got, want)
        return
    assert got.dtype == want.dtype and got.shape == want.shape, (name, got.dtype, want.dtype, got.shape, want.shape)
    if got.dtype.kind in "iu" or name == "shift":
        np.testing.assert_array_equal(got.view(np.uint8), want.view(np.uint8))
        return
    tolerance = {8: 1e-12, 4: 2e-5, 2: 1e-2 if got.dtype == np.float16 else 2e-2}[got.dtype.itemsize]
    got, want = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(want)
    # values near the largest float32 overflow or not depending on the order of the sum
    huge = ~finite & np.isinf(want) | (np.abs(want) > 1e37)
    np.testing.assert_array_equal(np.isnan(got[~huge]), np.isnan(want[~huge]))
    ordinary = finite & ~huge & np.isfinite(got)
    assert (np.isfinite(got) | ~finite | huge).all()
    size = math.sqrt(max((a.size for a in call[1] if isinstance(a, np.ndarray)), default=1))
    np.testing.assert_allclose(got[ordinary], want[ordinary], rtol=tolerance, atol=tolerance * min(size, 50))


def check(seed: int, backends: tuple[str, str] = ("compiled", "numpy")) -> str:
    """One random call, valid three times out of four, by both backends, with one or two threads; returns its name."""
    rng = np.random.default_rng(seed)
    call = CASES[seed % len(CASES)](rng, bool(rng.random() < 0.75))
    with np.errstate(all="ignore"):
        compare(call, outcome(call, backends[0], threads=1 + seed % 2), outcome(call, backends[1]))
    return call[0].__name__


def main(count: int, first: int) -> int:
    """Run the cases on every level; returns how many failed."""
    failed = 0
    for level in kernels.compiled.levels():
        kernels.compiled.level(level)
        for seed in range(first, first + count):
            try:
                check(seed)
            except AssertionError as error:
                failed += 1
                print(f"{level}, seed {seed}: {' '.join(str(error).split())[:200]}")
        print(f"{level}: seeds {first} to {first + count - 1} done")
    return failed


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[1:]]
    raise SystemExit(bool(main(*(numbers + [5000, 0][len(numbers) :]))))
