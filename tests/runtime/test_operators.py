"""Our operators against ONNX Runtime, with attributes that onnx's backend tests leave out."""

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from benchmarks import runtime_integers
from lwgraph import ir, registry
from tests.runtime.models import model

F = TensorProto.FLOAT
RNG = np.random.default_rng(0)


def one(op: str, inputs: list[Any], opset: int = 18, outputs: int = 1, **attributes: Any) -> tuple[ir.Model, dict]:
    """A model of one node, its first input fed, the others constant; None is an absent input."""
    names = ["" if array is None else f"i{k}" for k, array in enumerate(inputs)]
    constants = {name: array for name, array in zip(names[1:], inputs[1:], strict=True) if name}
    shape = inputs[0].shape
    kind = helper.np_dtype_to_tensor_dtype(inputs[0].dtype)
    results = [f"y{k}" for k in range(outputs)]
    node = helper.make_node(op, names, results, **attributes)
    return model([node], {"i0": (kind, shape)}, results, constants, opset=opset), {"i0": inputs[0]}


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


CASES: dict[str, tuple[ir.Model, dict]] = {}


def case(name: str, op: str, inputs: list[Any], **options: Any) -> None:
    CASES[f"{op}-{name}"] = one(op, inputs, **options)


for auto_pad in ("SAME_UPPER", "SAME_LOWER", "VALID"):
    case(auto_pad, "Conv", [normal(1, 3, 9, 8), normal(4, 3, 3, 2)], auto_pad=auto_pad, strides=[2, 2])
    case(auto_pad, "MaxPool", [normal(1, 3, 9, 8)], kernel_shape=[3, 2], auto_pad=auto_pad, strides=[2, 1])
    case(auto_pad, "AveragePool", [normal(1, 3, 9, 8)], kernel_shape=[3, 2], auto_pad=auto_pad, strides=[2, 1])
    case(auto_pad, "ConvTranspose", [normal(1, 3, 5, 4), normal(3, 4, 3, 3)], auto_pad=auto_pad, strides=[2, 2])
case("1d", "Conv", [normal(2, 6, 19), normal(4, 3, 5), normal(4)], group=2, dilations=[2], strides=[3], pads=[2, 1])
case("3d", "Conv", [normal(1, 2, 5, 6, 7), normal(3, 2, 2, 3, 2)], pads=[1, 0, 1, 0, 1, 1], strides=[1, 2, 1])
case("depthwise", "Conv", [normal(2, 8, 14, 15), normal(8, 1, 5, 5)], group=8, pads=[2] * 4, strides=[2, 1])
case("multiplier", "Conv", [normal(1, 4, 9, 9), normal(12, 1, 3, 3), normal(12)], group=4, dilations=[2, 2])
case("1x1", "Conv", [normal(2, 16, 7, 7), normal(24, 16, 1, 1), normal(24)])
case("pixel", "Conv", [normal(3, 16, 1, 1), normal(24, 16, 1, 1), normal(24)])
case("stride", "ConvTranspose", [normal(1, 4, 6, 5), normal(4, 3, 4, 3), normal(3)], strides=[3, 2], pads=[1, 0, 2, 1])
case("group", "ConvTranspose", [normal(2, 4, 6, 5), normal(4, 2, 3, 3)], group=2, dilations=[2, 1], strides=[2, 3])
case("output", "ConvTranspose", [normal(1, 2, 4), normal(2, 3, 3)], strides=[3], output_padding=[2])
case("shape", "ConvTranspose", [normal(1, 2, 4, 4), normal(2, 3, 3, 3)], strides=[2, 2], output_shape=[10, 9])
case("wide", "GatherElements", [normal(1, 200), RNG.integers(-200, 200, (1, 90))], axis=1)
case("row", "GatherElements", [normal(9, 80, 3), RNG.integers(0, 9, (4, 70, 3))], axis=0)
case("ceil", "MaxPool", [normal(1, 2, 10, 11)], kernel_shape=[3, 3], strides=[2, 3], ceil_mode=1, pads=[1, 0, 1, 1])
case("ceil", "AveragePool", [normal(1, 2, 10, 11)], kernel_shape=[3, 3], strides=[2, 3], ceil_mode=1, pads=[1, 0, 1, 1])
case("count", "AveragePool", [normal(1, 2, 10)], kernel_shape=[4], strides=[2], pads=[2, 1], count_include_pad=1)
case("p3", "LpPool", [normal(1, 2, 9, 9)], kernel_shape=[3, 2], p=3, strides=[2, 2])
case("global", "GlobalAveragePool", [normal(2, 5, 7, 9)])
case("global", "GlobalMaxPool", [normal(2, 5, 7)])
case("vectors", "MatMul", [normal(7), normal(7)])
case("left", "MatMul", [normal(7), normal(3, 7, 4)])
case("batch", "MatMul", [normal(2, 1, 5, 7), normal(3, 7, 4)])
for flags in ((0, 0), (1, 0), (0, 1), (1, 1)):
    a = normal(6, 5) if not flags[0] else normal(5, 6)
    b = normal(5, 9) if not flags[1] else normal(9, 5)
    case(f"{flags}", "Gemm", [a, b, normal(6, 1)], transA=flags[0], transB=flags[1], alpha=0.5, beta=2.0)
    case(f"{flags}-plain", "Gemm", [a, b, normal(9)], transA=flags[0], transB=flags[1])
