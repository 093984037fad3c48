"""Valid models that were refused, and what ends a process or never ends and must be refused in one line."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import check, ir
from lwgraph.cli import main
from lwgraph.errors import DataError, ModelError
from lwgraph.passes.clean.constants_to_initializers import ConstantsToInitializers
from lwgraph.passes.clean.fold_constants import FoldConstants
from lwgraph.rewrite import Context, Pipeline
from lwgraph.runtime.ort import OrtExecutor

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def info(name: str, kind: int, shape: list[Any] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def build(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    opset: int = 17,
    constants: dict[str, Any] | None = None,
    ir_version: int = 8,
    domains: tuple[tuple[str, int], ...] = (),
    functions: tuple[onnx.FunctionProto, ...] = (),
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(*each) for each in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version, functions=functions)


def check_equal(proto: onnx.ModelProto, feeds: dict[str, Any]) -> None:
    """lwgraph accepts the model, and what it writes again gives the same in ONNX Runtime."""
    model = ir.load(proto)
    check.verify(model)
    sessions = [
        ort.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"])
        for each in (proto, ir.to_proto(model))
    ]
    before, after = (session.run(None, feeds) for session in sessions)
    for old, new in zip(before, after, strict=True):
        assert str(old) == str(new)


def test_a_loop_with_a_trailing_empty_input() -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c_in"], ["c"]), helper.make_node("Identity", ["x"], ["t"])],
        "body",
        [info("i", INT64, []), info("c_in", BOOL, [])],
        [info("c", BOOL, []), info("t", FLOAT, [2])],
    )
    proto = build(
        [helper.make_node("Loop", ["n", ""], ["y"], body=body)],
        [info("x", FLOAT, [2])],
        [info("y", FLOAT, [3, 2])],
        constants={"n": np.int64(3)},
    )
    check_equal(proto, {"x": np.float32([1, 2])})


@pytest.mark.parametrize("more", [(), (("", 17),), (("ai.onnx.ml", 3),)])
@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_the_other_name_of_the_standard_domain(domain: str, more: tuple[tuple[str, int], ...]) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["h"], domain=domain), helper.make_node("Neg", ["h"], ["y"])]
    proto = build(nodes, [info("x", FLOAT, [2])], [info("y", FLOAT, [2])], domains=more)
    del proto.opset_import[:1]
    proto.opset_import.insert(0, helper.make_opsetid("ai.onnx", 17))
    check_equal(proto, {"x": np.float32([-1, 1])})
    assert ir.opset(ir.load(proto).graph[0]) == 17


@pytest.mark.parametrize("opset", [7, 8])
@pytest.mark.parametrize("kind", [np.int64, np.int32, np.bool_])
def test_constants_of_integers_before_opset_9(opset: int, kind: Any) -> None:
    tensor = numpy_helper.from_array(np.array([1, 0], kind))
    nodes = [helper.make_node("Constant", [], ["c"], value=tensor), helper.make_node("Cast", ["c"], ["y"], to=FLOAT)]
    types = {np.int64: INT64, np.int32: TensorProto.INT32, np.bool_: BOOL}
    outputs = [info("y", FLOAT, [2]), info("c", types[kind], [2])]
    check_equal(build(nodes, [], outputs, opset, ir_version=3), {})


def test_an_operator_that_was_an_experiment() -> None:
    nodes = [helper.make_node("ThresholdedRelu", ["x"], ["y"], alpha=0.5)]
    proto = build(nodes, [info("x", FLOAT, [2])], [info("y", FLOAT, [2])], 8, ir_version=3)
    check_equal(proto, {"x": np.float32([0.25, 1])})


def test_an_input_that_must_be_given_is_still_missed() -> None:
    proto = build([helper.make_node("Add", ["x", ""], ["y"])], [info("x", FLOAT, [2])], [info("y", FLOAT, [2])])
    with pytest.raises(check.InvariantError, match="lacks its input 1"):
        check.verify(ir.load(proto))


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "opset"),
    [
        ("GroupNormalization", ["a", "s", "b"], {"num_groups": 2}, 21),
        ("GroupNormalization", ["a", "s", "b"], {"num_groups": 4}, 22),
        ("MeanVarianceNormalization", ["a"], {}, 13),
    ],
)
def test_operators_that_are_functions(op: str, inputs: list[str], attributes: dict[str, Any], opset: int) -> None:
    """ONNX gives no type to their outputs, so strict inference misses one at the Conv behind."""
    constants = {
        "w1": np.random.default_rng(0).standard_normal((8, 3, 1, 1)).astype(np.float32),
        "w2": np.random.default_rng(1).standard_normal((2, 8, 1, 1)).astype(np.float32),
        "s": np.ones(8, np.float32),
        "b": np.zeros(8, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node(op, inputs, ["n"], **attributes),
        helper.make_node("Conv", ["n", "w2"], ["y"]),
    ]
    used = {name for node in nodes for name in node.input}
    proto = build(
        nodes,
        [info("x", FLOAT, [2, 3, 4, 4])],
        [info("y", FLOAT, None)],
        opset,
        {name: array for name, array in constants.items() if name in used},
        10,
    )
    check_equal(proto, {"x": np.random.default_rng(2).standard_normal((2, 3, 4, 4)).astype(np.float32)})


def test_a_tree_ensemble_with_identity_and_zipmap() -> None:
    tree = helper.make_node(
        "TreeEnsembleClassifier",
        ["x"],
        ["class", "scores"],
        domain="ai.onnx.ml",
        classlabels_int64s=[0, 1],
        class_ids=[0, 1],
        class_nodeids=[1, 2],
        class_treeids=[0, 0],
        class_weights=[1.0, 1.0],
        nodes_falsenodeids=[2, 0, 0],
        nodes_featureids=[0, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_nodeids=[0, 1, 2],
        nodes_treeids=[0, 0, 0],
        nodes_truenodeids=[1, 0, 0],
        nodes_values=[0.5, 0.0, 0.0],
        post_transform="NONE",
    )
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, [])))
    nodes = [
        tree,
        helper.make_node("Identity", ["scores"], ["p"]),
        helper.make_node("Identity", ["class"], ["label"]),
        helper.make_node("ZipMap", ["p"], ["map"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
    ]
    outputs = [info("label", INT64, [None]), helper.make_value_info("map", kind)]
    proto = build(nodes, [info("x", FLOAT, [None, 2])], outputs, domains=(("ai.onnx.ml", 1),))
    check_equal(proto, {"x": np.float32([[0, 1], [1, 0]])})


def test_contrib_operators_before_others() -> None:
    nodes = [
        helper.make_node("FusedMatMul", ["x", "w"], ["g"], domain="com.microsoft", alpha=2.0),
        helper.make_node("LayerNormalization", ["g", "s", "b"], ["h"]),
        helper.make_node("BiasGelu", ["h", "b"], ["k"], domain="com.microsoft"),
        helper.make_node("Conv", ["k", "w3"], ["y"]),
    ]
    constants = {
        "w": np.eye(4, dtype=np.float32),
        "s": np.ones(4, np.float32),
        "b": np.ones(4, np.float32),
        "w3": np.ones((2, 4, 1), np.float32),
    }
    proto = build(
        nodes, [info("x", FLOAT, [2, 4, 4])], [info("y", FLOAT, None)], 17, constants, domains=(("com.microsoft", 1),)
    )
    check_equal(proto, {"x": np.arange(32, dtype=np.float32).reshape(2, 4, 4)})


def test_a_contradiction_of_types_is_still_seen() -> None:
    proto = build(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [info("x", FLOAT, [2, 3])],
        [info("y", FLOAT, [2, 4])],
        constants={"w": np.ones((5, 4), np.float32)},
    )
    with pytest.raises(check.InvariantError, match="MatMul"):
        check.verify(ir.load(proto))


@pytest.mark.parametrize("op", ["Sub", "MatMul", "Conv"])
def test_ir_version_3_with_a_constant_node(op: str) -> None:
    """An initializer that is no input needs version 4, which is written then."""
    constant = np.ones({"Sub": (1, 4, 4), "MatMul": (4, 4), "Conv": (2, 4, 1)}[op], np.float32)
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(constant)),
        helper.make_node(op, ["x", "c"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    shape = [2, 2 if op == "Conv" else 4, 4]
    proto = build(nodes, [info("x", FLOAT, [2, 4, 4])], [info("y", FLOAT, shape)], 8, ir_version=3)
    check_equal(proto, {"x": np.ones((2, 4, 4), np.float32)})
    assert ir.to_proto(ir.load(proto)).ir_version == 3
    model = ir.load(proto)
    assert ConstantsToInitializers().run(model, Context()) == 1
    check.verify(model)
    written = ir.to_proto(model)
    assert written.ir_version == 4
    onnx.checker.check_model(written, full_check=True)
    check_equal(written, {"x": np.ones((2, 4, 4), np.float32)})


class TestDivisionsThatEndTheProcess:
    """Run in this process: if the guard were removed, no test would report anything."""

    LEAST = -(2**63)

    def proto(self, op: str, a: Any, b: Any) -> onnx.ModelProto:
        nodes = [
            helper.make_node(op, ["a", "b"], ["q"], name="divide"),
            helper.make_node("Cast", ["q"], ["c"], to=FLOAT),
            helper.make_node("Add", ["x", "c"], ["y"]),
        ]
        return build(nodes, [info("x", FLOAT, [2])], [info("y", FLOAT, [2])], constants={"a": a, "b": b})

    @pytest.mark.parametrize(
        ("op", "a", "b", "words"),
        [
            ("Div", np.int64([LEAST]), np.int64([-1]), "the least int64, by -1"),
            ("Mod", np.int64([LEAST]), np.int64([-1]), "the least int64, by -1"),
            ("Div", np.int32([5, -(2**31)]), np.int32([2, -1]), "the least int32, by -1"),
            ("Div", np.int64([3]), np.int64([0]), "by zero"),
            ("Mod", np.int64([3]), np.int64([1, 0]), "by zero"),
            ("Div", np.uint8([3]), np.uint8([0]), "by zero"),
        ],
    )
    def test_of_constants(self, op: str, a: Any, b: Any, words: str) -> None:
        model = ir.load(self.proto(op, a, b))
        with pytest.raises(ModelError, match=rf"'divide' \({op}\) divides .*{words}"):
            OrtExecutor().prepare(model)
        before = ir.fingerprint(model)
        context = Context()
        assert FoldConstants().run(model, context) == 0
        assert ir.fingerprint(model) == before

    @pytest.mark.parametrize(
        ("a", "b", "quotient"), [([7, -7], [-1, 2], [-7, -3]), ([-(2**63), 6], [1, -1], [-(2**63), -6])]
    )
    def test_harmless_ones_are_computed(self, a: list[int], b: list[int], quotient: list[int]) -> None:
        run = OrtExecutor().prepare(ir.load(self.proto("Div", np.int64(a), np.int64(b))))
        x = np.zeros(2, np.float32)
        np.testing.assert_array_equal(run({"x": x})["y"], np.float32(quotient))

    def test_of_an_input(self) -> None:
        nodes = [helper.make_node("Neg", ["b"], ["n"]), helper.make_node("Div", ["a", "n"], ["y"], name="divide")]
        inputs = [info("a", INT64, [2]), info("b", INT64, [2])]
        run = OrtExecutor().prepare(ir.load(build(nodes, inputs, [info("y", INT64, [2])])))
        assert run({"a": np.int64([7, 8]), "b": np.int64([2, -2])})["y"].tolist() == [-3, 4]
        with pytest.raises((DataError, ModelError), match="by zero"):
            run({"a": np.int64([7, 8]), "b": np.int64([2, 0])})
        with pytest.raises((DataError, ModelError), match="by -1"):
            run({"a": np.int64([-(2**63), 8]), "b": np.int64([1, 1])})


def function(name: str, called: list[str]) -> onnx.FunctionProto:
    """A function of one value that applies others one after another."""
    names = ["p", *(f"v{k}" for k in range(1, len(called))), "q"]
    nodes = [
        helper.make_node(op, [names[k]], [names[k + 1]], domain="" if op == "Relu" else "my")
        for k, op in enumerate(called)
    ]
    return helper.make_function(
        "my", name, ["p"], ["q"], nodes, [helper.make_opsetid("my", 1), helper.make_opsetid("", 17)]
    )


class TestFunctions:
    def proto(self, calls: dict[str, list[str]], first: str) -> onnx.ModelProto:
        return build(
            [helper.make_node(first, ["x"], ["y"], domain="my")],
            [info("x", FLOAT, [2])],
            [info("y", FLOAT, [2])],
            domains=(("my", 1),),
            functions=tuple(function(name, called) for name, called in calls.items()),
        )

    @pytest.mark.parametrize(
        ("calls", "words"),
        [
            ({"A": ["B"], "B": ["A"]}, "my::A -> my::B -> my::A"),
            ({"A": ["A"]}, "my::A -> my::A"),
            ({"A": ["B"], "B": ["C"], "C": ["Relu", "B"]}, "my::B -> my::C -> my::B"),
        ],
    )
    def test_in_a_circle(self, calls: dict[str, list[str]], words: str) -> None:
        with pytest.raises(ModelError, match=f"in a circle: {words}$"):
            ir.load(self.proto(calls, "A"))

    def test_that_double_many_times(self) -> None:
        calls = {f"F{k}": [f"F{k + 1}"] * 2 for k in range(40)} | {"F40": ["Relu"]}
        with pytest.raises(ModelError, match=r"expands, by its functions, to .*e\+\d\d nodes; at most 1,000,000"):
            ir.load(self.proto(calls, "F0"))

    def test_nested_too_deep(self) -> None:
        calls = {f"F{k}": [f"F{k + 1}"] for k in range(100)} | {"F100": ["Relu"]}
        with pytest.raises(ModelError, match=r"a depth of 101; at most"):
            ir.load(self.proto(calls, "F0"))

    def test_few_of_them(self) -> None:
        calls = {f"F{k}": [f"F{k + 1}"] * 2 for k in range(5)} | {"F5": ["Relu"]}
        check_equal(self.proto(calls, "F0"), {"x": np.float32([-1, 2])})


def command(*arguments: object) -> tuple[int, str, str]:
    """The exit code of the command line, its standard output and its standard error."""
    out, error = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(error):
        patch.setattr(sys, "argv", ["lwgraph", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
    return int(end.value.code or 0), " ".join(out.getvalue().split()), error.getvalue()


class TestRecordedSizesThatAreWrong:
    """Left behind where a batch was edited by hand: ONNX Runtime warns, and goes by what the operators give."""

    def proto(self, inner: list[Any] | None, out: list[Any]) -> onnx.ModelProto:
        nodes = [
            helper.make_node("Identity", ["x"], ["i"]),
            helper.make_node("MatMul", ["i", "w"], ["a"]),
            helper.make_node("Relu", ["a"], ["y"]),
        ]
        proto = build(
            nodes, [info("x", FLOAT, [2, 3])], [info("y", FLOAT, out)], constants={"w": np.eye(3, 4, dtype="f")}
        )
        proto.graph.value_info.append(info("i", FLOAT, [2, 3]))
        if inner is not None:
            proto.graph.value_info.append(info("a", FLOAT, inner))
        return proto

    @pytest.mark.parametrize(
        ("inner", "out", "left", "words"),
        [
            ([1, 4], [2, 4], [2, 4], "'a' [1,4], which is [2,4]"),
            (None, [1, 4], [None, 4], "'y' [1,4], which is [2,4]"),
            ([1, 4], [1, 4], [None, 4], "'a' [1,4], which is [2,4] and 1 more"),
            ([4], [2, 4], [2, 4], "'a' [4], which is [2,4]"),
            (["n", 5], [2, 4], [2, 4], "'a' [n,5], which is [2,4]"),
        ],
    )
    def test_go(self, inner: list[Any] | None, out: list[Any], left: list[Any], words: str) -> None:
        model = ir.load(self.proto(inner, out))
        assert check.accept(model) == f"recorded sizes that the operators contradict were dropped: {words}"
        check.verify(model)
        sizes = {
            v.name: v.shape and [s if isinstance(s, int) else None for s in v.shape] for v in ir.values(model.graph)
        }
        assert sizes["y"] == left and sizes["i"] == [2, 3]
        assert ir.to_proto(model).graph.output[0].type.tensor_type.elem_type == FLOAT

    def test_others_stay(self) -> None:
        model = ir.load(self.proto(["n", 4], [2, "m"]))
        before = ir.fingerprint(model)
        assert check.accept(model) == "" and ir.fingerprint(model) == before

    def test_a_contradiction_of_operators_is_still_one(self) -> None:
        proto = self.proto([1, 4], [2, 4])
        proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((5, 4), np.float32), "w"))
        model = ir.load(proto)
        before = ir.fingerprint(model)
        with pytest.raises(check.InvariantError, match="MatMul"):
            check.accept(model)
        assert ir.fingerprint(model) == before

    def test_every_command_takes_them(self, tmp_path: Path) -> None:
        path, result = tmp_path / "m.onnx", tmp_path / "o.onnx"
        onnx.save(self.proto([1, 4], [1, 4]), path)
        code, out, error = command("optimize", path, "-o", result, "-p", "clean")
        assert code == 0 and "recorded sizes that the operators contradict were dropped" in out, error
        for arguments in (["verify", path, result], ["inspect", path], ["bisect", path, "-p", "clean"]):
            assert command(*arguments)[0] == 0
        (y,) = ort.InferenceSession(result, providers=["CPUExecutionProvider"]).run(None, {"x": np.ones((2, 3), "f")})
        assert y.shape == (2, 4)
        assert Pipeline.parse("clean").run(self.proto([1, 4], [1, 4])).graph.node[0].op_type == "MatMul"


@pytest.mark.parametrize("where", ["graph", "body"])
@pytest.mark.parametrize(
    ("domain", "op", "attributes"),
    [("com.microsoft", "Gelu", {}), ("ai.onnx.ml", "Scaler", {"offset": [1.0], "scale": [2.0]})],
)
def test_a_domain_that_is_used_and_not_imported(domain: str, op: str, attributes: dict[str, Any], where: str) -> None:
    node = helper.make_node(op, ["x"], ["y"], domain=domain, **attributes)
    if where == "body":
        body = helper.make_graph([node], "body", [], [info("y", FLOAT, [2])])
        node = helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=body)
    constants = {"yes": np.array(True)} if where == "body" else None
    proto = build([node], [info("x", FLOAT, [2])], [info("y", FLOAT, [2])], constants=constants)
    check_equal(proto, {"x": np.float32([-1, 2])})
    assert {entry.domain for entry in ir.to_proto(ir.load(proto)).opset_import} == {"", domain}
