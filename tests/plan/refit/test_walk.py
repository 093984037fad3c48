"""Running a model piece by piece: the same values, few runs of each node, bounded memory."""

import contextlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir, registry
from lwgraph.errors import ModelError
from lwgraph.ir import copying
from lwgraph.plan.refit.walk import Walk
from tests.plan.refit.counting import Counting
from tests.plan.refit.residual import inputs, network

ORT = registry.executor("ort")


def held(walk: Walk) -> set[str]:
    """The values that can be had without running anything."""
    found = set()
    for value in [*walk.model.graph.inputs, *(n.outputs[0] for n in walk.model.graph)]:
        with contextlib.suppress(KeyError):
            walk.get(value.name or "", 0)
            found.add(value.name or "")
    return found


def test_every_value_is_that_of_the_whole_model_and_each_node_runs_once() -> None:
    model, feeds, executor = network(), inputs(3), Counting()
    walk = Walk(model, feeds, executor, 1 << 20)
    whole = ORT.prepare(model, [n.outputs[0].name for n in model.graph])
    expected = [whole(feed) for feed in feeds]
    for index, node in enumerate(model.graph):
        walk.to(index)
        for value in node.inputs:
            if value.name in walk:
                for feed in range(3):
                    got = walk.get(value.name, feed)
                    want = feeds[feed]["x"] if value.name == "x" else expected[feed][value.name]
                    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    walk.to(index + 1)
    assert set(executor.runs.values()) == {3}
    assert held(walk) == {"y"}


def test_what_is_kept_stays_until_released_and_the_rest_goes() -> None:
    model, feeds = network(), inputs(2)
    walk = Walk(model, feeds, ORT, 1 << 20, keep={"a0"})
    walk.to(8)
    assert "a0" in held(walk) and "r0" not in held(walk)
    assert [v["a0"].shape for _, v in walk.look(["a0"], [0])] == [(1, 16, 8, 8)]
    walk.release({"a0"})
    assert "a0" not in held(walk)
    with pytest.raises(ModelError, match="behind"):
        list(walk.look(["a0"], [0]))


def test_what_does_not_fit_into_memory_goes_to_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def in_files() -> int:
        return sum(np.load(path)["a0"].nbytes for path in tmp_path.rglob("*.npz"))

    model, feeds = network(), inputs(6)
    large = Walk(model, feeds, ORT, 1 << 22)
    large.to(7)
    assert in_files() == 0
    small = Walk(model, feeds, ORT, 9000)
    small.to(7)
    names = held(small)
    assert "o0" in names and names == held(large)
    size = sum(large.get(name, feed).nbytes for name in names for feed in range(6))
    assert size > 40000
    for name in names:
        for feed in range(6):
            assert np.array_equal(small.get(name, feed), large.get(name, feed))
            assert size - in_files() <= 9000


def test_looking_ahead_does_not_move_and_sees_new_weights() -> None:
    model, feeds = network(), inputs(2)
    walk = Walk(model, feeds, ORT, 1 << 20)
    walk.to(5)
    ((_, before),) = walk.look(["a1"], [1])
    value = model.graph.initializers["w1a"]
    ir.set_constant(value, 2 * ir.constant(value))
    bias = model.graph.initializers["b1a"]
    ir.set_constant(bias, 2 * ir.constant(bias))
    ((_, after),) = walk.look(["a1"], [1])
    np.testing.assert_allclose(after["a1"], 2 * before["a1"], rtol=1e-4, atol=1e-4)
    assert walk.position == 5


def test_values_that_subgraphs_use_and_sequences() -> None:
    node, info = helper.make_node, helper.make_tensor_value_info
    inner = [
        helper.make_graph(
            [node("Add", ["a", "a"] if yes else ["a", "b"], [f"i{yes}"])],
            f"g{yes}",
            [],
            [info(f"i{yes}", TensorProto.FLOAT, None)],
        )
        for yes in (0, 1)
    ]
    nodes = [
        node("Relu", ["x"], ["a"], "na"), node("Neg", ["x"], ["b"], "nb"),
        node("Constant", [], ["k"], "nk", value_float=1.0),
        node("SequenceConstruct", ["a", "b"], ["s"], "ns"), node("Exp", ["b"], ["e"], "ne"),
        node("SequenceAt", ["s", "zero"], ["t"], "nt"),
        node("If", ["yes"], ["f"], "nf", then_branch=inner[1], else_branch=inner[0]),
        node("Sum", ["t", "f", "e", "k"], ["y"], "ny"),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, [4]), info("yes", TensorProto.BOOL, [])],
        [info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.int64(0), "zero")],
    )
    model = ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
    ir.infer_shapes(model)
    feeds = [{"x": np.float32([1, -2, 3, -4]), "yes": np.array(flag)} for flag in (True, False)]
    walk = Walk(model, feeds, ORT, 1 << 20)
    assert "k" not in walk
    for index in range(len(nodes) + 1):
        walk.to(index)
        (found,) = [v["y"] for _, v in walk.look(["y"], [0])]
        np.testing.assert_allclose(found, ORT.prepare(model)(feeds[0])["y"], rtol=1e-5)


def test_what_a_step_costs_does_not_grow_with_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a chain of any length, the same number of nodes is looked at for each of its layers."""
    looked: list[int] = []
    uses = copying.uses
    monkeypatch.setattr(copying, "uses", lambda node: looked.append(1) or uses(node))

    def steps(layers: int) -> float:
        nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"], name=f"n{i}") for i in range(layers)]
        shape = [TensorProto.FLOAT, ["n", 2]]
        ends = [[helper.make_tensor_value_info(name, *shape)] for name in ("v0", f"v{layers}")]
        graph, opsets = helper.make_graph(nodes, "chain", *ends), [helper.make_opsetid("", 18)]
        model = ir.load(helper.make_model(graph, opset_imports=opsets, ir_version=9))
        walk = Walk(model, [{"v0": np.ones((1, 2), np.float32)}], ORT, 1 << 20)
        looked.clear()
        for index in range(1, layers):
            walk.to(index)
        return len(looked) / (layers - 1)

    assert steps(8) == steps(32) == 1
