"""Outputs of a Softmax, judged by what it reads."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir, registry
from lwgraph.executor import untimed
from lwgraph.measure.distance import Distance
from lwgraph.passes.quantize.judging.before_softmax import Logits, has_logits

ORT = registry.executor("ort")
X = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)


def classifier(kind="Softmax", opset=17, tail=(), bias=0.0, outputs=("y",), **attributes):
    """y = kind(x w + bias), and nodes behind it."""
    weight = np.random.default_rng(1).standard_normal((5, 6)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["z"]),
        helper.make_node(kind, ["z"], ["p" if tail else "y"], **attributes),
        *tail,
    ]
    arrays = {"w": weight, "b": np.float32(bias), "scale": np.float32(1 / 255), "zero": np.uint8(0)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4, 5])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    return ir.load(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)]))


def logits(model, outputs=None):
    return Logits(ORT).prepare(model, outputs)({"x": X})


@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
def test_what_the_softmax_reads_comes_centred_under_the_outputs_name(kind):
    model = classifier(kind)
    z = ORT.prepare(model, ["z"])({"x": X})["z"]
    assert has_logits(model)
    ((name, found),) = logits(model).items()
    assert name == "y"
    np.testing.assert_allclose(found, z - z.mean(-1, keepdims=True), atol=1e-6)
    assert found.dtype == np.float32


def test_a_common_shift_of_all_classes_is_no_error():
    distance = Distance(Logits(ORT).prepare(classifier()), [{"x": X}])
    assert distance(Logits(ORT).prepare(classifier(bias=3.0))) < 1e-10


def test_before_opset_13_a_softmax_looks_at_all_axes_from_its_own_on():
    model = classifier(opset=11)
    z = ORT.prepare(model, ["z"])({"x": X})["z"]
    np.testing.assert_allclose(logits(model)["y"], z - z.mean((1, 2), keepdims=True), atol=1e-6)


def test_a_softmax_in_integers_is_found_behind_its_grid():
    tail = [
        helper.make_node("QuantizeLinear", ["p", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    np.testing.assert_allclose(logits(classifier(tail=tail))["y"], logits(classifier())["y"], atol=1e-6)


@pytest.mark.parametrize(
    "read",
    [
        [helper.make_node("Relu", ["p"], ["y"])],
        [helper.make_node("Identity", ["p"], ["y"]), helper.make_node("Relu", ["y"], ["r"])],
    ],
)
def test_a_softmax_that_others_read_is_left_alone(read):
    """In the second the graph returns the probabilities, but goes on with them, too."""
    outputs = ("y", "r") if len(read) > 1 else ("y",)
    model = classifier(tail=read, outputs=outputs)
    assert not has_logits(model)
    plain = ORT.prepare(model)({"x": X})
    for name, array in logits(model).items():
        np.testing.assert_array_equal(array, plain[name])


def test_inner_values_are_given_as_they_are_and_the_twin_is_one_of_these():
    model = classifier()
    np.testing.assert_array_equal(logits(model, ["z"])["z"], ORT.prepare(model, ["z"])({"x": X})["z"])
    assert isinstance(untimed(Logits(ORT)), Logits) and Logits(ORT).name == "ort"


def test_what_a_mask_holds_at_minus_infinity_counts_for_nothing():
    mask = np.array([0, -np.inf, 0, 0, -np.inf, 0], np.float32)
    model = classifier(bias=mask)
    z = ORT.prepare(model, ["z"])({"x": X})["z"]
    kept = np.isfinite(mask)
    found = logits(model)["y"]
    assert found.dtype == np.float32 and not found[..., ~kept].any()
    np.testing.assert_allclose(found[..., kept], z[..., kept] - z[..., kept].mean(-1, keepdims=True), atol=1e-6)
    assert Distance(Logits(ORT).prepare(model), [{"x": X}])(Logits(ORT).prepare(model)) == 0
    everything = np.full(6, -np.inf, np.float32)
    assert not logits(classifier(bias=everything))["y"].any()
