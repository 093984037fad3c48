"""float16, float64 and mixed models keep their types; what has no known rank is not asked for channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from lwgraph import ir, registry
from lwgraph.calibrate.ranges import collect
from lwgraph.passes.quantize.absorb_bias import AbsorbBias
from lwgraph.passes.quantize.equalize import Equalize
from lwgraph.passes.quantize.half import Half
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.passes.quantize.quantize_weights import QuantizeWeights
from lwgraph.passes.quantize.round_weights import RoundWeights
from lwgraph.passes.quantize.smooth_quant import SmoothQuant
from lwgraph.rewrite import Pass
from tests.faults.models import IMAGE, Array, applied, conv, images, in_integers, kernel, model, reasons, sqnr

F16, F32, F64 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE
NUMPY: dict[int, Any] = {F16: np.float16, F32: np.float32, F64: np.float64}


def cast(x: str, y: str, to: int) -> NodeProto:
    return helper.make_node("Cast", [x], [y], f"cast_{y}", to=to)


def chain(dtype: int, product: bool = False) -> ir.Model:
    """Two layers in a row in one type."""
    relu = helper.make_node("Relu", ["a"], ["r"])
    if product:
        nodes = [helper.make_node("MatMul", ["x", "w1"], ["a"], "conv_a"), relu]
        nodes.append(helper.make_node("MatMul", ["r", "w2"], ["y"], "conv_y"))
        weights = {n: kernel(i, 8, 8, dtype=NUMPY[dtype]) for i, n in enumerate(("w1", "w2"))}
    else:
        nodes = [conv("x", "w1", "a"), relu, conv("r", "w2", "y")]
        weights = {n: kernel(i, 8, 8, 3, 3, dtype=NUMPY[dtype]) for i, n in enumerate(("w1", "w2"))}
    return model(nodes, weights, inputs=[("x", dtype, IMAGE)], outputs=[("y", dtype, IMAGE)])


def mixed(outer: int, inner: int, infer: bool = True) -> ir.Model:
    """Conv in one type; Conv, Relu, Conv in another; Conv, Conv in the first again."""
    nodes = [
        conv("x", "o1", "a"),
        cast("a", "b", inner),
        conv("b", "i1", "c"),
        helper.make_node("Relu", ["c"], ["r"]),
        conv("r", "i2", "d"),
        cast("d", "e", outer),
        conv("e", "o2", "f"),
        conv("f", "o3", "y"),
    ]
    weights = {f"o{i}": kernel(i, 8, 8, 3, 3, dtype=NUMPY[outer]) for i in (1, 2, 3)}
    weights |= {f"i{i}": kernel(3 + i, 8, 8, 3, 3, dtype=NUMPY[inner]) for i in (1, 2)}
    return model(nodes, weights, inputs=[("x", outer, IMAGE)], outputs=[("y", outer, IMAGE)], infer=infer)


MODELS: dict[str, tuple[ir.Model, int]] = {
    "float16": (chain(F16), F16),
    "float64 products": (chain(F64, product=True), F64),
    "float16 products": (chain(F16, product=True), F16),
    "float16 in float32": (mixed(F32, F16), F32),
    "float32 in float16": (mixed(F16, F32), F16),
    "no recorded types": (mixed(F32, F16, infer=False), F32),
}
PASSES: list[Pass] = [
    Quantize(keep="none"),
    Quantize(),
    Equalize(),
    AbsorbBias(),
    SmoothQuant(),
    RoundWeights(),
    QuantizeWeights(minimum=1),
    QuantizeWeights(minimum=1, bits=4),
    Half(minimum=1),
    Half(activations=True),
    Half(activations=True, keep_io=False),
]


@pytest.mark.parametrize("pass_", PASSES, ids=str)
@pytest.mark.parametrize("name", list(MODELS))
def test_each_part_keeps_its_type(name: str, pass_: Pass) -> None:
    before, dtype = MODELS[name]
    data = images(dtype=NUMPY[dtype])
    after, _, _ = applied(pass_, before, data)
    if isinstance(pass_, Half) and not pass_.keep_io:
        return
    assert sqnr(before, after, data) > (10 if getattr(pass_, "bits", 8) == 4 else 25)


@pytest.mark.parametrize("name", ["float16", "float64 products", "float16 products"])
def test_quantize_says_why_it_leaves_a_model_alone(name: str) -> None:
    before, dtype = MODELS[name]
    after, context, count = applied(Quantize(), before, images(dtype=NUMPY[dtype]))
    assert count == 0 and not in_integers(after)
    assert "it has no layer that ort-cpu computes in integers: none is float32" in reasons(context)


def test_quantize_takes_the_float32_part() -> None:
    for name, wanted in (("float16 in float32", {"conv_a", "conv_f", "conv_y"}), ("float32 in float16", set())):
        before, dtype = MODELS[name]
        after, context, _ = applied(Quantize(keep="none"), before, images(dtype=NUMPY[dtype]))
        found = in_integers(after)
        assert ("conv_c: its input is not float32" in reasons(context)) == bool(wanted)
        assert found >= wanted and not found & ({"conv_c", "conv_d"} if wanted else {"conv_a", "conv_y"}), found


def squeezed() -> ir.Model:
    """PyTorch's squeeze of an axis of unknown size: an If whose branches differ in rank."""
    branch = [
        helper.make_graph([node], name, [], [helper.make_tensor_value_info(f"{name}_y", F32, None)])
        for name, node in (
            ("then", helper.make_node("Squeeze", ["a", "two"], ["then_y"])),
            ("else", helper.make_node("Identity", ["a"], ["else_y"])),
        )
    ]
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("Shape", ["a"], ["shape"]),
        helper.make_node("Gather", ["shape", "two"], ["size"]),
        helper.make_node("Equal", ["size", "one"], ["flat"]),
        helper.make_node("If", ["flat"], ["q"], "if", then_branch=branch[0], else_branch=branch[1]),
        helper.make_node("MatMul", ["q", "m1"], ["h"], "product"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "m2"], ["y"], "last"),
    ]
    weights: dict[str, Array] = {"w1": kernel(1, 8, 8, 3, 3), "m1": kernel(2, 16, 16), "m2": kernel(3, 16, 4)}
    weights |= {"one": np.array([1], np.int64), "two": np.array([2], np.int64)}
    output = helper.make_tensor_value_info("y", F32, None)
    return model(nodes, weights, inputs=[("x", F32, (1, 8, "h", 16))], outputs=[output])


