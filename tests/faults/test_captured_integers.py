"""Layers in integers whose outputs are moved, and then captured by a body: ONNX Runtime dies of such integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from lwgraph import ir
from lwgraph.passes.quantize.quantize import Quantize
from tests.faults.models import applied, conv, images, kernel, model, reasons, sqnr

MOVES: dict[str, list[tuple[str, dict[str, Any], list[str]]]] = {
    "nothing": [],
    "Transpose": [("Transpose", {"perm": [0, 2, 3, 1]}, []), ("Transpose", {"perm": [0, 3, 1, 2]}, [])],
    "Reshape": [("Reshape", {}, ["flat"]), ("Reshape", {}, ["image"])],
    "Unsqueeze": [("Unsqueeze", {}, ["first"]), ("Squeeze", {}, ["first"])],
    "Flatten": [("Flatten", {}, []), ("Reshape", {}, ["image"])],
    "MaxPool": [("MaxPool", {"kernel_shape": [3, 3], "pads": [1] * 4}, [])],
}


def captured(moves: list[tuple[str, dict[str, Any], list[str]]]) -> ir.Model:
    """Conv, moves, an If whose bodies read what they give, Conv."""
    nodes, last = [conv("x", "w1", "a")], "a"
    for index, (op, attributes, more) in enumerate(moves):
        nodes.append(helper.make_node(op, [last, *more], [f"m{index}"], **attributes))
        last = f"m{index}"

    def branch(op: str, *inputs: str) -> Any:
        made = helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, list(inputs), [f"{op}_out"])], op, [], [made])

    nodes += [
        helper.make_node("ReduceMax", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["f"], then_branch=branch("Add", last, last), else_branch=branch("Neg", last)),
        conv("f", "w2", "y"),
    ]
    weights = {
        "w1": kernel(0, 8, 8, 3, 3), "w2": kernel(1, 8, 8, 3, 3), "zero": np.float32(0), "flat": np.int64([1, -1]),
        "image": np.int64([1, 8, 8, 8]), "first": np.int64([0]),
    }  # fmt: skip
    used = {name for node in nodes for name in node.input}
    return model(nodes, {name: array for name, array in weights.items() if name in used})


@pytest.mark.parametrize("name", MOVES)
def test_what_a_body_reads_through_moves_stays_in_float(name: str) -> None:
    before, data = captured(MOVES[name]), images(8)
    after, context, count = applied(Quantize(keep="none"), before, data)
    assert count == (1 if MOVES[name] else 2)
    assert ("to which only moves lead" in reasons(context)) == bool(MOVES[name])
    assert sqnr(before, after, data) > 25
