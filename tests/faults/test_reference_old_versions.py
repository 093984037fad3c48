"""Operators in old versions, and attributes that exporters seldom write: the reference against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir
from lwgraph.errors import ModelError
from tests.faults.both import both

RNG = np.random.default_rng(0)
BOTH = {"direction": "bidirectional"}


def kind_of(array: Any) -> int:
    return TensorProto.STRING if array.dtype == object else helper.np_dtype_to_tensor_dtype(array.dtype)


def named(*functions: str) -> dict[str, list[str]]:
    return {"activations": list(functions)}


def x(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def agree(op: str, inputs: list[Any], opset: int, outputs: int = 1, ml: bool = False, **attributes: Any) -> Any:
    """Both executors on one node; the type of an output is left to them."""
    feeds = {f"i{k}": value for k, value in enumerate(inputs)}
    domain = "ai.onnx.ml" if ml else ""
    names = [f"o{k}" for k in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, list(feeds), names, domain=domain, **attributes)],
        "g",
        [helper.make_tensor_value_info(name, kind_of(a), a.shape) for name, a in feeds.items()],
        [onnx.ValueInfoProto(name=name) for name in names],
    )
    opsets = (
        [helper.make_opsetid("", 13), helper.make_opsetid(domain, opset)] if ml else [helper.make_opsetid("", opset)]
    )
    return both(ir.load(helper.make_model(graph, opset_imports=opsets, ir_version=8)), feeds)


def cell(gates: int, directions: int = 1) -> list[Any]:
    """Three steps of two samples, and the weights of a layer of five."""
    return [x(3, 2, 4), x(directions, gates * 5, 4), x(directions, gates * 5, 5), x(directions, 2 * gates * 5)]


@pytest.mark.parametrize("opset", [7, 14])
@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("RNN", {"activations": ["Relu"]}),
        ("RNN", {"activations": ["LeakyRelu"], "activation_alpha": [0.2]}),
        ("RNN", {**BOTH, **named("Affine", "ScaledTanh"), "activation_alpha": [0.4, 2], "activation_beta": [0.1, 1]}),
        ("RNN", {"clip": 0.2, "direction": "reverse"}),
        ("GRU", {"linear_before_reset": 1}),
        ("GRU", {"direction": "reverse", "clip": 0.3}),
        ("GRU", {"activations": ["HardSigmoid", "Softsign"]}),
        ("GRU", {**BOTH, "linear_before_reset": 1, **named(*["Sigmoid", "Elu"] * 2), "activation_alpha": [0.3, 0.7]}),
        ("LSTM", {"input_forget": 1}),
        ("LSTM", {**BOTH, "clip": 0.3}),
        ("LSTM", {"activations": ["HardSigmoid", "ThresholdedRelu", "Softplus"], "activation_alpha": [0.2, 0.4]}),
    ],
)  # fmt: skip
def test_recurrent_layers(op: str, attributes: dict[str, Any], opset: int) -> None:
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[op]
    agree(op, cell(gates, directions), opset, 3 if op == "LSTM" else 2, hidden_size=5, **attributes)


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_samples_that_are_shorter(op: str) -> None:
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[op]
    inputs = [*cell(gates, 2), np.array([2, 3], np.int32), x(2, 2, 5)]
    inputs += [x(2, 2, 5), x(2, 15)] if op == "LSTM" else []
    found = agree(op, inputs, 14, 3 if op == "LSTM" else 2, hidden_size=5, direction="bidirectional")
    assert not found["o0"][2, :, 0].any()  # the third step of the first sample, which has two


@pytest.mark.parametrize("opset", [7, 11])
def test_hardmax_over_all_axes_from_one_on(opset: int) -> None:
    assert agree("Hardmax", [x(2, 3, 4)], opset, axis=1)["o0"].sum() == 2


@pytest.mark.parametrize(("opset", "kind"), [(7, np.float32), (9, np.float32), (10, bool)])
def test_the_mask_of_an_old_dropout(opset: int, kind: Any) -> None:
    assert agree("Dropout", [x(2, 3)], opset, 2)["o1"].dtype == kind


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("opset", [7, 22])
def test_a_norm_of_signed_values(p: int, opset: int) -> None:
    try:
        assert (agree("LpNormalization", [np.zeros((1, 3), np.float32)], opset, p=p)["o0"] == 0).all()
    except ModelError as error:
        if "Could not find an implementation" in str(error):
            pytest.skip(f"this ONNX Runtime has no LpNormalization of opset {opset}")
        raise
    agree("LpNormalization", [x(2, 4, 3)], opset, p=p, axis=1)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("scales", [[1, 1, 2.5, 2], [1, 1, 0.5, 0.7], [1, 1, 0.4, 3]])
def test_resize_10(mode: str, scales: list[float]) -> None:
    agree("Resize", [x(1, 2, 5, 6), np.float32(scales)], 10, mode=mode)


@pytest.mark.parametrize("given", [2, 3, 4, 5])
@pytest.mark.parametrize("centred", [0, 1])
def test_suppression_without_all_of_its_thresholds(given: int, centred: int) -> None:
    boxes, scores = RNG.random((2, 12, 4), np.float32), RNG.random((2, 3, 12), np.float32)
    inputs = [boxes, scores, np.array([4]), np.float32([0.4]), np.float32([0.2])][:given]
    found = agree("NonMaxSuppression", inputs, 11, center_point_box=centred)["o0"]
    assert len(found) if given > 2 else not len(found)


@pytest.mark.parametrize("depth", [np.array(3), np.array([3]), np.float32([3])])
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot_with_any_depth(depth: Any, axis: int) -> None:
    found = agree("OneHot", [np.array([[0, -1], [5, 2]]), depth, np.float32([1, 5])], 11, axis=axis)["o0"]
    assert (found == 5).sum() == 3  # 5 is nowhere


@pytest.mark.parametrize("opset", [10, 16])
def test_regions_align_by_half_pixels_from_16_on(opset: int) -> None:
    regions = np.float32([[0, 0, 5, 5], [2, 2, 7, 6]])
    agree(
        "RoiAlign", [x(1, 2, 8, 8), regions, np.array([0, 0])], opset, output_height=2, output_width=2, sampling_ratio=2
    )


@pytest.mark.parametrize("where", ["graph", "body"])
@pytest.mark.parametrize(
    ("op", "inputs", "opset", "attributes"),
    [
        ("RoiAlign", [x(1, 2, 8, 8), np.float32([[0, 0, 5, 5]]), np.array([0])], 10, {"output_width": 2}),
        ("Scatter", [x(2, 4), np.array([[1, -1], [0, 2]]), x(2, 2)], 9, {"axis": 1}),
        ("GridSample", [x(1, 2, 5, 6), x(1, 3, 4, 2)], 16, {}),
        ("GridSample", [x(1, 2, 5, 6), x(1, 3, 4, 2)], 16, {"mode": "bilinear", "padding_mode": "border"}),
        ("GridSample", [x(1, 2, 5, 6), x(1, 3, 4, 2)], 18, {"mode": "bicubic", "align_corners": 1}),
        ("GridSample", [x(1, 2, 5, 6), x(1, 3, 4, 2)], 16, {"mode": "nearest"}),
        ("CumSum", [x(3, 4), np.array([-1])], 14, {"exclusive": 1}),
        ("CumSum", [np.array([[1, 2], [3, 4]]), np.int32([1])], 11, {"exclusive": 1, "reverse": 1}),
        ("CumSum", [x(3, 4), np.array(0)], 14, {"reverse": 1}),
        (
            "MaxUnpool",
            [x(1, 1, 2, 2), np.array([[[[0, 7], [18, 24]]]]), np.array([1, 1, 5, 5])],
            11,
            {"strides": [2, 2]},
        ),
        ("MaxUnpool", [x(1, 1, 2, 2), np.array([[[[0, 2], [9, 15]]]])], 9, {"strides": [2, 2]}),
    ],
)
def test_spellings_of_old_opsets(
    op: str, inputs: list[Any], opset: int, attributes: dict[str, Any], where: str
) -> None:
    """Also in the body of an If, which onnx's evaluator runs."""
    if op == "MaxUnpool":
        attributes = {**attributes, "kernel_shape": [2, 2]}
    if where == "graph":
        agree(op, inputs, opset, **attributes)
        return
    tensors = [numpy_helper.from_array(value, f"i{k}") for k, value in enumerate(inputs)]
    body = helper.make_graph(
        [helper.make_node(op, [tensor.name for tensor in tensors], ["r"], **attributes)],
        "body",
        [],
        [helper.make_tensor_value_info("r", kind_of(inputs[0]), [None] * inputs[0].ndim)],
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=body)],
        "g",
        [helper.make_tensor_value_info("yes", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", kind_of(inputs[0]), [None] * inputs[0].ndim)],
        tensors,
    )
    both(
        ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)),
        {"yes": np.array(True)},
    )


