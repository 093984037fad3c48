"""Removal of channels that once computed wrong models."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from lwgraph import ir, registry
from lwgraph.passes.prune.dead import RemoveDeadChannels
from lwgraph.rewrite import Context, Pipeline


def random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def proto(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], shape: list[Any] | None, outputs: list[str] | None = None
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs or ["y"]],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, x: Any) -> list[Any]:
    return list(ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x}))


def check_equal(model: onnx.ModelProto, x: Any) -> int:
    """Remove dead channels, compare in ONNX Runtime; how many were removed."""
    changed = ir.load(model)
    count = RemoveDeadChannels().run(changed, Context())
    for before, after in zip(run(model, x), run(ir.to_proto(changed), x), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    return count


def with_dead(weight: Any, *rows: int) -> Any:
    weight = weight.copy()
    weight[list(rows)] = 0
    return weight


class TestTwoConstantsIntoOneBias:
    NORM = {  # noqa: RUF012
        "s": np.ones(8, np.float32),
        "b": random(8, seed=1) + 1,
        "m": random(8, seed=2),
        "v": np.ones(8, np.float32),
    }

    @pytest.mark.parametrize("bias", [True, False])
    def test_a_concat_of_two_layers(self, bias: bool) -> None:
        constants = {
            "w1": with_dead(random(4, 3, 1, 1, seed=3), 1),
            "w3": with_dead(random(4, 3, 1, 1, seed=4), 2, 3),
            "w2": random(5, 8, 1, 1),
            **self.NORM,
            **({"b2": random(5)} if bias else {}),
        }
        nodes = [
            helper.make_node("Conv", ["x", "w1"], ["a"], name="A"),
            helper.make_node("Conv", ["x", "w3"], ["d"], name="D"),
            helper.make_node("Concat", ["a", "d"], ["k"], axis=1),
            helper.make_node("BatchNormalization", ["k", "s", "b", "m", "v"], ["c"]),
            helper.make_node("Conv", ["c", "w2", *(["b2"] if bias else [])], ["y"], name="reader"),
        ]
        assert check_equal(proto(nodes, constants, [1, 3, 8, 8]), random(1, 3, 8, 8)) == 3

    @pytest.mark.parametrize("attributes", [{}, {"beta": 2.0}, {"beta": 0.0}, {"transB": 1}, {"alpha": 0.5}])
    def test_a_gemm(self, attributes: dict[str, Any]) -> None:
        reader = random(8, 5)
        constants = {
            "w1": with_dead(random(4, 3, seed=3), 1),
            "c1": np.ones(4, np.float32),
            "w3": with_dead(random(4, 3, seed=4), 2),
            "c3": np.float32([1, 2, 3, 4]),
            "w2": reader.T.copy() if "transB" in attributes else reader,
            "b2": random(5),
        }
        nodes = [
            helper.make_node("Gemm", ["x", "w1", "c1"], ["a"], name="A", transB=1),
            helper.make_node("Gemm", ["x", "w3", "c3"], ["d"], name="D", transB=1),
            helper.make_node("Concat", ["a", "d"], ["k"], axis=1),
            helper.make_node("Gemm", ["k", "w2", "b2"], ["y"], name="reader", **attributes),
        ]
        assert check_equal(proto(nodes, constants, [2, 3]), random(2, 3)) == 2


class TestUnknownRank:
    @pytest.mark.parametrize(
        ("op", "inputs"),
        [
            ("BatchNormalization", ["s", "b", "m", "v"]),
            ("InstanceNormalization", ["s", "b"]),
            ("Relu", []),
            ("PRelu", ["slope"]),
            ("Mul", ["factor"]),
        ],
    )
    def test_what_follows_a_cut_layer_fits(self, op: str, inputs: list[str]) -> None:
        """The input has no shape, so the layer's output has no rank that inference could give."""
        constants = {
            "w1": with_dead(random(8, 3, 1, 1), 1, 5),
            "w2": random(5, 8, 1, 1),
            **TestTwoConstantsIntoOneBias.NORM,
            "slope": random(8, 1, 1),
            "factor": random(8, 1, 1),
        }
        nodes = [
            helper.make_node("Conv", ["x", "w1"], ["a"]),
            helper.make_node(op, ["a", *inputs], ["n"]),
            helper.make_node("Conv", ["n", "w2"], ["y"]),
        ]
        used = {name for node in nodes for name in node.input}
        check_equal(proto(nodes, {k: v for k, v in constants.items() if k in used}, None), random(1, 3, 8, 8))


LEAST = "prune-channels{ratio=0.25,multiple=1,importance=l1,refit=false,compensate=false}"