def old_softmax() -> ir.Model:
    """Softmax before opset 13, over all axes from the second on."""
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("Softmax", ["a"], ["s"], "softmax", axis=1),
        conv("s", "w2", "b"),
        helper.make_node("Softmax", ["b"], ["y"], "last", axis=2),
    ]
    weights = {"w1": kernel(1, 8, 8, 3, 3), "w2": 40 * kernel(2, 8, 8, 3, 3)}
    shape = ("n", 8, "h", "w")
    return model(nodes, weights, inputs=[("x", F32, shape)], outputs=[("y", F32, shape)], opset=12)


def of_one_axis() -> ir.Model:
    """Products of a vector: one axis, which the channels are."""
    nodes = [
        helper.make_node("MatMul", ["x", "m1"], ["h"], "product"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "m2"], ["y"], "last"),
    ]
    weights = {"m1": kernel(1, 16, 32), "m2": kernel(2, 32, 8)}
    return model(nodes, weights, inputs=[("x", F32, (16,))], outputs=[("y", F32, (8,))])


@pytest.mark.parametrize("pass_", [PASSES[i] for i in (0, 1, 2, 3, 4, 5, 6, 9)], ids=str)
@pytest.mark.parametrize(
    "before, shape",
    [(squeezed(), (1, 8, 1, 16)), (squeezed(), (1, 8, 3, 16)), (old_softmax(), (2, 8, 6, 5)), (of_one_axis(), (16,))],
    ids=["squeezed", "not squeezed", "softmax", "vector"],
)
def test_ranks_are_not_guessed(before: ir.Model, shape: tuple[int, ...], pass_: Pass) -> None:
    data = images(shape=shape)
    after, _, _ = applied(pass_, before, data)
    assert sqnr(before, after, data) > 20


def test_the_channels_of_a_vector_are_its_elements() -> None:
    data = images(3, (16,))
    seen = collect(of_one_axis(), data, registry.executor("ort"), ["x"], channels={"x": -1})["x"]
    stacked = np.stack([feeds["x"] for feeds in data]).astype(np.float64)
    assert seen.channel_mean == pytest.approx(stacked.mean(0))
    assert seen.channel_square == pytest.approx(np.square(stacked).mean(0))
    assert seen.channel_low == pytest.approx(stacked.min(0)) and seen.channel_high == pytest.approx(stacked.max(0))


def test_channels_of_float16_are_those_of_its_axis() -> None:
    data = images(2, dtype=np.float16)
    seen = collect(chain(F16), data, registry.executor("ort"), ["x"], channels={"x": 1})["x"]
    stacked = np.concatenate([feeds["x"] for feeds in data]).astype(np.float64)
    assert seen.channel_mean == pytest.approx(stacked.mean((0, 2, 3)), abs=1e-4)
