"""Graphs that once came out wrong, or not at all: each kind of fault with its neighbours and the right values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir
from lwgraph.contract import Contract
from lwgraph.optimizer.annotations import make_lean
from lwgraph.rewrite import Context, Pipeline, RewritePass
from lwgraph.testing import random_model


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, tuple[int, list[Any] | None]],
    constants: dict[str, Any] | None = None,
    opset: int = 17,
    ir_version: int = 8,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


@dataclass(frozen=True)
class Replaced(RewritePass):
    """Mul(x, number) -> Identity(x)."""

    name: ClassVar[str] = "replaced"
    contract: ClassVar[Contract] = Contract.EXACT
    number: float = 0.5

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Where(op.Identity(x), self.number, self.number)

    def replace(self, op: Any, x: Any) -> Any:
        return op.Identity(x)


class TestNumbersInPatterns:
    """A number matches a constant by its value in the constant's type."""

    def matches(self, number: float, constant: Any) -> bool:
        nodes = [helper.make_node("Identity", ["x"], ["i"]), helper.make_node("Where", ["i", "c", "c"], ["y"])]
        array = np.asarray(constant)
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        model = ir.load(
            model_of(nodes, {"x": (TensorProto.BOOL, [2])}, {"y": (kind, [2])}, {"c": array}, opset=21, ir_version=10)
        )
        return Replaced(number).run(model, Context()) == 1

    @pytest.mark.parametrize(
        ("number", "constant"),
        [
            (0.5, np.int64([0])),
            (1.5, np.int32([1])),
            (-0.5, np.int8([0])),
            (300, np.int8([44])),
            (300, np.uint8([44])),
            (-1, np.uint8([255])),
            (-1.0, np.uint64([2**64 - 1])),
            (float(2**63), np.int64([-(2**63)])),
            (2**53 + 1, np.int64([2**53])),
            (2, np.array([True])),
            (0.5, np.array([True])),
            (1e300, np.float32([np.inf])),
            (-1e300, np.float32([-np.inf])),
            (70000, np.float16([np.inf])),
            (1e-300, np.float32([0])),
            (2049, np.float16([2048])),
            (10**400, np.float64([np.inf])),
            (float("inf"), np.int64([2**63 - 1])),
            (float("nan"), np.int32([0])),
            (0.5, np.zeros(1, ml_dtypes.int4)),
            (17, np.ones(1, ml_dtypes.int4)),
            (1e39, np.array([np.inf], ml_dtypes.bfloat16)),
        ],
    )
    def test_another_value(self, number: float, constant: Any) -> None:
        assert not self.matches(number, constant)

    @pytest.mark.parametrize(
        ("number", "constant"),
        [
            (2.0, np.int64([2])),
            (2**53 + 1, np.int64([2**53 + 1])),
            (-128, np.int8([-128])),
            (2**64 - 1, np.uint64([2**64 - 1])),
            (1, np.array([True])),
            (0.0, np.array([False])),
            (0.1, np.float32([0.1])),
            (0.1, np.float16([0.1])),
            (0.1, np.array([0.1], ml_dtypes.bfloat16)),
            (float("inf"), np.float32([np.inf])),
            (2048, np.float16([2048])),
            (7, np.array([7], ml_dtypes.int4)),
            (-3.4028234663852886e38, np.float32([np.finfo(np.float32).min])),
        ],
    )
    def test_the_same_value(self, number: float, constant: Any) -> None:
        assert self.matches(number, constant)

    def test_an_attribute_that_overflows(self) -> None:
        @dataclass(frozen=True)
        class Slope(RewritePass):
            name: ClassVar[str] = "slope"
            contract: ClassVar[Contract] = Contract.EXACT

            def pattern(self, op: Any, x: Any) -> Any:
                return op.LeakyRelu(x, alpha=1e300)

            def replace(self, op: Any, x: Any) -> Any:
                return op.Identity(x)

        nodes = [helper.make_node("LeakyRelu", ["x"], ["y"], alpha=float("inf"))]
        model = ir.load(model_of(nodes, {"x": (TensorProto.FLOAT, [2])}, {"y": (TensorProto.FLOAT, [2])}))
        assert Slope().run(model, Context()) == 0


