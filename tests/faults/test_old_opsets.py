"""Opsets below 10 are converted for integers, and the report says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.version_converter
import pytest
from onnx import TensorProto, helper

from lwgraph import ir, registry
from lwgraph.errors import ModelError
from lwgraph.passes.quantize.graph.raise_opset import OpsetError, raise_opset
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.rewrite import Pass
from tests.faults.models import applied, conv, images, in_integers, kernel, model, reasons, sqnr

WEIGHTS = {f"w{i}": kernel(i, 8, 8, 3, 3) for i in (1, 2)}


def convolutions(opset: int) -> ir.Model:
    """Conv, Clip with attributes, MaxPool, Conv: as exporters of opset 7 to 9 wrote it."""
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("Clip", ["a"], ["c"], "clip", min=0.0, max=6.0),
        helper.make_node("MaxPool", ["c"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        conv("p", "w2", "y"),
    ]
    return model(nodes, WEIGHTS, outputs=[("y", TensorProto.FLOAT, (1, 8, 4, 4))], opset=opset)


def classifier(opset: int) -> ir.Model:
    """With BatchNormalization, Reshape and a Gemm that broadcasts its bias."""
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("BatchNormalization", ["a", "scale", "shift", "mean", "variance"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["f"]),
        helper.make_node("Gemm", ["f", "g", "bias"], ["y"], "gemm", transB=1),
    ]
    channels = {n: np.abs(kernel(i, 8)) + 0.5 for i, n in enumerate(("scale", "shift", "mean", "variance"), start=5)}
    weights = {**WEIGHTS, **channels, "shape": np.array([1, -1]), "g": kernel(9, 10, 512), "bias": kernel(10, 10)}
    return model(nodes, weights, outputs=[("y", TensorProto.FLOAT, (1, 10))], opset=opset)


@pytest.mark.parametrize("opset", [7, 8, 9])
@pytest.mark.parametrize("made", [convolutions, classifier])
def test_integers_at_an_old_opset(made: Any, opset: int) -> None:
    before, data = made(opset), images()
    after, context, count = applied(Quantize(keep="none"), before, data)
    assert count >= 2 and "conv_a" in in_integers(after), reasons(context)
    assert after.graph.opset_imports[""] == 13 and before.graph.opset_imports[""] == opset
    assert f"quantize converted the model from opset {opset}, which has no integers, to opset 13" in context.warnings
    assert sqnr(before, after, data) > 25


def test_opset_10_is_enough_where_13_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def least(model: ir.Model, wanted: int) -> None:
        if wanted > 10:
            raise OpsetError("no adapter")
        raise_opset(model, wanted)

    monkeypatch.setattr("lwgraph.passes.quantize.quantize.raise_opset", least)
    before, data = convolutions(9), images()
    after, context, count = applied(Quantize(keep="none"), before, data)
    assert count and after.graph.opset_imports[""] == 10
    assert "weights keep one scale per tensor: no adapter" in reasons(context)
    assert sqnr(before, after, data) > 20


def test_nothing_is_said_where_nothing_is_in_integers() -> None:
    before, data = convolutions(8), images()
    after, context, count = applied(Quantize(ignored_scope=("re:.*",)), before, data)
    assert count == 0 and after.graph.opset_imports[""] == 8
    assert not any("converted" in warning for warning in context.warnings)


@pytest.mark.parametrize("text", ["low-rank{rank=2}", "prune-channels{ratio=0.5,multiple=1}"])
def test_a_gemm_keeps_a_bias_where_its_opset_asks_for_one(text: str) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "first", "none"], ["h"], "one", transB=1, beta=0.0),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "second", "none"], ["y"], "two", transB=1),
    ]
    weights = {"first": kernel(1, 8, 12), "second": kernel(2, 8, 8), "none": np.zeros(8, np.float32)}
    made = model(
        nodes, weights, inputs=[("x", TensorProto.FLOAT, ("n", 12))], outputs=[("y", TensorProto.FLOAT, None)], opset=10
    )
    done, _, count = applied(Pass.parse(text), made, [{"x": kernel(i, 4, 12)} for i in range(8)])
    gemms = [node for node in done.graph if node.op_type == "Gemm"]
    assert count and all(len(node.inputs) == 3 and node.inputs[2] is not None for node in gemms)


def test_what_nodes_say_of_themselves_outlives_the_conversion() -> None:
    """Ranges inside a form are told apart by the form that its nodes name."""
    converted = convolutions(9)
    for node in converted.graph:
        node.metadata_props["lwgraph.pass"] = f"made {node.name}"
    raise_opset(converted, 13)
    made = {node.op_type: node.metadata_props.get("lwgraph.pass") for node in converted.graph if node.name}
    assert made["Conv"] == "made conv_y" and made["Clip"] == "made clip" and made["MaxPool"] == "made pool"


def test_what_was_written_of_nodes_and_weights_outlives_the_conversion() -> None:
    """A form's nodes say which form they are, and an exporter's which module they come from; in bodies, too."""
    body = helper.make_graph(
        [helper.make_node("Relu", ["a"], ["b"], "inner", doc_string="in the body")],
        "then",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
    )
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("If", ["yes"], ["y"], "if", then_branch=body, else_branch=body),
    ]
    outputs = [("y", TensorProto.FLOAT, (1, 8, 8, 8))]
    proto = ir.to_proto(model(nodes, {**WEIGHTS, "yes": np.array(True)}, outputs=outputs, opset=9))
    proto.graph.doc_string, proto.graph.node[0].doc_string = "of the graph", "first"
    proto.graph.initializer[0].doc_string = "of the weight"
    helper.set_model_props(proto, {"author": "me"})
    proto.graph.node[0].metadata_props.add(key="lwgraph.pass", value="low-rank{rank=2}")
    after = ir.load(proto)
    raise_opset(after, 13)
    found = ir.to_proto(after)
    assert found.opset_import[0].version == 13 and found.metadata_props[0].value == "me"
    first, branch = found.graph.node[0], found.graph.node[1].attribute[0].g
    assert first.metadata_props[0].value == "low-rank{rank=2}" and first.doc_string == "first"
    assert branch.node[0].doc_string == "in the body" and branch.node[0].name == "inner"
    assert found.graph.doc_string == "of the graph"
    assert {w.doc_string for w in found.graph.initializer if w.name == proto.graph.initializer[0].name} == {
        "of the weight"
    }


@pytest.mark.parametrize("version", [3, 8])
def test_the_converter_is_not_given_the_weights(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It copies what it gets several times; before IR version 4 weights are inputs, too, and stay so."""
    converted = convolutions(9)
    if version == 3:
        converted.graph.inputs.extend(converted.graph.initializers.values())
        for value in converted.graph.initializers.values():
            tensor = value.const_value
            assert tensor is not None
            value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
    converted.ir_version = version
    before = {name: value.const_value for name, value in converted.graph.initializers.items()}
    inputs = [value.name for value in converted.graph.inputs]
    given, convert = list[int](), onnx.version_converter.convert_version

    def watched(proto: onnx.ModelProto, wanted: int) -> onnx.ModelProto:
        given.append(max((t.ByteSize() for t in proto.graph.initializer), default=0))
        return convert(proto, wanted)

    monkeypatch.setattr("onnx.version_converter.convert_version", watched)
    raise_opset(converted, 13)
    large = {name: tensor for name, tensor in before.items() if tensor is not None and tensor.nbytes >= 1024}
    assert large and given[0] < 1024
    assert [value.name for value in converted.graph.inputs] == inputs
    assert all(converted.graph.initializers[name].const_value is tensor for name, tensor in large.items())
    onnx.checker.check_model(ir.to_proto(converted))


