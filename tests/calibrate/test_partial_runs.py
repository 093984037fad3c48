"""Variants that are run from where they differ."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir, registry
from lwgraph.calibrate.partial_runs import PartialRuns, first_change

RNG = np.random.default_rng(0)
FEEDS = [{"x": RNG.standard_normal((2, 6)).astype(np.float32)} for _ in range(3)]


def model(early: bool = False) -> ir.Model:
    """x -> m0 -> r0 -> m1 -> r1, + r0 -> m2; `early`: r0 is an output, too."""
    weights = [numpy_helper.from_array(RNG.standard_normal((6, 6)).astype(np.float32), f"w{i}") for i in range(3)]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["m0"]), helper.make_node("Relu", ["m0"], ["r0"]),
        helper.make_node("MatMul", ["r0", "w1"], ["m1"]), helper.make_node("Relu", ["m1"], ["r1"]),
        helper.make_node("Add", ["r1", "r0"], ["s"]), helper.make_node("MatMul", ["s", "w2"], ["y"]),
    ]  # fmt: skip
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in (["r0", "y"] if early else ["y"])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6])], outputs, weights
    )
    return ir.load(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]))


def scaled(original: ir.Model, name: str) -> ir.Model:
    copy = ir.clone(original)
    value = copy.graph.initializers[name]
    ir.set_constant(value, np.asarray(ir.constant(value)) * np.float32(1.5))
    return copy


class Counting:
    """The ort executor; `sizes` are the numbers of nodes of the models that it was given."""

    name = "counting"

    def __init__(self) -> None:
        self.inner, self.sizes = registry.executor("ort"), []

    def prepare(self, model, outputs=None):
        self.sizes.append(len(list(model.graph)))
        return self.inner.prepare(model, outputs)


def test_a_variant_is_run_from_the_last_cut_before_it():
    m, executor = model(), Counting()
    partial = PartialRuns(m, FEEDS, executor, [0, 2, 5])
    assert partial.cuts == [2, 5]
    for name, start, nodes in (("w0", 0, 6), ("w1", 2, 4), ("w2", 5, 1), ("w2", 4, 4)):
        variant = scaled(m, name)
        run, whole = partial.run(variant, start), executor.inner.prepare(variant)
        assert executor.sizes[-1] == nodes
        for feed in FEEDS:
            np.testing.assert_allclose(run(feed)["y"], whole(feed)["y"], rtol=1e-6)


def test_cuts_fit_into_memory():
    m = model()
    size = 4 * 2 * 6 * len(FEEDS)  # of one value

    def cuts(memory):
        return PartialRuns(m, FEEDS, registry.executor("ort"), [1, 2, 3, 4, 5], memory_bytes=memory * size).cuts

    assert [cuts(5), cuts(4), cuts(2), cuts(1), cuts(0)] == [[1, 2, 3, 4, 5], [1, 2, 4, 5], [2, 5], [5], []]


def test_no_cut_behind_an_output():
    assert PartialRuns(model(early=True), FEEDS, registry.executor("ort"), [1, 2, 3, 5]).cuts == [1]


def test_the_first_change_is_found():
    m = model()
    assert first_change(m, ir.clone(m)) == 6
    for name, start in (("w0", 0), ("w1", 2), ("w2", 5)):
        assert first_change(m, scaled(m, name)) == start
    same = ir.clone(m)
    value = same.graph.initializers["w1"]
    ir.set_constant(value, np.array(ir.constant(value)))
    assert first_change(m, same) == 6
    other = ir.clone(m)
    other.graph[3].op_type = "Sigmoid"
    assert first_change(m, other) == 3
    joined = ir.clone(m)
    joined.graph[4].replace_input_with(1, joined.graph[2].outputs[0])
    assert first_change(m, joined) == 4