def in_ort(proto: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


class TestEmptySizes:
    """What works with no detections works after the sizes are folded."""

    def check(self, proto: onnx.ModelProto, *shapes: list[int]) -> None:
        model = ir.load(proto)
        Pipeline.parse("clean").run(model)
        after = ir.to_proto(model)
        for shape in shapes:
            x = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
            for old, new in zip(in_ort(proto, {"x": x}), in_ort(after, {"x": x}), strict=True):
                assert old.shape == new.shape
                np.testing.assert_array_equal(old, new)

    @pytest.mark.parametrize(
        ("shape", "target"),
        [
            (["b", 3, "h"], "b,3h"),
            (["b", 3, "h"], "h,3b"),
            (["b", 3, "h"], "3,bh"),
            (["b", 3, "h"], "b,-1"),
            (["b", 3, None], "b,3h"),
        ],
    )
    @pytest.mark.parametrize("allowzero", [0, 1])
    def test_computed_targets(self, shape: list[Any], target: str, allowzero: int) -> None:
        constants = {"z": [0], "o": [1], "t2": [2], "t3": [3], "three": [3], "rest": [-1]}
        nodes = [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Slice", ["s", "z", "o"], ["b"]),
            helper.make_node("Slice", ["s", "t2", "t3"], ["h"]),
            helper.make_node("Mul", ["h", "three"], ["3h"]),
            helper.make_node("Mul", ["b", "three"], ["3b"]),
            helper.make_node("Mul", ["b", "h"], ["bh"]),
            helper.make_node(
                "Concat",
                ["rest" if p == "-1" else "three" if p == "3" else p for p in target.split(",")],
                ["t"],
                axis=0,
            ),
            helper.make_node("Reshape", ["x", "t"], ["y"], allowzero=allowzero),
        ]
        proto = model_of(
            nodes,
            {"x": (TensorProto.FLOAT, shape)},
            {"y": (TensorProto.FLOAT, [None, None])},
            {name: np.int64(array) for name, array in constants.items()},
        )
        shapes = [[2, 3, 5], [1, 3, 1]]
        for more in ([0, 3, 5], [2, 3, 0]):
            try:
                in_ort(proto, {"x": np.zeros(more, np.float32)})
            except Exception:
                continue
            shapes.append(more)
        self.check(proto, *shapes)

    def test_no_detections(self) -> None:
        """Boxes that are chosen by NonZero, of which there may be none."""
        nodes = [
            helper.make_node("Greater", ["x", "limit"], ["m"]),
            helper.make_node("NonZero", ["m"], ["n"]),
            helper.make_node("Transpose", ["n"], ["i"]),
            helper.make_node("GatherND", ["x", "i"], ["g"]),
            helper.make_node("Shape", ["g"], ["s"]),
            helper.make_node("Mul", ["s", "one"], ["k"]),
            helper.make_node("Concat", ["k", "one"], ["t"], axis=0),
            helper.make_node("Reshape", ["g", "t"], ["y"]),
        ]
        proto = model_of(
            nodes,
            {"x": (TensorProto.FLOAT, ["b", 4])},
            {"y": (TensorProto.FLOAT, [None, 1])},
            {"limit": np.float32(3.5), "one": np.int64([1])},
        )
        self.check(proto, [1, 4], [2, 4], [0, 4])


def weight(*shape: int) -> Any:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


class TestFusedNodes:
    """A fused node keeps the name and the doc_string of the layer, also where another node made the output."""

    @pytest.mark.parametrize(
        ("layer", "after", "shape", "constants"),
        [
            (
                "Conv",
                "BatchNormalization",
                [1, 3, 4, 4],
                {"w": weight(5, 3, 1, 1), **{k: weight(5) ** 2 for k in "sbmv"}},
            ),
            ("Conv", "Mul", [1, 3, 4, 4], {"w": weight(5, 3, 1, 1), "s": weight(5, 1, 1)}),
            ("Gemm", "Add", [2, 3], {"w": weight(3, 5), "s": weight(5)}),
            ("MatMul", "Add", [2, 3], {"w": weight(3, 5), "s": weight(5)}),
            ("ConvTranspose", "Add", [1, 3, 4, 4], {"w": weight(3, 5, 1, 1), "s": weight(5, 1, 1)}),
        ],
    )
    def test_the_layer_stays(self, layer: str, after: str, shape: list[int], constants: dict[str, Any]) -> None:
        nodes = [
            helper.make_node(layer, ["x", "w"], ["a"], name="the/layer", doc_string="said of the layer"),
            helper.make_node(after, ["a", *list(constants)[1:]], ["y"], name="the/rest", doc_string="said of the rest"),
        ]
        rank = [None] * len(shape)
        proto = model_of(nodes, {"x": (TensorProto.FLOAT, shape)}, {"y": (TensorProto.FLOAT, rank)}, constants)
        model = ir.load(proto)
        Pipeline.parse("clean,fuse").run(model)
        (node,) = model.graph
        assert (node.name, node.doc_string) == ("the/layer", "said of the layer")
        x = weight(*shape)
        (before,), (found,) = in_ort(proto, {"x": x}), in_ort(ir.to_proto(model), {"x": x})
        np.testing.assert_allclose(found, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("parts", "left"), [("xex", 2), ("ex", 0), ("xe", 0), ("exxe", 2), ("ee", 0)])
def test_empty_parts_of_concat_go(parts: str, left: int) -> None:
    names = {"x": "x", "e": "empty"}
    nodes = [
        helper.make_node("Concat", [names[p] for p in parts], ["c"], axis=1),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    proto = model_of(
        nodes,
        {"x": (TensorProto.FLOAT, [2, 3])},
        {"y": (TensorProto.FLOAT, [2, None])},
        {"empty": np.zeros((2, 0), np.float32)},
    )
    model = ir.load(proto)
    Pipeline.parse("clean").run(model)
    concat = next((node for node in model.graph if node.op_type == "Concat"), None)
    assert (0 if concat is None else len(concat.inputs)) == left
    (before,), (found,) = (in_ort(p, {"x": weight(2, 3)}) for p in (proto, ir.to_proto(model)))
    assert before.shape == found.shape
    np.testing.assert_array_equal(before, found)


def test_a_part_that_is_empty_along_another_axis_stays() -> None:
    nodes = [helper.make_node("Concat", ["x", "x"], ["y"], axis=1)]
    model = ir.load(model_of(nodes, {"x": (TensorProto.FLOAT, [0, 3])}, {"y": (TensorProto.FLOAT, [0, 6])}))
    Pipeline.parse("clean").run(model)
    assert [len(node.inputs) for node in model.graph] == [2]


def test_a_second_run_finds_nothing_more() -> None:
    """The pipelines `clean` and `fuse` end at a fixed point."""
    pipeline = Pipeline.parse("clean,fuse")
    left = {}
    for seed in range(60):
        model = random_model(seed, nodes=10)
        pipeline.run(model)
        again = {step.spec.name: step.count for step in pipeline.rewrite(model) if step.count}
        if again:
            left[seed] = again
    assert not left


def test_a_rewritten_node_of_a_network_without_names_has_none() -> None:
    """A name that nobody gave makes the file larger where no node goes: the first Cast is read once more."""
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=TensorProto.INT64),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["b", "half"], ["y"]),
    ]
    outputs = {"a": (TensorProto.INT64, [3]), "y": (TensorProto.FLOAT, [3])}
    model = ir.load(model_of(nodes, {"x": (TensorProto.INT8, [3])}, outputs, {"half": np.float32([0.5])}))
    for node in model.graph:
        node.name = ""
    before = ir.clone(model)
    Pipeline.parse("clean").run(model)
    assert [node.inputs[0] is model.graph.inputs[0] for node in model.graph] == [True, True, False]
    assert not any(node.name for node in model.graph)
    make_lean(model, before)
    assert ir.size(model) <= ir.size(before)


