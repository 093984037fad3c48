"""Operators of com.microsoft in the reference executor against ONNX Runtime, which defines them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from lwgraph import ir, registry
from lwgraph.errors import ModelError
from tests.runtime.models import model

RNG = np.random.default_rng(3)


def f(*shape: int, scale: float = 1.0) -> Any:
    return (scale * RNG.standard_normal(shape)).astype(np.float32)


def u8(*shape: int) -> Any:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def i8(*shape: int) -> Any:
    return RNG.integers(-127, 128, shape, dtype=np.int8)


def s(value: float) -> Any:
    return np.float32(value)


def z(value: int, dtype: Any = np.uint8) -> Any:
    return np.asarray(value, dtype)


def i32(*values: Any) -> Any:
    return np.asarray(values[0] if len(values) == 1 else values, np.int32)


X, H = f(2, 5, 8), f(3, 4, 8)
IMAGE, NHWC = u8(2, 3, 6, 7), u8(2, 6, 7, 3)
IDS = i32([[1, 2, 3, 0, 0], [4, 5, 6, 7, 1]])
MASK = i32([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
PAST = f(2, 2, 2, 3, 4)
GRIDS = [f(2, 16) ** 2 / 50, 0 * i8(2, 16), f(2, 16) ** 2 / 50, 0 * i8(2, 16)]  # of the weights of an LSTM, by columns
ONE_GRID = [f(1) ** 2 / 50, u8(1), f(1) ** 2 / 50, u8(1)]
# The name of the case: inputs (the first is fed, the others are constants), attributes, number of outputs.
CASES: dict[str, tuple[list[Any], dict[str, Any], int]] = {
    "Gelu": ([X], {}, 1),
    "BiasGelu": ([X, f(8)], {}, 1),
    "FastGelu": ([X], {}, 1),
    "FastGelu bias": ([X, f(8)], {}, 1),
    "QuickGelu": ([X], {"alpha": 1.5}, 1),
    "QuickGelu default": ([X], {}, 1),
    "FusedMatMul": ([X, f(2, 8, 3)], {"alpha": 0.5}, 1),
    "FusedMatMul transposed": ([f(2, 8, 5), f(2, 3, 8)], {"transA": 1, "transB": 1, "alpha": 2.0}, 1),
    "FusedMatMul batches": ([f(5, 2, 8), f(8, 2, 3)], {"transBatchA": 1, "transBatchB": 1}, 1),
    "FusedMatMul batches transposed": ([f(8, 2, 5), f(2, 8, 3)], {"transBatchA": 1, "transA": 1}, 1),
    "FusedMatMul vector": ([f(8), f(8, 3)], {"alpha": 3.0}, 1),
    "TransposeMatMul": ([f(8, 5), f(8, 3)], {"transA": 1}, 1),
    "FusedGemm Relu": ([f(4, 8), f(8, 3), f(3)], {"activation": "Relu"}, 1),
    "FusedGemm LeakyRelu": ([f(4, 8), f(3, 8)], {"activation": "LeakyRelu", "activation_alpha": 0.3, "transB": 1}, 1),
    "FusedGemm HardSigmoid": (
        [f(4, 8), f(8, 3), f(3)],
        {"activation": "HardSigmoid", "activation_alpha": 0.1, "activation_beta": 0.4, "alpha": 0.5, "beta": 2.0},
        1,
    ),
    "FusedConv Relu": ([f(1, 3, 6, 6), f(4, 3, 3, 3), f(4)], {"activation": "Relu", "pads": [1] * 4}, 1),
    "FusedConv sum": ([f(1, 3, 6, 6), f(4, 3, 1, 1), f(4), f(1, 4, 6, 6)], {"activation": "Relu"}, 1),
    "FusedConv Clip": (
        [f(1, 3, 6, 6), f(4, 3, 3, 3)],
        {"activation": "Clip", "activation_params": [-0.5, 1.0], "strides": [2, 2]},
        1,
    ),
    "FusedConv LeakyRelu": (
        [f(1, 3, 6, 6), f(4, 3, 3, 3)],
        {"activation": "LeakyRelu", "activation_params": [0.2]},
        1,
    ),
    "FusedConv HardSigmoid": (
        [f(1, 3, 6, 6), f(4, 3, 3, 3)],
        {"activation": "HardSigmoid", "activation_params": [0.3, 0.4]},
        1,
    ),
    "SimplifiedLayerNormalization": ([X, f(8)], {"epsilon": 1e-3}, 1),
    "SkipLayerNormalization": ([X, f(2, 5, 8), f(8), f(8), f(8)], {"epsilon": 1e-3}, 1),
    "SkipLayerNormalization sum": ([X, f(5, 8), f(8), None, f(8)], {}, 4),
    "SkipSimplifiedLayerNormalization": ([X, f(2, 5, 8), f(8), f(8)], {"epsilon": 1e-3}, 4),
    "EmbedLayerNormalization": (
        [IDS, IDS % 2, f(9, 8), f(6, 8), f(2, 8), f(8), f(8), MASK],
        {"epsilon": 1e-5},
        2,
    ),
    "EmbedLayerNormalization places": (
        [IDS, None, f(9, 8), f(6, 8), None, f(8), f(8), None, i32([[4, 3, 2, 1, 0]])],
        {},
        3,
    ),
    "Attention": ([X, f(8, 24), f(24)], {"num_heads": 2}, 1),
    "Attention lengths": ([X, f(8, 24), f(24), i32([3, 5])], {"num_heads": 2}, 1),
    "Attention ends and starts": ([X, f(8, 24), f(24), i32([3, 5, 1, 2])], {"num_heads": 2}, 1),
    "Attention mask": ([X, f(8, 24), f(24), MASK], {"num_heads": 2, "mask_filter_value": -50.0, "scale": 0.3}, 1),
    "Attention causal": ([X, f(8, 24), f(24), MASK], {"num_heads": 2, "unidirectional": 1}, 1),
    "Attention square mask": ([X, f(8, 24), f(24), np.tri(5, dtype=np.int32)[None].repeat(2, 0)], {"num_heads": 4}, 1),
    "Attention past": ([X, f(8, 24), f(24), None, PAST], {"num_heads": 2, "unidirectional": 1}, 2),
    "Attention sizes": ([X, f(8, 20), f(20)], {"num_heads": 2, "qkv_hidden_sizes": [8, 8, 4]}, 1),
    "Attention bias": ([X, f(8, 24), f(24), None, None, f(1, 2, 5, 5)], {"num_heads": 2}, 1),
    "MultiHeadAttention": ([X, f(2, 4, 8), f(2, 4, 6)], {"num_heads": 2}, 1),
    "MultiHeadAttention bias": (
        [X, f(2, 4, 8), f(2, 4, 6), f(22), i32([[1, 1, 0, 0], [1, 1, 1, 0]])],
        {"num_heads": 2},
        1,
    ),
    "MultiHeadAttention heads": ([X, f(2, 2, 4, 4), f(2, 2, 4, 4)], {"num_heads": 2, "scale": 0.7}, 1),
    "MultiHeadAttention past": (
        [X, f(2, 5, 8), f(2, 5, 8), None, None, f(1, 2, 5, 8), f(2, 2, 3, 4), f(2, 2, 3, 4)],
        {"num_heads": 2, "unidirectional": 1},
        3,
    ),
    "DynamicQuantizeMatMul": ([f(4, 8), u8(8, 3), s(0.02), z(120), f(3)], {}, 1),
    "DynamicQuantizeMatMul columns": ([f(2, 4, 8), i8(8, 3), f(3) ** 2, i8(3)], {}, 1),
    "DynamicQuantizeMatMul zeros": ([0 * f(4, 8), i8(8, 3), s(0.02), None, f(3)], {}, 1),
    "MatMulIntegerToFloat": ([u8(2, 4, 8), i8(8, 3), s(0.1), f(3) ** 2, z(7), i8(3), f(3)], {}, 1),
    "MatMulIntegerToFloat signed": ([i8(4, 8), i8(8, 3), s(0.1), s(0.2)], {}, 1),
    "DynamicQuantizeLSTM": (
        [f(7, 3, 5), u8(1, 5, 16), u8(1, 4, 16), f(1, 32), None, None, None, None, *ONE_GRID],
        {"hidden_size": 4},
        3,
    ),
    "DynamicQuantizeLSTM columns": (
        [f(7, 3, 5), i8(2, 5, 16), i8(2, 4, 16), f(2, 32), i32([7, 4, 2]), f(2, 3, 4), f(2, 3, 4), f(2, 12), *GRIDS],
        {"hidden_size": 4, "direction": "bidirectional"},
        3,
    ),
    "QLinearAdd": ([u8(2, 5), s(0.1), z(100), u8(5), s(0.2), z(3), s(0.3), z(60)], {}, 1),
    "QLinearAdd signed": (
        [i8(2, 5), s(0.113), z(-9, np.int8), i8(2, 1), s(0.217), z(5, np.int8), s(0.217), z(-3, np.int8)],
        {},
        1,
    ),
    "QLinearMul": ([u8(2, 5), s(0.1), z(100), u8(2, 5), s(0.2), z(3), s(2.3), z(60)], {}, 1),
    "QLinearConcat": ([u8(2, 3), s(0.3), z(10), s(0.2), z(9), u8(2, 4), s(0.1), z(128)], {"axis": 1}, 1),
    "QLinearWhere": (
        [RNG.integers(0, 2, (2, 3)).astype(bool), u8(2, 3), s(0.2), z(9), u8(3), s(0.1), z(128), s(0.3), z(10)],
        {},
        1,
    ),
    "QLinearSigmoid": ([u8(50), s(0.05), z(128), s(1 / 256), z(0)], {}, 1),
    "QLinearLeakyRelu": ([i8(50), s(0.05), z(3, np.int8), s(0.04), z(-7, np.int8)], {"alpha": 0.2}, 1),
    "QLinearAveragePool": ([IMAGE, s(0.05), z(99), s(0.04), z(90)], {"kernel_shape": [3, 3], "pads": [1] * 4}, 1),
    "QLinearAveragePool last": (
        [NHWC, s(0.05), z(99), s(0.04), z(90)],
        {"kernel_shape": [2, 3], "strides": [2, 2], "channels_last": 1, "ceil_mode": 1},
        1,
    ),
    "QLinearAveragePool pad": (
        [IMAGE, s(0.05), z(99), s(0.04), z(90)],
        {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1},
        1,
    ),
    "QLinearGlobalAveragePool": ([IMAGE, s(0.05), z(99), s(0.04), z(90)], {}, 1),
    "QLinearGlobalAveragePool last": ([NHWC, s(0.05), z(99), s(0.04), z(90)], {"channels_last": 1}, 1),
    "QLinearSoftmax": ([u8(4, 10), s(0.05), z(99), s(1 / 256), z(0)], {"opset": 13}, 1),
    "QLinearSoftmax old": ([u8(2, 3, 4), s(0.05), z(99), s(1 / 256), z(0)], {"opset": 11, "axis": 1}, 1),
    "QLinearConv last": (
        [NHWC, s(0.05), z(99), i8(4, 3, 3, 3), f(4) ** 2 / 100, 0 * i8(4), s(0.5), z(128), i32(5, -6, 7, 80)],
        {"channels_last": 1, "pads": [1] * 4},
        1,
    ),
    "NhwcMaxPool": ([NHWC], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}, 1),
    "QGemm": ([u8(4, 8), s(0.05), z(99), i8(8, 3), s(0.02), z(0, np.int8), i32(5, 6, 7), s(0.1), z(128)], {}, 1),
    "QGemm floats": (
        [u8(8, 4), s(0.05), z(99), i8(3, 8), f(3) ** 2, 0 * i8(3)],
        {"transA": 1, "transB": 1, "alpha": 0.5},
        1,
    ),
    "QAttention": (
        [u8(2, 5, 8), i8(8, 24), f(24), s(0.02), s(0.01), i32([3, 5]), z(120), z(0, np.int8)],
        {"num_heads": 2},
        1,
    ),
    "MatMulNBits": ([f(4, 40), u8(3, 3, 8), f(3, 3) ** 2], {"N": 3, "K": 40, "block_size": 16, "bits": 4}, 1),
    "MatMulNBits zeros": (
        [f(2, 4, 40), u8(3, 3, 8), f(3, 3) ** 2, u8(3, 2), None, f(3)],
        {"N": 3, "K": 40, "block_size": 16, "bits": 4},
        1,
    ),
    "MatMulNBits 8 bits": ([f(4, 32), u8(3, 2, 16), f(3, 2) ** 2], {"N": 3, "K": 32, "block_size": 16, "bits": 8}, 1),
    "QuantizeLinear": ([f(4, 5), s(0.02), z(120)], {}, 1),
    "DequantizeLinear": ([i8(4, 5), f(5) ** 2, 0 * i8(5)], {"axis": 1}, 1),
}


def built(name: str, **more: Any) -> tuple[ir.Model, dict[str, Any]]:
    """A model of one node, and its feed."""
    inputs, attributes, outputs = CASES[name]
    op_type = name.split()[0]
    names = ["" if each is None else f"i{k}" for k, each in enumerate(inputs)]
    constants = {n: each for n, each in zip(names[1:], inputs[1:], strict=True) if n}
    if op_type == "QLinearConcat":  # its first tensor stands behind the grid of the output
        names = [names[3], names[4], names[0], names[1], names[2], *names[5:]]
    names = names[: max(k for k, each in enumerate(names) if each) + 1]
    wanted = ["y0", "", "", "y3"] if op_type.startswith("Skip") and outputs == 4 else [f"y{k}" for k in range(outputs)]
    domain = "" if op_type == "SimplifiedLayerNormalization" else "com.microsoft"
    node = helper.make_node(op_type, names, wanted, domain=domain, name="n", **attributes, **more)
    kind = helper.np_dtype_to_tensor_dtype(inputs[0].dtype)
    made = model(
        [node],
        {"i0": (kind, inputs[0].shape)},
        [n for n in wanted if n],
        constants,
        opset=17,
        ir_version=8,
        domains=["com.microsoft"],
    )
    return made, {"i0": inputs[0]}


@pytest.mark.parametrize("name", CASES)
def test_against_onnx_runtime(name: str) -> None:
    made, feed = built(name)
    theirs = registry.executor("ort", optimize=False).prepare(made)(feed)
    ours = registry.executor("reference").prepare(made)(feed)
    assert list(ours) == list(theirs)
    for key, want in theirs.items():
        got = ours[key]
        assert got.dtype == want.dtype and got.shape == want.shape, key
        if want.dtype in (np.uint8, np.int8):
            away = np.abs(got.astype(int) - want.astype(int))
            assert away.max() <= 1 and (away > 0).mean() < 0.05, (key, away)
        else:
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5, err_msg=key)


def test_what_is_not_ours_is_refused_by_its_name() -> None:
    made, _ = built("Attention", do_rotary=1)
    with pytest.raises(ModelError, match=r"cannot run com\.microsoft\.Attention 'n'"):
        registry.executor("reference").prepare(made)
