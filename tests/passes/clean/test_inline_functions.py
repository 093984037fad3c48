"""inline-functions: what is called stands where it is called, and calibration sees it."""

import numpy as np
import onnx.parser
import pytest
from onnx import helper, numpy_helper

from lwgraph import ir, registry
from lwgraph.calibrate.statistics import Statistics
from lwgraph.check import verify
from lwgraph.rewrite import Context, Pass, Pipeline

HEAD = '<ir_version: 9, opset_import: ["": 17, "local": 1]>'
CALLS = "g (float[N,4] x) => (float[N,4] y) { a = local.twice <k=2.0> (x)  b = local.twice(a)  y = Relu(b) }"
TWICE = (
    '<domain: "local", opset_import: ["": 17]> twice <k: float = 3.0> (x) => (y) '
    "{ c = Constant<value_float: float = @k>()  y = Mul(x, c) }"
)


def load(*parts):
    return ir.load(onnx.parser.parse_model("\n".join((HEAD, *parts))))


def same(before, after, shape=(3, 4)):
    x = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    one, other = (registry.executor("ort", optimize=False).prepare(m)(x)["y"] for m in (before, after))
    return np.array_equal(one, other)


def test_calls_and_their_attributes():
    before = load(CALLS, TWICE)
    after = ir.clone(before)
    assert Pass.parse("inline-functions").run(after, Context()) == 1
    verify(after)
    assert [node.op_type for node in after.graph] == ["Constant", "Mul", "Constant", "Mul", "Relu"]
    assert not after.functions and same(before, after)
    assert Pass.parse("inline-functions").run(after, Context()) == 0


@pytest.mark.parametrize("graph", [CALLS, "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"])
def test_another_opset_or_no_call_leaves_the_model(graph):
    model = load(graph, TWICE.replace('["": 17]', '["": 15]'))
    mark, context = ir.fingerprint(model), Context()
    assert Pass.parse("inline-functions").run(model, context) == 0
    assert ir.fingerprint(model) == mark
    assert [("Opset mismatch" in s.reason) for s in context.skipped] == [True] * ("twice" in graph)


def test_forms_in_functions_are_fitted_with_samples():
    w = np.random.default_rng(0).standard_normal((32, 32, 3, 3)).astype(np.float32) / 17
    block = helper.make_function(
        "local",
        "Block",
        ["x"],
        ["y"],
        [
            helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(w)),
            helper.make_node("Conv", ["x", "k"], ["y"], name="deep", pads=[1, 1, 1, 1]),
        ],
        [helper.make_opsetid("", 17)],
    )
    shape = ["n", 32, 8, 8]
    graph = helper.make_graph(
        [
            helper.make_node("Block", ["x"], ["a"], domain="local"),
            helper.make_node("Block", ["a"], ["y"], domain="local"),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, shape)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    model = ir.load(helper.make_model(graph, functions=[block], opset_imports=opsets, ir_version=9))
    before = ir.clone(model)
    Pipeline.parse("clean").run(model, Context())
    assert not model.functions and len(model.graph.initializers) == 1  # called twice, stored once
    assert same(before, model, (2, 32, 8, 8))
    feeds = [{"x": np.random.default_rng(i).standard_normal((2, 32, 8, 8)).astype(np.float32)} for i in range(3)]
    ort = registry.executor("ort")
    statistics = Statistics(model, feeds, ort)
    context = Context(statistics=statistics, reference=registry.executor("reference"))
    assert Pass.parse("low-rank{rank=16}").run(model, context) == 2
    names = list(model.graph.initializers)
    # Both calls still share their stages; biases, there being none before, keep the means that the samples have.
    assert len(names) == 4 and sum("bias" in name for name in names) == 2