def test_an_optional_tensor_is_the_tensor() -> None:
    nodes = [
        helper.make_node("Optional", ["x"], ["o"]),
        helper.make_node("OptionalHasElement", ["o"], ["h"]),
        helper.make_node("OptionalGetElement", ["o"], ["v"]),
        helper.make_node("Where", ["h", "v", "x"], ["y"]),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    assert both(ir.load(made), {"x": np.float32([1, -2])})["y"].tolist() == [1, -2]


def texts(*words: str) -> Any:
    return np.array(words, object)


@pytest.mark.parametrize(
    ("op", "value", "version", "attributes", "expected"),
    [
        ("LabelEncoder", texts("a", "b", "z"), 1, {"classes_strings": ["a", "b"], "default_int64": -7}, [0, 1, -7]),
        ("LabelEncoder", np.array([1, 9]), 1, {"classes_strings": ["a", "b"], "default_string": "?"}, ["b", "?"]),
        ("LabelEncoder", texts("a", "z"), 2, {"keys_strings": ["a"], "values_floats": [1.5]}, [1.5, 0]),
        ("LabelEncoder", texts("a", "z"), 2, {"keys_strings": ["a"], "values_strings": ["A"]}, ["A", "_Unused"]),
        ("LabelEncoder", np.float32([1, 2]), 2, {"keys_floats": [1.0], "values_int64s": [5]}, [5, -1]),
        ("CategoryMapper", texts("a", "z"), 1, {"cats_strings": ["a"], "cats_int64s": [4]}, [4, -1]),
        ("CategoryMapper", np.array([4, 9]), 1, {"cats_strings": ["a"], "cats_int64s": [4]}, ["a", "_Unused"]),
        ("FeatureVectorizer", np.array([[1, 2]]), 1, {"inputdimensions": [2]}, [[1, 2]]),
        ("Scaler", np.array([[1, 2]]), 1, {"offset": [0.5], "scale": [2.0]}, [[1, 3]]),
        ("Normalizer", np.float32([[-4, 2], [0, 0]]), 1, {"norm": "MAX"}, [[-2, 1], [0, 0]]),
        ("Normalizer", np.float32([[-3, 1]]), 1, {"norm": "L1"}, [[-0.75, 0.25]]),
        ("Normalizer", np.float32([[-3, 4]]), 1, {"norm": "L2"}, [[-0.6, 0.8]]),
    ],
)  # fmt: skip
def test_features_of_tables(op: str, value: Any, version: int, attributes: dict[str, Any], expected: Any) -> None:
    found = agree(op, [value], version, ml=True, **attributes)["o0"]
    if found.dtype == object:
        assert found.tolist() == expected
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            np.float32([1.5, -2, 1e20, 0.1, np.inf, -np.inf, np.nan]),
            ["1.5", "-2", "1e+20", "0.1", "INF", "-INF", "NaN"],
        ),
        (np.array([3, -4]), ["3", "-4"]),
    ],
)
def test_numbers_as_texts(value: Any, expected: list[str]) -> None:
    assert agree("Cast", [value], 13, to=TensorProto.STRING)["o0"].tolist() == expected
