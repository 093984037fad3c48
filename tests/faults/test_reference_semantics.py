"""Operators whose reference semantics were once wrong, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir
from lwgraph.errors import ModelError
from lwgraph.runtime.ort import OrtExecutor
from lwgraph.runtime.reference import ReferenceExecutor
from tests.faults.both import both

FLOAT, INT64, BOOL, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING


def info(name: str, kind: int, shape: list[Any] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def build(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    opset: int = 17,
    constants: dict[str, Any] | None = None,
) -> ir.Model:
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        outputs,
        [
            tensor if isinstance(tensor, TensorProto) else numpy_helper.from_array(np.asarray(tensor), name)
            for name, tensor in (constants or {}).items()
        ],
    )
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8))


def loop(
    body_nodes: list[onnx.NodeProto],
    body_outputs: list[onnx.ValueInfoProto],
    inputs: list[str],
    outputs: list[str],
    carried: list[onnx.ValueInfoProto],
    constants: dict[str, Any] | None = None,
) -> onnx.NodeProto:
    body = helper.make_graph(
        body_nodes,
        "body",
        [info("i", INT64, []), info("c_in", BOOL, []), *carried],
        body_outputs,
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    return helper.make_node("Loop", inputs, outputs, name="loop", body=body)


X = np.float32([[1, -2, 3]])


class TestLoop:
    def double(self, inputs: list[str]) -> onnx.NodeProto:
        nodes = [helper.make_node("Identity", ["c_in"], ["c"]), helper.make_node("Add", ["s", "s"], ["t"])]
        return loop(nodes, [info("c", BOOL, []), info("t", FLOAT, [1, 3])], inputs, ["y"], [info("s", FLOAT, [1, 3])])

    @pytest.mark.parametrize("trips", [0, 1, 3])
    @pytest.mark.parametrize("condition", ["", "yes"])
    def test_a_trip_count(self, trips: int, condition: str) -> None:
        model = build(
            [self.double(["n", condition, "x"])],
            [info("x", FLOAT, [1, 3])],
            [info("y", FLOAT, [1, 3])],
            constants={"n": np.int64(trips), **({"yes": np.array(True)} if condition else {})},
        )
        np.testing.assert_array_equal(both(model, {"x": X})["y"], X * 2**trips)

    def test_a_condition_that_is_false_from_the_start(self) -> None:
        model = build(
            [self.double(["", "no", "x"])],
            [info("x", FLOAT, [1, 3])],
            [info("y", FLOAT, [1, 3])],
            constants={"no": np.array(False)},
        )
        np.testing.assert_array_equal(both(model, {"x": X})["y"], X)

    def test_a_condition_without_a_trip_count(self) -> None:
        """It runs until the sum is over 20, and keeps what the body used from outside."""
        nodes = [
            helper.make_node("Add", ["s", "step"], ["t"]),
            helper.make_node("Less", ["t", "end"], ["c"]),
        ]
        node = loop(nodes, [info("c", BOOL, []), info("t", FLOAT, [])], ["", "", "x"], ["y"], [info("s", FLOAT, [])])
        model = build(
            [node],
            [info("x", FLOAT, []), info("step", FLOAT, [])],
            [info("y", FLOAT, [])],
            constants={"end": np.float32(20)},
        )
        assert both(model, {"x": np.array(1, np.float32), "step": np.array(4, np.float32)})["y"] == 21

    @pytest.mark.parametrize(("shape", "trips"), [([], 3), ([3], 3), ([1, 3], 3), ([2, 2, 3], 2), ([], 0), ([1, 3], 0)])
    def test_scan_outputs(self, shape: list[int], trips: int) -> None:
        x = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
        nodes = [
            helper.make_node("Identity", ["c_in"], ["c"]),
            helper.make_node("Add", ["s", "one"], ["t"]),
            helper.make_node("Identity", ["t"], ["scan"]),
        ]
        node = loop(
            nodes,
            [info("c", BOOL, []), info("t", FLOAT, shape), info("scan", FLOAT, shape)],
            ["n", "", "x"],
            ["y", "all"],
            [info("s", FLOAT, shape)],
            {"one": np.float32(1)},
        )
        model = build(
            [node],
            [info("x", FLOAT, shape)],
            [info("y", FLOAT, shape), info("all", FLOAT, None)],
            constants={"n": np.int64(trips)},
        )
        found = both(model, {"x": x})["all"]
        if trips:
            np.testing.assert_array_equal(found, np.stack([x + k + 1 for k in range(trips)]))

    def test_scan_outputs_of_changing_shape_are_refused(self) -> None:
        nodes = [
            helper.make_node("Identity", ["c_in"], ["c"]),
            helper.make_node("Concat", ["s", "s"], ["t"], axis=0),
            helper.make_node("Identity", ["t"], ["scan"]),
        ]
        node = loop(
            nodes,
            [info("c", BOOL, []), info("t", FLOAT, None), info("scan", FLOAT, None)],
            ["n", "", "x"],
            ["y", "all"],
            [info("s", FLOAT, None)],
        )
        model = build(
            [node],
            [info("x", FLOAT, [1])],
            [info("y", FLOAT, None), info("all", FLOAT, None)],
            constants={"n": np.int64(2)},
        )
        for executor in (ReferenceExecutor(), OrtExecutor()):
            with pytest.raises(Exception, match=r"loop|same shape|Loop"):
                executor.prepare(model)({"x": np.ones(1, np.float32)})

    def test_without_an_end(self) -> None:
        nodes = [
            helper.make_node("Add", ["s", "s"], ["t"]),
            helper.make_node("Not", ["no"], ["c"]),
        ]
        node = loop(
            nodes,
            [info("c", BOOL, []), info("t", FLOAT, [])],
            ["", "", "x"],
            ["y"],
            [info("s", FLOAT, [])],
        )
        model = build([node], [info("x", FLOAT, []), info("no", BOOL, [])], [info("y", FLOAT, [])])
        with pytest.raises(ModelError, match=r"Loop 'loop' did not end after 100,000 trips"):
            ReferenceExecutor().prepare(model)({"x": np.array(1, np.float32), "no": np.array(False)})


class TestScan:
    def body(self, shape: list[int]) -> onnx.GraphProto:
        return helper.make_graph(
            [helper.make_node("Add", ["s", "e"], ["t"]), helper.make_node("Mul", ["t", "e"], ["o"])],
            "body",
            [info("s", FLOAT, shape), info("e", FLOAT, shape)],
            [info("t", FLOAT, shape), info("o", FLOAT, shape)],
        )

    @pytest.mark.parametrize(
        "attributes",
        [
            {},
            {"scan_input_directions": [1]},
            {"scan_output_directions": [1]},
            {"scan_input_axes": [1], "scan_output_axes": [1]},
            {"scan_input_axes": [-1], "scan_input_directions": [1], "scan_output_axes": [-1]},
        ],
    )
    def test_version_9(self, attributes: dict[str, Any]) -> None:
        node = helper.make_node("Scan", ["s0", "x"], ["y", "all"], body=self.body([3]), num_scan_inputs=1, **attributes)
        model = build(
            [node],
            [info("s0", FLOAT, [3]), info("x", FLOAT, [3, 3])],
            [info("y", FLOAT, [3]), info("all", FLOAT, [3, 3])],
            opset=11,
        )
        rng = np.random.default_rng(0)
        x = rng.standard_normal((3, 3)).astype(np.float32)
        both(model, {"s0": np.ones(3, np.float32), "x": x})

    @pytest.mark.parametrize("lengths", [None, [4, 2]])
    @pytest.mark.parametrize("directions", [None, [1]])
    def test_version_8(self, lengths: list[int] | None, directions: list[int] | None) -> None:
        attributes = {} if directions is None else {"directions": directions}
        node = helper.make_node(
            "Scan",
            ["" if lengths is None else "n", "s0", "x"],
            ["y", "all"],
            body=self.body([3]),
            num_scan_inputs=1,
            **attributes,
        )
        model = build(
            [node],
            [info("s0", FLOAT, [2, 3]), info("x", FLOAT, [2, 4, 3])],
            [info("y", FLOAT, [2, 3]), info("all", FLOAT, [2, 4, 3])],
            opset=8,
            constants={} if lengths is None else {"n": np.int64(lengths)},
        )
        rng = np.random.default_rng(0)
        x = rng.standard_normal((2, 4, 3)).astype(np.float32)
        both(model, {"s0": np.ones((2, 3), np.float32), "x": x})


@pytest.mark.parametrize("opset", [7, 8, 9])
@pytest.mark.parametrize("shape", [[2, 4], [2, 4, 3], [2, 4, 3, 5]])
def test_batch_normalization(opset: int, shape: list[int]) -> None:
    rng = np.random.default_rng(0)
    constants = {name: rng.uniform(0.5, 2, 4).astype(np.float32) for name in "sbmv"}
    node = helper.make_node("BatchNormalization", ["x", *"sbmv"], ["y"], epsilon=1e-2)
    model = build([node], [info("x", FLOAT, shape)], [info("y", FLOAT, shape)], opset, constants)
    both(model, {"x": rng.standard_normal(shape).astype(np.float32)})


@pytest.mark.parametrize("is_test", [0, 1])
def test_batch_normalization_6(is_test: int) -> None:
    """ONNX Runtime begins with version 7; with one output, version 6 normalizes with the given mean, too."""
    rng = np.random.default_rng(0)
    constants = {name: rng.uniform(0.5, 2, 4).astype(np.float32) for name in "sbmv"}
    node = helper.make_node("BatchNormalization", ["x", *"sbmv"], ["y"], is_test=is_test)
    model = build([node], [info("x", FLOAT, [2, 4])], [info("y", FLOAT, [2, 4])], 6, constants)
    x = rng.standard_normal((2, 4)).astype(np.float32)
    s, b, m, v = (constants[name] for name in "sbmv")
    expected = (x - m) / np.sqrt(v + 1e-5) * s + b
    np.testing.assert_allclose(ReferenceExecutor().prepare(model)({"x": x})["y"], expected, rtol=1e-5)


def test_batch_normalization_per_element() -> None:
    rng = np.random.default_rng(0)
    constants = {name: rng.uniform(0.5, 2, (4, 3, 3)).astype(np.float32) for name in "sbmv"}
    node = helper.make_node("BatchNormalization", ["x", *"sbmv"], ["y"], spatial=0)
    model = build([node], [info("x", FLOAT, [2, 4, 3, 3])], [info("y", FLOAT, [2, 4, 3, 3])], 8, constants)
    both(model, {"x": rng.standard_normal((2, 4, 3, 3)).astype(np.float32)})


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [[1.0, 1.0, 2.0, 3.0], [1.0, 1.0, 1.5, 2.0], [1.0, 1.0, 1.0, 2.5]])
@pytest.mark.parametrize("opset", [7, 8, 9])
def test_upsample(opset: int, scales: list[float], mode: str) -> None:
    if opset < 9:
        node, constants = helper.make_node("Upsample", ["x"], ["y"], mode=mode, scales=scales), {}
    else:
        node, constants = helper.make_node("Upsample", ["x", "k"], ["y"], mode=mode), {"k": np.float32(scales)}
    model = build([node], [info("x", FLOAT, [1, 2, 4, 4])], [info("y", FLOAT, None)], opset, constants)
    both(model, {"x": np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(np.float32)})


@pytest.mark.parametrize("other", [["a", "ü", "x"], ["a"]])
def test_equal_with_texts(other: list[str]) -> None:
    constants = {"c": helper.make_tensor("c", STRING, [len(other)], other)}
    model = build(
        [helper.make_node("Equal", ["x", "c"], ["y"])], [info("x", STRING, [3])], [info("y", BOOL, [3])], 19, constants
    )
    found = both(model, {"x": np.array(["a", "ü", "b"], object)})["y"]
    assert found.tolist() == [text == other[k % len(other)] for k, text in enumerate(["a", "ü", "b"])]


def test_equal_with_a_constant_node_and_where() -> None:
    nodes = [
        helper.make_node("Constant", [], ["c"], value_strings=["a", "b"]),
        helper.make_node("Equal", ["x", "c"], ["q"]),
        helper.make_node("Not", ["q"], ["y"]),
    ]
    model = build(nodes, [info("x", STRING, [2])], [info("y", BOOL, [2])], 19)
    assert both(model, {"x": np.array(["a", "c"], object)})["y"].tolist() == [False, True]
