"""Operators that the runtime has an integer kernel for, spelled as it has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from lwgraph import ir, registry
from lwgraph.passes.quantize.placing import spellings
from lwgraph.passes.quantize.placing.spellings import refusals
from lwgraph.passes.quantize.placing.target import load_target
from lwgraph.passes.quantize.quantize import Quantize
from tests.faults.models import Array, applied, conv, images, in_integers, kernel, model, reasons, sqnr

NONE: dict[str, Array] = {}
CASES: dict[str, tuple[int, list[str], dict[str, Any], dict[str, Array], int]] = {
    "AveragePool, dilations of one": (19, ["AveragePool"], {"kernel_shape": [2, 2], "dilations": [1, 1]}, NONE, 1),
    "AveragePool, dilated": (19, ["AveragePool"], {"kernel_shape": [2, 2], "dilations": [2, 2]}, NONE, 1),
    "AveragePool, ceil_mode": (
        17,
        ["AveragePool"],
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        NONE,
        1,
    ),
    "AveragePool, same": (17, ["AveragePool"], {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER"}, NONE, 1),
    "Resize, axes": (
        18,
        ["Resize", "", "scales"],
        {"mode": "linear", "axes": [2, 3]},
        {"scales": np.array([2, 2], np.float32)},
        1,
    ),
    "Resize, sizes and policy": (
        18,
        ["Resize", "", "", "sizes"],
        {"mode": "nearest", "axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"},
        {"sizes": np.array([16, 12], np.int64)},
        1,
    ),
    "Resize, antialias": (
        18,
        ["Resize", "", "", "sizes"],
        {"mode": "linear", "antialias": 1},
        {"sizes": np.array([1, 8, 4, 4], np.int64)},
        1,
    ),
    "MaxPool, dilated": (17, ["MaxPool"], {"kernel_shape": [2, 2], "dilations": [2, 2]}, NONE, 1),
    "Transpose": (17, ["Transpose"], {"perm": [0, 1, 3, 2]}, NONE, 1),
    "Slice, backwards": (
        17,
        ["Slice", "start", "end", "axes", "steps"],
        {},
        {n: np.array([v], np.int64) for n, v in (("start", -1), ("end", -99), ("axes", 3), ("steps", -1))},
        1,
    ),
}


def between(opset: int, spelled: list[str], attributes: dict[str, Any], constants: dict[str, Array]) -> ir.Model:
    nodes: list[NodeProto] = [
        conv("x", "w1", "a"),
        helper.make_node(spelled[0], ["a", *spelled[1:]], ["b"], "middle", **attributes),
        conv("b", "w2", "y"),
    ]
    weights = {"w1": kernel(1, 8, 8, 3, 3), "w2": kernel(2, 8, 8, 3, 3), **constants}
    return model(nodes, weights, outputs=[("y", TensorProto.FLOAT, (1, 8, None, None))], opset=opset)


@pytest.mark.parametrize("name", [name for name in CASES if name != "Resize, sizes and policy"])
def test_an_island_runs_whatever_its_nodes_spell(name: str) -> None:
    opset, spelled, attributes, constants, _ = CASES[name]
    before, data = between(opset, spelled, attributes, constants), images()
    after, context, count = applied(Quantize(keep="none"), before, data)
    assert count >= 2, reasons(context)
    assert {"conv_a", "conv_y"} <= in_integers(after)
    assert sqnr(before, after, data) > 25


@pytest.mark.parametrize("target", ["qnn", "tensorrt"])
@pytest.mark.parametrize("name", ["AveragePool, dilations of one", "AveragePool, dilated"])
def test_a_file_for_another_runtime_runs_in_this_one(name: str, target: str) -> None:
    opset, spelled, attributes, constants, _ = CASES[name]
    before, data = between(opset, spelled, attributes, constants), images()
    after, context, count = applied(Quantize(target=target, keep="none"), before, data)
    assert count >= 2, reasons(context)
    assert sqnr(before, after, data) > 25


@pytest.mark.parametrize(
    "name, refused",
    [
        ("AveragePool, dilations of one", True),
        ("AveragePool, dilated", True),
        ("Resize, antialias", False),
        ("Transpose", False),
        ("MaxPool, dilated", False),
    ],
)
def test_the_runtime_is_asked(name: str, refused: bool) -> None:
    opset, spelled, attributes, constants, _ = CASES[name]
    before = between(opset, spelled, attributes, constants)
    found = refusals(before, load_target("ort-cpu"), registry.executor("ort"), (), images()[0])
    assert ("middle" in found) == refused, found
    assert not {"conv_a", "conv_y"} & set(found)


def test_what_the_runtime_cannot_run_beside_integers_keeps_them_away() -> None:
    opset, spelled, attributes, constants, _ = CASES["Resize, sizes and policy"]
    before, data = between(opset, spelled, attributes, constants), images()
    after, context, count = applied(Quantize(keep="none"), before, data)
    assert count == 0 and "the runtime fails at 'middle' (Resize) beside integer" in reasons(context)
    assert sqnr(before, after, data) > 100


def test_sizes_and_shapes_that_the_model_leaves_open_are_those_of_a_sample() -> None:
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("Shape", ["a"], ["shape"]),
        helper.make_node("Gather", ["shape", "order"], ["turned"]),
        helper.make_node("Reshape", ["a", "turned"], ["r"], "reshape"),
        helper.make_node("AveragePool", ["r"], ["b"], "pool", kernel_shape=[2, 2], dilations=[1, 1]),
        conv("b", "w2", "y"),
    ]
    weights = {"w1": kernel(1, 8, 8, 3, 3), "w2": kernel(2, 8, 8, 3, 3), "order": np.array([0, 1, 3, 2], np.int64)}
    before = model(
        nodes,
        weights,
        inputs=[("x", TensorProto.FLOAT, ("n", 8, "h", 8))],
        outputs=[("y", TensorProto.FLOAT, (None, 8, None, None))],
        opset=19,
    )
    data = images(6, (2, 8, 12, 8))
    after, _, _ = applied(Quantize(keep="none"), before, data)
    assert {"conv_a", "conv_y"} <= in_integers(after) and "pool" not in in_integers(after)
    assert sqnr(before, after, data) > 25


def test_the_runtime_is_asked_once_for_nodes_that_it_cannot_tell_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights do not matter, as a layer is asked for with ones; other constants, shapes and attributes do."""
    asked: list[str] = []
    monkeypatch.setattr(spellings, "_known", {})
    monkeypatch.setattr(spellings, "_refusal", lambda alone, *_: asked.append(alone.graph[0].op_type) or ("", ""))

    def ask(name: str, size: int = 8, seed: int = 1, sizes: tuple[int, ...] = (1, 8, 4, 4)) -> list[str]:
        opset, spelled, attributes, constants, _ = CASES[name]
        constants = {"sizes": np.array(sizes, np.int64)} if "sizes" in constants else constants
        nodes = [conv("x", "w1", "a"), helper.make_node(spelled[0], ["a", *spelled[1:]], ["b"], "middle", **attributes)]
        made = model(
            nodes,
            {"w1": kernel(seed, 8, 8, 3, 3), **constants},
            inputs=[("x", 1, (1, 8, None, None))],
            outputs=[("b", 1, None)],
            opset=opset,
        )
        asked.clear()
        refusals(made, load_target("ort-cpu"), registry.executor("ort"), (), {"x": np.ones((1, 8, size, size), "f")})
        return sorted(asked)

    assert ask("Resize, antialias") == ["Conv", "Resize"]
    assert ask("Resize, antialias") == ask("Resize, antialias", seed=2) == []
    assert ask("Resize, antialias", sizes=(1, 8, 5, 4)) == ["Resize"]
    assert ask("Resize, antialias", size=9) == ["Conv", "Resize"]
    assert ask("AveragePool, dilated") == ["AveragePool", "Conv"]  # another opset
    assert ask("AveragePool, ceil_mode") == ["AveragePool", "Conv"]
    assert ask("AveragePool, same") == ["AveragePool"]


@pytest.mark.parametrize(("operator", "constant"), [("Mul", 32.0), ("Add", 3.0), ("Mul", -12.5)])
def test_a_node_that_enlarges_rounding_is_not_taken_for_a_broken_one(operator: str, constant: float) -> None:
    """The strides by which a detector multiplies its boxes: nothing of such a network ran in integers."""
    by = np.full((1, 8, 1, 1), constant, np.float32)
    found = between(17, [operator, "by"], {}, {"by": by})
    target, executor = load_target("ort-cpu"), registry.executor("ort")
    assert refusals(found, target, executor, (), images(1)[0]) == {}