@pytest.mark.parametrize("length", [4, 0])
@pytest.mark.parametrize("known", [True, False])
def test_a_softmax_over_an_empty_axis_outlives_the_conversion(known: bool, length: int) -> None:
    """Before opset 13 it is over all axes from one on; where the rank is not known the sizes are put back by a Reshape,
    to which 0 says to copy."""
    nodes = [
        helper.make_node("Reshape", ["x", "sizes"], ["r"]) if not known else helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Softmax", ["r"], ["y"], axis=3),
    ]
    inputs = [("x", TensorProto.FLOAT, (1, 2, "n", "m")), *([] if known else [("sizes", TensorProto.INT64, ("k",))])]
    old = model(nodes, {}, inputs=inputs, outputs=[("y", TensorProto.FLOAT, None)], opset=12)
    new = ir.clone(old)
    raise_opset(new, 13)
    assert new.graph.opset_imports[""] == (13 if known else 14)
    shape = (1, 2, length, length)
    feeds: dict[str, Any] = {"x": kernel(1, *shape) if length else np.zeros(shape, np.float32)}
    if not known:
        feeds["sizes"] = np.array(shape if length else [1, 2, 0, 0], np.int64)
    run = registry.executor("ort").prepare
    found, wanted = (run(m)(feeds)["y"] for m in (new, old))
    assert found.shape == wanted.shape == shape
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_what_is_older_than_onnx_runtime_is_told_how_to_raise() -> None:
    """The advice is followed, too: what comes of it runs."""
    nodes = [
        helper.make_node("BatchNormalization", ["x", "s", "s", "s", "s"], ["n"], is_test=1),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    old = model(nodes, {"s": np.ones(8, np.float32)}, opset=6)
    executor = registry.executor("ort")
    cure = r"BatchNormalization.*opset 6: raise it with onnx\.version_converter\.convert_version\(model, 17\)"
    with pytest.raises(ModelError, match=cure):
        executor.prepare(old)
    raised = executor.prepare(ir.load(onnx.version_converter.convert_version(ir.to_proto(old), 17)))
    x = images(1)[0]["x"]
    wanted = np.maximum(1 + (x - 1) / np.sqrt(1 + 1e-5), 0)
    np.testing.assert_allclose(raised({"x": x})["y"], wanted, rtol=1e-4, atol=1e-6)
