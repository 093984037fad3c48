"""Outputs that are as long as values say: an approximation may change how many values there are, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from lwgraph import ir, registry
from lwgraph.contract import Contract
from lwgraph.errors import CheckError
from lwgraph.measure.compare import compare
from lwgraph.measure.sized_by_values import sized_by_values
from lwgraph.measure.tolerances import FINITE
from lwgraph.rewrite import Context, Pipeline
from lwgraph.rewrite.instruments.verify import Verify
from tests.faults.models import conv, images, kernel, model

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def chosen() -> ir.Model:
    """The values of a convolution that are over a threshold, where they are, and the convolution itself."""
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("Relu", ["a"], ["r"]),
        conv("r", "w2", "b"),
        helper.make_node("Greater", ["b", "least"], ["g"]),
        helper.make_node("NonZero", ["g"], ["where"]),
        helper.make_node("Transpose", ["where"], ["places"], perm=[1, 0]),
        helper.make_node("GatherND", ["b", "places"], ["values"]),
    ]
    weights = {"w1": kernel(0, 8, 8, 3, 3), "w2": kernel(1, 8, 8, 3, 3), "least": np.float32(0.3)}
    outputs = [("values", FLOAT, ["k"]), ("places", INT64, ["k", 4]), ("b", FLOAT, [1, 8, 8, 8])]
    return model(nodes, weights, outputs=outputs)


def test_outputs_that_are_as_long_as_values_say() -> None:
    assert sized_by_values(chosen()) == {"values", "places"}


@pytest.mark.parametrize(
    ("maker", "sized"),
    [
        (["Shape"], False),
        (["Shape", "Identity"], False),
        (["Flatten", "Shape"], False),
        (["NonZero", "Shape"], True),
        (["ReduceMax", "Cast"], True),
    ],
)
def test_what_a_size_follows_from(maker: list[str], sized: bool) -> None:
    nodes, last = [], "x"
    for index, op in enumerate(maker):
        attributes = {"to": INT64} if op == "Cast" else {"keepdims": 0} if op == "ReduceMax" else {}
        nodes.append(helper.make_node(op, [last], [f"v{index}"], **attributes))
        last = f"v{index}"
    nodes += [helper.make_node("Reshape", [last, "flat"], ["s"]), helper.make_node("ConstantOfShape", ["s"], ["y"])]
    made = model(nodes, {"flat": np.int64([-1])}, outputs=[("y", FLOAT, None)])
    assert bool(sized_by_values(made)) == sized


def test_an_approximation_may_find_another_number_of_values() -> None:
    made, data = chosen(), images(6)
    context = Context(executor=registry.executor("ort"), data=data)
    Pipeline.parse("quantize{keep=none}").run(made, context, [Verify(feeds=data, samples=6, approximate=False)])
    assert any(node.op_type == "QuantizeLinear" for node in made.graph)


def test_not_where_it_must_keep_the_outputs() -> None:
    with pytest.raises(CheckError, match=r"broke its contract .*value '(values|places)'"):
        Pipeline.parse("low-rank{rank=1}").run(chosen(), Context(), [Verify()])


def test_only_sizes_may_differ() -> None:
    a = {"y": np.zeros((3, 4), np.float32)}
    for b, ok in (((2, 4), True), ((3, 4, 1), False)):
        found = compare(
            a, {"y": np.zeros(b, np.float32)}, Contract.APPROXIMATE, tolerances=lambda dtype: FINITE, resizable=["y"]
        )
        assert found.ok == ok
    other = {"y": np.zeros((2, 4), np.float64)}
    assert not compare(a, other, Contract.APPROXIMATE, resizable=["y"]).ok
    assert not compare(a, {"y": np.zeros((2, 4), np.float32)}, Contract.APPROXIMATE).ok


@pytest.mark.parametrize(("old", "new", "ok"), [(1.0, np.nan, False), (np.nan, 1.0, True), (np.inf, np.nan, True)])
def test_what_was_not_finite_may_become_anything(old: float, new: float, ok: bool) -> None:
    a, b = ({"y": np.float32([2.0, value])} for value in (old, new))
    assert compare(a, b, Contract.APPROXIMATE, tolerances=lambda dtype: FINITE).ok == ok
