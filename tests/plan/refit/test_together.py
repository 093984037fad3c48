"""Small feeds are run together where that changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir, registry
from lwgraph.plan.refit.samples import BYTES, ROWS, together

ORT = registry.executor("ort")


def network(*nodes: Any, batch: int | str = "n", width: int | str = 4) -> ir.Model:
    """x (n, 4) -> y; by itself a product."""
    weight = numpy_helper.from_array(np.arange(16, dtype=np.float32).reshape(4, 4), "w")
    listed = nodes or (helper.make_node("MatMul", ["x", "w"], ["y"]),)
    graph = helper.make_graph(
        list(listed),
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight],
    )
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


def feeds(count: int, rows: int = 1, width: int = 4) -> list[Any]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((rows, width)).astype(np.float32)} for _ in range(count)]


def test_all_samples_are_there_once_and_held_out_ones_stay_apart() -> None:
    given, held = feeds(40), {0, 1, 2, 39}
    joined, numbers = together(given, held, [network()], ORT)
    assert len(joined) == 1 + -(-36 // ROWS) and numbers == {0}
    apart = np.concatenate([joined[i]["x"] for i in numbers])
    np.testing.assert_array_equal(apart, np.concatenate([given[i]["x"] for i in sorted(held)]))
    rest = np.concatenate([feed["x"] for i, feed in enumerate(joined) if i not in numbers])
    np.testing.assert_array_equal(rest, np.concatenate([f["x"] for i, f in enumerate(given) if i not in held]))


@pytest.mark.parametrize(
    "model, given",
    [
        (network(batch=1), feeds(8)),
        (network(helper.make_node("ReduceMean", ["x"], ["y"], keepdims=0)), feeds(8)),
        (network(helper.make_node("Softmax", ["x"], ["y"], axis=0)), feeds(8)),
        (network(helper.make_node("Softmax", ["x"], ["y"]), width="m"), [*feeds(4), *feeds(4, width=5)]),
        (network(), feeds(8, rows=ROWS)),
        (network(helper.make_node("Relu", ["x"], ["y"]), width="m"), feeds(8, width=BYTES // 4)),
        (network(), feeds(2)),
    ],
    ids=["fixed", "no axis of samples", "over samples", "shapes", "rows", "bytes", "two"],
)
def test_others_stay_as_they_are(model: ir.Model, given: list[Any]) -> None:
    joined, numbers = together(given, {0}, [model], ORT)
    assert [id(feed) for feed in joined] == [id(feed) for feed in given] and numbers == {0}


def test_every_model_must_agree() -> None:
    odd = network(helper.make_node("Softmax", ["x"], ["y"], axis=0))
    assert len(together(feeds(8), {0}, [network(), odd], ORT)[0]) == 8
    assert len(together(feeds(8), {0}, [network(), network()], ORT)[0]) == 2