def test_names_that_passes_gave_go_before_the_file_grows() -> None:
    """An average that is taken before a 1 x 1 convolution costs less there, and no node goes."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["y"], name="/model/layers.0/features/pool"),
    ]
    made = model_of(
        nodes,
        {"x": (TensorProto.FLOAT, [1, 4, 8, 8])},
        {"y": (TensorProto.FLOAT, [1, 8, 1, 1])},
        {"w": weight(8, 4, 1, 1)},
    )
    model = ir.load(made)
    for node in model.graph:
        node.name = "" if node.op_type == "Conv" else node.name
    before = ir.clone(model)
    Pipeline.parse("clean,fuse,clean").run(model)
    assert [node.op_type for node in model.graph] == ["GlobalAveragePool", "Conv"]
    make_lean(model, before)
    assert ir.size(model) <= ir.size(before)
    x = weight(1, 4, 8, 8)
    (wanted,), (found,) = (in_ort(ir.to_proto(m), {"x": x}) for m in (before, model))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


class TestMovedNodes:
    """A node that a rewrite moves keeps its name and doc_string, as the layer does."""

    @pytest.mark.parametrize(
        ("nodes", "constants", "text", "names"),
        [
            (
                [
                    helper.make_node("Conv", ["x", "w"], ["a"], "conv", doc_string="of conv"),
                    helper.make_node("AveragePool", ["a"], ["y"], "pool", "of pool", kernel_shape=[2, 2]),
                ],
                {"w": weight(16, 3, 1, 1)},
                "early-pool",
                ["pool", "conv"],
            ),
            (
                [
                    helper.make_node("Gather", ["x", "i"], ["a"], "gather", "of gather", axis=1),
                    helper.make_node("Relu", ["a"], ["b"], "relu", "of relu"),
                    helper.make_node("Conv", ["b", "w"], ["y"], "conv", "of conv"),
                ],
                {"i": np.int64([2, 0, 1]), "w": weight(4, 3, 1, 1)},
                "fold-channel-order",
                ["relu", "conv"],
            ),
            (
                [
                    helper.make_node("Conv", ["x", "w"], ["a"], "first", "of first"),
                    helper.make_node("Relu", ["a"], ["b"], "relu", "of relu"),
                    helper.make_node("Conv", ["b", "v"], ["y"], "second", "of second", strides=[2, 2]),
                ],
                {"w": weight(4, 3, 1, 1), "v": weight(4, 4, 1, 1)},
                "early-stride",
                ["first", "relu", "second"],
            ),
        ],
    )
    def test_they_keep_what_they_are_called(
        self, nodes: list[onnx.NodeProto], constants: dict[str, Any], text: str, names: list[str]
    ) -> None:
        shape: list[Any] = [1, 3, 8, 8]
        proto = model_of(nodes, {"x": (TensorProto.FLOAT, shape)}, {"y": (TensorProto.FLOAT, [None] * 4)}, constants)
        model = ir.load(proto)
        Pipeline.parse(text).run(model)
        assert [(node.name, node.doc_string) for node in model.graph] == [(name, f"of {name}") for name in names]
        (before,), (found,) = (in_ort(p, {"x": weight(*shape)}) for p in (proto, ir.to_proto(model)))
        np.testing.assert_allclose(found, before, rtol=1e-4, atol=1e-5)


def test_simplify_keeps_sizes_open_that_follow_from_the_model() -> None:
    pytest.importorskip("onnxsim")
    nodes = [helper.make_node("Identity", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    nodes += [helper.make_node("Identity", ["b"], ["y"])]
    model = ir.load(model_of(nodes, {"x": (TensorProto.FLOAT, ["n", 3])}, {"y": (TensorProto.FLOAT, ["n", "k"])}))
    context = Context()
    Pipeline.parse("simplify").run(model, context)
    assert not context.warnings and [node.op_type for node in model.graph] == ["Relu"]
    (output,) = model.graph.outputs
    assert [str(size) for size in output.shape or ()] == ["n", "k"]
