"""Functions and custom operators that are named like ONNX's own mean something else."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import FunctionProto, helper

from lwgraph import ir
from lwgraph.calibrate.layer_shapes import layer_values
from lwgraph.layers.site import find_sites
from lwgraph.passes.quantize.placing.already_quantized import quantized_already
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.passes.quantize.quantize_weights import QuantizeWeights
from lwgraph.passes.quantize.round_weights import RoundWeights
from tests.faults.models import applied, conv, images, in_integers, kernel, model, operators, run, sqnr


def named(op_type: str, body: str, inputs: int = 1) -> FunctionProto:
    """A function of the domain "loc" that is `body` of its first inputs."""
    names = ["a", "b", "c"][:inputs]
    taken = names[: 1 if body in ("Relu", "Neg", "Identity") else 2]
    nodes = [helper.make_node(body, taken, ["r"])]
    return helper.make_function("loc", op_type, names, ["r"], nodes, [helper.make_opsetid("", 17)])


def with_function(op_type: str, body: str, *extra: str) -> ir.Model:
    """Conv, the function, Conv; the function also reads `extra` weights."""
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node(op_type, ["a", *extra], ["b"], "function", domain="loc"),
        conv("b", "w2", "y"),
    ]
    weights = {"w1": kernel(1, 8, 8, 3, 3), "w2": kernel(2, 8, 8, 3, 3), "k": kernel(3, 8, 8, 8, 8)}
    return model(nodes, weights, functions=[named(op_type, body, 1 + len(extra))], infer=False)


@pytest.mark.parametrize("op_type", ["GRU", "LSTM", "Gemm", "MatMul", "Gather", "ConvTranspose"])
def test_a_function_named_like_a_layer_keeps_its_weights(op_type: str) -> None:
    before = with_function(op_type, "Relu", *(["k"] if op_type in ("Gemm", "MatMul", "Gather") else []))
    after, _, count = applied(QuantizeWeights(minimum=64), before)
    assert count == 0
    assert np.array_equal(run(before, images()[0])[0], run(after, images()[0])[0])


@pytest.mark.parametrize("op_type", ["Relu", "Clip", "MaxPool", "Concat", "Softmax", "LSTM", "QuantizeLinear"])
def test_quantize_leaves_a_function_in_float(op_type: str) -> None:
    before, data = with_function(op_type, "Neg"), images()
    after, context, count = applied(Quantize(keep="none"), before, data)
    assert count == 2, context.skipped
    assert f"loc::{op_type}" in operators(after)
    assert {"conv_a", "conv_y"} <= in_integers(after)
    assert sqnr(before, after, data) > 25


def test_a_function_named_QLinearConv_does_not_make_the_model_quantized() -> None:  # noqa: N802 - the operator
    assert quantized_already(with_function("QLinearConv", "Neg")) is None


def test_a_function_named_Add_is_no_bias() -> None:  # noqa: N802 - the operator
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "product"),
        helper.make_node("Add", ["a", "b"], ["y"], "function", domain="loc"),
    ]
    weights = {"w": kernel(1, 8, 16), "b": np.linspace(-1, 1, 16, dtype=np.float32)}
    before = model(nodes, weights, outputs=[("y", 1, (1, 8, 8, 16))], functions=[named("Add", "Mul", 2)], infer=False)
    (site,) = find_sites(before)
    assert len(site.nodes) == 1 and site.bias is None
    assert "y" not in layer_values(before)
    data = images()
    after, _, _ = applied(RoundWeights(), before, data)
    assert np.array_equal(ir.constant(after.graph.initializers["b"]), weights["b"])
    assert sqnr(before, after, data) > 30
