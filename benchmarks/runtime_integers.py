"""Integer operators of the reference executor against ONNX Runtime, bit for bit, over random shapes and parameters.

    python -m benchmarks.runtime_integers [COUNT [FIRST_SEED]]

Operators: QLinearConv, ConvInteger, QLinearMatMul, MatMulInteger, QuantizeLinear, DequantizeLinear. Every case has its
own seed, so a failure can be repeated alone.
"""

from __future__ import annotations

import collections
import sys
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from lwgraph import ir, registry
from lwgraph.errors import ModelError

Rng = np.random.Generator
Built = tuple[ir.Model, dict[str, Any]]
BYTES = (np.uint8, np.int8)


def _model(op: str, fed: dict[str, Any], constants: dict[str, Any], order: list[str], **attributes: Any) -> Built:
    kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in fed.items()}
    graph = helper.make_graph(
        [helper.make_node(op, order, ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info(name, kinds[name], array.shape) for name, array in fed.items()],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)), fed


def _array(rng: Rng, shape: tuple[int, ...], dtype: Any) -> Any:
    info = np.iinfo(dtype)
    if rng.random() < 0.15:
        return rng.choice([info.min, info.max], shape).astype(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def _zero(rng: Rng, dtype: Any) -> Any:
    info = np.iinfo(dtype)
    return np.array(rng.choice([0, info.min, info.max, int(rng.integers(info.min, info.max + 1))]), dtype)


def _scale(rng: Rng, size: int | None = None) -> Any:
    return np.exp(rng.uniform(-7, 1, size)).astype(np.float32)


def _conv(rng: Rng, limit: int) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    spatial = int(rng.integers(1, 3))
    kernel = [int(rng.integers(1, 4)) for _ in range(spatial)]
    dilations = [int(rng.integers(1, 3)) for _ in range(spatial)]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    group = int(rng.choice([1, 1, 2, 4]))
    channels, outputs = int(rng.integers(1, 9)), int(rng.integers(1, 12))
    if rng.random() < 0.25:  # depthwise
        group, channels, outputs = int(rng.integers(2, 20)), 1, 1
    size = [r + int(rng.integers(0, limit)) for r in reach]
    attributes = {
        "group": group,
        "dilations": dilations,
        "kernel_shape": kernel,
        "strides": [int(rng.integers(1, 3)) for _ in range(spatial)],
        "pads": [int(rng.integers(0, r)) for r in reach + reach],
    }
    batch = int(rng.integers(1, 3))
    return (batch, channels * group, *size), (outputs * group, channels, *kernel), attributes


def qlinear_conv(rng: Rng) -> Built:
    x_shape, w_shape, attributes = _conv(rng, 20)
    x_type, w_type = rng.choice(BYTES), rng.choice(BYTES)
    outputs = w_shape[0]
    per_channel = rng.random() < 0.5
    w_zero = np.full(outputs if per_channel else (), 0 if rng.random() < 0.6 else int(_zero(rng, w_type)), w_type)
    constants = {
        "xs": _scale(rng),
        "xz": _zero(rng, x_type),
        "w": _array(rng, w_shape, w_type),
        "ws": _scale(rng, outputs if per_channel else None),
        "wz": w_zero,
        "ys": _scale(rng),
        "yz": _zero(rng, x_type),
    }
    order = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    if rng.random() < 0.5:
        constants["b"] = rng.integers(-(1 << 18), 1 << 18, outputs).astype(np.int32)
        order.append("b")
    return _model("QLinearConv", {"x": _array(rng, x_shape, x_type)}, constants, order, **attributes)


def conv_integer(rng: Rng) -> Built:
    x_shape, w_shape, attributes = _conv(rng, 20)
    w_type = np.uint8 if rng.random() < 0.7 else np.int8
    x_type = np.uint8
    constants = {"w": _array(rng, w_shape, w_type), "xz": _zero(rng, x_type), "wz": _zero(rng, w_type)}
    return _model("ConvInteger", {"x": _array(rng, x_shape, x_type)}, constants, ["x", "w", "xz", "wz"], **attributes)


def _matrices(rng: Rng) -> tuple[tuple[int, ...], tuple[int, ...]]:
    m, k, n = (int(rng.integers(1, top)) for top in (40, 300, 70))
    batch = tuple(int(rng.integers(1, 4)) for _ in range(int(rng.integers(0, 3))))
    return (*batch, m, k), (k, n) if rng.random() < 0.6 else (*batch, k, n)


def qlinear_matmul(rng: Rng) -> Built:
    a_shape, b_shape = _matrices(rng)
    a_type, b_type = rng.choice(BYTES), rng.choice(BYTES)
    columns = b_shape[-1] if rng.random() < 0.4 and len(b_shape) == 2 else None
    b_zero = _zero(rng, b_type)
    constants = {
        "as": _scale(rng),
        "az": _zero(rng, a_type),
        "b": _array(rng, b_shape, b_type),
        "bs": _scale(rng, columns),
        "bz": b_zero if columns is None else np.full(columns, b_zero),
        "ys": _scale(rng),
        "yz": _zero(rng, a_type),
    }
    order = ["a", "as", "az", "b", "bs", "bz", "ys", "yz"]
    return _model("QLinearMatMul", {"a": _array(rng, a_shape, a_type)}, constants, order)


def matmul_integer(rng: Rng) -> Built:
    a_shape, b_shape = _matrices(rng)
    a_type, b_type = rng.choice(BYTES), rng.choice(BYTES)
    columns = b_shape[-1] if rng.random() < 0.4 and len(b_shape) == 2 else None
    b_zero = _zero(rng, b_type) if columns is None else np.array([_zero(rng, b_type) for _ in range(columns)])
    constants = {"b": _array(rng, b_shape, b_type), "az": _zero(rng, a_type), "bz": b_zero}
    return _model("MatMulInteger", {"a": _array(rng, a_shape, a_type)}, constants, ["a", "b", "az", "bz"])


def quantize_linear(rng: Rng) -> Built:
    shape = tuple(int(rng.integers(1, 9)) for _ in range(int(rng.integers(1, 5))))
    dtype = rng.choice(BYTES)
    axis = int(rng.integers(0, len(shape)))
    count = shape[axis] if rng.random() < 0.5 else None
    zero = np.array([_zero(rng, dtype) for _ in range(count)]) if count else _zero(rng, dtype)
    x = (rng.standard_normal(shape) * rng.choice([1, 50, 1e6])).astype(np.float32)
    if rng.random() < 0.3:
        x = (np.round(x * 2) / 2).astype(np.float32)  # ties
    scale = _scale(rng, count) if rng.random() < 0.6 else np.ones(count or (), np.float32)
    return _model("QuantizeLinear", {"x": x}, {"s": scale, "z": zero}, ["x", "s", "z"], axis=axis)


def dequantize_linear(rng: Rng) -> Built:
    shape = tuple(int(rng.integers(1, 9)) for _ in range(int(rng.integers(1, 5))))
    dtype = rng.choice(BYTES)
    axis = int(rng.integers(0, len(shape)))
    count = shape[axis] if rng.random() < 0.5 else None
    zero = np.array([_zero(rng, dtype) for _ in range(count)]) if count else _zero(rng, dtype)
    constants = {"s": _scale(rng, count), "z": zero}
    return _model("DequantizeLinear", {"x": _array(rng, shape, dtype)}, constants, ["x", "s", "z"], axis=axis)


CASES = [qlinear_conv, conv_integer, qlinear_matmul, matmul_integer, quantize_linear, dequantize_linear]


def check(seed: int) -> tuple[str, bool]:
    """One case: its operator, and whether ONNX Runtime has a kernel for it; AssertionError when a bit differs."""
    make = CASES[seed % len(CASES)]
    model, feeds = make(np.random.default_rng(seed))
    try:
        want = registry.executor("ort").prepare(model)(feeds)["y"]
    except ModelError:
        return make.__name__, False
    got = registry.executor("reference", threads=1 + seed % 2).prepare(model)(feeds)["y"]
    assert got.dtype == want.dtype, (seed, got.dtype, want.dtype)
    np.testing.assert_array_equal(got, want, err_msg=f"seed {seed}")
    return make.__name__, True


def main(count: int, first: int) -> None:
    """Run `count` cases and print how many agree, per operator."""
    agree: collections.Counter[str] = collections.Counter()
    skipped: collections.Counter[str] = collections.Counter()
    failed = []
    for seed in range(first, first + count):
        try:
            name, ran = check(seed)
        except AssertionError as error:
            failed.append(f"seed {seed} ({CASES[seed % len(CASES)].__name__}): {' '.join(str(error).split())[:150]}")
            continue
        (agree if ran else skipped)[name] += 1
    for make in CASES:
        name = make.__name__
        print(f"{name:18} {agree[name]:5} agree bit for bit, {skipped[name]} have no kernel in ONNX Runtime")
    print(f"{sum(agree.values())} of {count} cases (seeds {first} to {first + count - 1}) agree; {len(failed)} differ")
    print(*failed[:20], sep="\n")


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[1:]]
    main(*(numbers + [3000, 0][len(numbers) :]))
