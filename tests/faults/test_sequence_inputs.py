"""Inputs that are sequences of tensors: fed with lists of generated ones, in every command."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lwgraph
from lwgraph import ir, registry
from lwgraph.calibrate.generate import generate, tried
from lwgraph.contract import Contract
from lwgraph.errors import DataError, ModelError
from lwgraph.measure import compare_runs
from lwgraph.measure.variants import variants

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
EXECUTOR = registry.executor("ort")
W = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)


def sequence(kind: int, shape: list[Any]) -> onnx.TypeProto:
    return helper.make_sequence_type_proto(helper.make_tensor_type_proto(kind, shape))


def model(nodes: list[onnx.NodeProto], kind: onnx.TypeProto, constants: dict[str, Any] | None = None) -> ir.Model:
    """From `s` and a float matrix `x` to `y`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_value_info("s", kind), helper.make_tensor_value_info("x", FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in {"w": W, **(constants or {})}.items()],
    )
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def layer(*between: onnx.NodeProto, source: str = "c") -> ir.Model:
    """All items in one, a layer, and `x` added."""
    nodes = [
        helper.make_node("ConcatFromSequence", ["s"], ["c"], axis=0),
        *between,
        helper.make_node("MatMul", [source, "w"], ["m"]),
        helper.make_node("ReduceMean", ["m"], ["a"], axes=[0]),
        helper.make_node("Add", ["x", "a"], ["y"]),
    ]
    return model(nodes, sequence(FLOAT, ["k", 8]))


def test_they_are_lists_of_what_the_model_declares() -> None:
    feeds: list[Any] = list(generate(layer(), 4))
    assert [len(feed["s"]) for feed in feeds] == [3, 2, 4, 1]
    assert all(item.dtype == np.float32 and item.shape[1:] == (8,) for feed in feeds for item in feed["s"])
    assert not np.array_equal(feeds[0]["s"][0], feeds[0]["s"][1])
    again: list[Any] = list(generate(layer(), 4))
    assert all(
        np.array_equal(a, b)
        for one, two in zip(feeds, again, strict=True)
        for a, b in zip(one["s"], two["s"], strict=True)
    )
    assert "'s' float32 -" in tried(feeds)


def test_integers_in_them_stay_below_what_they_index() -> None:
    nodes = [
        helper.make_node("ConcatFromSequence", ["s"], ["c"], axis=0),
        helper.make_node("Gather", ["w", "c"], ["g"]),
        helper.make_node("ReduceSum", ["g"], ["r"]),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    feeds: list[Any] = list(generate(model(nodes, sequence(INT64, [3])), 4))
    assert {int(v) for feed in feeds for item in feed["s"] for v in item} <= set(range(8))


def test_such_a_model_is_cleaned_and_proved_in_both_executors() -> None:
    given = layer(helper.make_node("Identity", ["c"], ["d"]), source="d")
    result = lwgraph.optimize(given)
    assert "Identity" not in [node.op_type for node in result.model.graph]
    assert {check.executor for check in result.report.checks if check.ok} >= {"ort", "reference"}
    feed: Any = {"s": [np.ones((2, 8), np.float32), np.full((3, 8), 2, np.float32)], "x": np.zeros((1, 4), np.float32)}
    wanted = 1.6 * W.sum(0, keepdims=True)
    np.testing.assert_allclose(EXECUTOR.prepare(result.model)(feed)["y"], wanted, rtol=1e-5)


@pytest.mark.parametrize("wrong", ["Abs", "Relu"])
def test_what_is_wrong_for_their_values_is_caught(wrong: str) -> None:
    right, other = layer(), layer(helper.make_node(wrong, ["c"], ["d"]), source="d")
    given, run = generate(right, 4), EXECUTOR.prepare(right)
    feeds = [*given, *(each.feeds for each in variants(right, given, run) if each.counts(Contract.ROUNDING))]
    assert len(feeds) > len(given)  # the tensor beside it varies
    assert not compare_runs(run, EXECUTOR.prepare(other), feeds, Contract.ROUNDING).ok
    assert compare_runs(run, EXECUTOR.prepare(layer()), feeds, Contract.EXACT).ok


def test_data_for_them_are_refused_with_what_is_done_without() -> None:
    feed: Any = {"s": [np.ones((2, 8), np.float32)], "x": np.ones((1, 4), np.float32)}
    with pytest.raises(DataError, match=r"'s' is a sequence of float32 \[k, 8\].*without data it is made by itself"):
        lwgraph.optimize(layer(), data=[feed] * 4)


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("OptionalHasElement", helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, [2]))),
        ("OptionalHasElement", helper.make_optional_type_proto(sequence(FLOAT, [2]))),
    ],
)
def test_what_is_neither_tensor_nor_sequence_is_refused_in_one_line(operator: str, kind: onnx.TypeProto) -> None:
    nodes = [
        helper.make_node(operator, ["s"], ["h"]),
        helper.make_node("Cast", ["h"], ["f"], to=FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    with pytest.raises(ModelError, match=r"'s' .* cannot be fed: export the model with tensors in their place$"):
        generate(model(nodes, kind), 1)