def check_least(text: str, constants: dict[str, Any], sizes: dict[str, list[Any]] | None = None) -> int:
    """Remove the least quarter of the channels, which add nothing, and compare; how many were removed."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17, "local" : 1]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    for name, shape in (sizes or {}).items():
        model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    changed = ir.load(model)
    (step,) = Pipeline.parse(LEAST).rewrite(changed, Context(executor=registry.executor("ort")))
    x = random(2, 3, 2, 2)
    for before, after in zip(run(model, x), run(ir.to_proto(changed), x), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    return step.count


WEIGHTS = {"w1": with_dead(random(8, 3, 1, 1), 1, 5), "w2": random(5, 8, 1, 1)}


class TestSizesThatAreAskedFor:
    """A size that is asked for by what nobody can read becomes the number of what is left."""

    ASKED: ClassVar[dict[str, str]] = {
        "If": "If(yes) <then_branch = one () => (int64[4] t1) {t1 = Identity(q)}, "
        "else_branch = two () => (int64[4] t2) {t2 = Identity(q)}>",
        "Loop": "Loop(trips, yes, q) <body = b (int64 i, bool go, int64[4] v) => (bool d, int64[4] t1) "
        "{d = Identity(go) t1 = Identity(v)}>",
        "Max": "Max(q, ones)",
        "Abs": "Abs(q)",
    }
    USES: ClassVar[dict[str, str]] = {
        "Expand": "e = Expand(a, t)",
        "Expand of a constant": "k = Expand(fixed, t) e = Add(a, k)",
        "Resize": 'e = Resize <mode = "nearest"> (a, , , t)',
        "Reshape": "e = Reshape(a, t)",
    }

    @pytest.mark.parametrize(
        ("use", "asked"), [pair for pair in itertools.product(USES, ASKED) if pair != ("Resize", "Loop")]
    )  # which ONNX Runtime does not load
    def test_they_fit(self, use: str, asked: str) -> None:
        text = f"""g (float[N,3,2,2] x) => (float[p,5,1,1] y)
            <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[3] rest = {{8, 1, 1}}, int64[4] ones = {{1, 1, 1, 1}},
             bool yes = {{1}}, int64 trips = {{2}}>
            {{ c = Conv(x, w1) a = ReduceMean <axes = [2, 3]> (c) s = Shape(x) n = Slice(s, zero, one)
               q = Concat <axis = 0> (n, rest) t = {self.ASKED[asked]} {self.USES[use]} y = Conv(e, w2) }}"""
        constants = dict(WEIGHTS)
        if "fixed" in text:
            constants["fixed"] = np.ascontiguousarray(with_dead(random(8, 1, 1, 1), 1, 5).reshape(1, 8, 1, 1))
        sizes = {name: ["N", 8, 1, 1] for name in ("e", "k") if f"{name} = " in self.USES[use]}
        # How many sizes come out of a Loop is not known: what needs as many stays.
        assert check_least(text, constants, sizes) == (0 if asked == "Loop" and "Expand" in use else 2)

    def test_of_a_function(self) -> None:
        text = """g (float[N,3,2,2] x) => (float[p,5,2,2] y)
            <int64[1] zero = {0}, int64[1] one = {1}, int64[3] rest = {8, 1, 1}>
            { c = Conv(x, w1) s = Shape(x) t = local.Asked(s, zero, one, rest) e = Expand(c, t) y = Conv(e, w2) }
            <domain: "local", opset_import: ["" : 17]> Asked (s, zero, one, rest) => (t)
            { n = Slice(s, zero, one) t = Concat <axis = 0> (n, rest) }"""
        assert check_least(text, WEIGHTS, {"e": ["N", 8, 2, 2]}) == 2


class TestSizesThatAreComputedWith:
    """Where the number of channels is a number in the outputs, the channels stay."""

    SUM = "s = Shape(a) n = Gather(s, one) q = ReduceSum <keepdims = 1> (a, one)"
    NODES: ClassVar[dict[str, str]] = {
        "If": f"{SUM} y = If(yes) <then_branch = m () => (float[p,1,2,2] y1) "
        "{f = Cast <to = 1> (n) y1 = Div(q, f)}, else_branch = p () => (float[p,1,2,2] y2) {y2 = Identity(q)}>",
        "Loop": f"{SUM} y = Loop(trips, yes, q) <body = b (int64 i, bool go, float[p,1,2,2] t) => "
        "(bool d, float[p,1,2,2] t1) {d = Identity(go) f = Cast <to = 1> (n) t1 = Div(t, f)}>",
        "an output": "s = Shape(a) y = Cast <to = 1> (s)",
    }

    @pytest.mark.parametrize("where", NODES)
    def test_they_stay(self, where: str) -> None:
        output = "float[4] y" if where == "an output" else "float[p,1,2,2] y"
        text = f"""g (float[N,3,2,2] x) => (float[p,5,2,2] z, {output})
            <int64[1] one = {{1}}, bool yes = {{1}}, int64 trips = {{1}}>
            {{ c = Conv(x, w1) a = Relu(c) z = Conv(a, w2) {self.NODES[where]} }}"""
        assert check_least(text, WEIGHTS) == 0
