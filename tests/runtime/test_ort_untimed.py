"""The twin of the ort executor for runs that nobody times."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from lwgraph import ir, registry
from lwgraph.executor import untimed


def test_all_cores_unless_the_environment_says_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert untimed(registry.executor("ort", threads=1)).threads == 3
    assert untimed(registry.executor("ort", threads=5)).threads == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert untimed(registry.executor("ort", threads=1)).threads == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone = registry.executor("ort", threads=1)
    assert untimed(alone) is alone
    assert untimed(registry.executor("reference")).name == "reference"


def test_the_same_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((32, 16, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight)],
    )
    model = ir.load(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]))
    one = registry.executor("ort", threads=1)
    feed = {"x": rng.standard_normal((1, 16, 32, 32)).astype(np.float32)}
    assert np.array_equal(one.prepare(model)(feed)["y"], untimed(one).prepare(model)(feed)["y"])