for mode in ("nearest", "linear", "cubic"):
    for transform in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"):
        case(
            f"{mode}-{transform}",
            "Resize",
            [normal(1, 2, 5, 6), None, None, integers(1, 2, 9, 4)],
            mode=mode,
            coordinate_transformation_mode=transform,
        )
case("scales", "Resize", [normal(1, 2, 5, 6), None, np.array([1, 1, 1.7, 2.3], np.float32)], mode="linear")
for rounding in ("floor", "ceil", "round_prefer_ceil", "round_prefer_floor"):
    case(rounding, "Resize", [normal(1, 2, 5, 6), None, None, integers(1, 2, 8, 9)], nearest_mode=rounding)
case(
    "exclude",
    "Resize",
    [normal(1, 1, 5, 6), None, None, integers(1, 1, 9, 4)],
    mode="cubic",
    exclude_outside=1,
    cubic_coeff_a=-0.5,
)
case("9", "Upsample", [normal(1, 2, 3, 4), np.array([1, 1, 2, 3], np.float32)], opset=9, mode="nearest")
for mode in ("constant", "reflect", "edge"):
    case(mode, "Pad", [normal(2, 4, 5), integers(0, 1, 2, 1, 2, 1)], mode=mode)
case("crop", "Pad", [normal(4, 5), integers(1, -2, -1, 1), np.array(3, np.float32)])
case("axes", "Pad", [normal(4, 5), integers(1, 2), np.array(3, np.float32), integers(-1)])
case("backwards", "Slice", [normal(7, 6), integers(-1, 4), integers(-99, 0), integers(0, 1), integers(-2, -1)])
case("uneven", "Split", [normal(7, 3)], outputs=3, num_outputs=3, axis=0)
case("12", "Softmax", [normal(3, 4, 5)], opset=12, axis=1)
case("13", "Softmax", [normal(3, 4, 5)], axis=1)
case("13", "LogSoftmax", [normal(3, 4, 5)], axis=0)
case("axes", "ReduceMean", [normal(3, 4, 5), integers(0, -1)], keepdims=0)
case("all", "ReduceSum", [normal(3, 4, 5)], keepdims=1)
case("13", "ReduceMax", [normal(3, 4, 5)], opset=13, axes=[1])
case("axis", "LayerNormalization", [normal(3, 4, 5), normal(4, 5), normal(4, 5)], axis=1)
case("6", "Clip", [normal(9)], opset=6, min=-0.5, max=0.25)
case("11", "Clip", [normal(9), None, np.array(0.25, np.float32)])
case("square", "Pow", [normal(9), np.array(2, np.float32)])
case("CRD", "DepthToSpace", [normal(1, 8, 3, 2)], blocksize=2, mode="CRD")
for direction in ("forward", "reverse", "bidirectional"):
    n = 1 + (direction == "bidirectional")
    weights = [normal(n, 20, 4), normal(n, 20, 5), normal(n, 40)]
    state = [None, normal(n, 2, 5), normal(n, 2, 5), normal(n, 15)]
    case(direction, "LSTM", [normal(6, 2, 4), *weights], outputs=3, hidden_size=5, direction=direction)
    case(
        f"{direction}-state", "LSTM", [normal(6, 2, 4), *weights, *state], outputs=3, hidden_size=5, direction=direction
    )
for op in ("Sigmoid", "Tanh", "HardSigmoid", "LeakyRelu", "Exp", "Relu", "HardSwish"):
    case("large", op, [normal(9, 8) * 30])


@pytest.mark.parametrize("precise", [False, True], ids=["", "precise"])
@pytest.mark.parametrize("name", CASES)
def test_against_onnx_runtime(name: str, precise: bool) -> None:
    m, feeds = CASES[name]
    want = registry.executor("ort").prepare(m)(feeds)
    run = registry.executor("reference", precise=precise).prepare(m)
    got = run(feeds)
    for key, array in want.items():
        assert got[key].shape == array.shape and got[key].dtype == array.dtype
        np.testing.assert_allclose(got[key], array, rtol=2e-5, atol=2e-5)


def test_integer_operators_bit_for_bit() -> None:
    names = {runtime_integers.check(seed) for seed in range(90)}
    assert len([name for name, ran in names if ran]) == len(runtime_integers.CASES)


def test_integer_comparison_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    from lwgraph.runtime import kernels

    exact = kernels.matmul_integer
    monkeypatch.setattr(kernels, "matmul_integer", lambda *a, **k: exact(*a, **k) + np.int32(1))
    with pytest.raises(AssertionError):
        runtime_integers.check(3)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats(dtype: Any) -> None:
    for op, inputs in (("Conv", [normal(1, 3, 6, 6), normal(4, 3, 3, 3)]), ("MatMul", [normal(4, 9), normal(9, 3)])):
        m, feeds = one(op, [array.astype(dtype) for array in inputs])
        got = registry.executor("reference").prepare(m)(feeds)["y0"]
        exact, wide = one(op, [array.astype(dtype).astype(np.float64) for array in inputs])
        want = registry.executor("reference").prepare(exact)(wide)["y0"]
        assert got.dtype == dtype
        np.testing.assert_allclose(got, want, rtol=1e-3 if dtype == np.float16 else 1e-12, atol=1e-12)
