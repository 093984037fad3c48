"""Localising where two runs part."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.errors import ModelError
from lwgraph.executor import Feeds, Run
from lwgraph.measure.diverge import first_divergence
from lwgraph.rewrite.base import Contract

ROUNDING = Contract.ROUNDING
X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


def chain(length: int, change: int | None = None, amount: float = 0.5) -> ir.Model:
    """v0 = x + 1, v1 = v0 * 0.99, ...; node `change` adds `amount` more."""
    nodes, name = [], "x"
    for i in range(length):
        nodes.append(helper.make_node("Mul" if i % 2 else "Add", [name, f"c{i}"], [f"v{i}"], name=f"n{i}"))
        name = f"v{i}"
    constants = [
        numpy_helper.from_array(
            np.array((1.0 if i % 2 == 0 else 0.99) + (amount if i == change else 0), np.float32), f"c{i}"
        )
        for i in range(length)
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3])],
        constants,
    )
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


class Counting:
    """An executor that notes how many values each run returned, and may refuse or spoil some."""

    name = "counting"

    def __init__(self, refuse: Sequence[str] = (), spoil: Callable[[list[str], dict[str, Array]], None] | None = None):
        self.inner, self.sizes, self.refuse, self.spoil = registry.executor("reference"), [], refuse, spoil

    def prepare(self, model: ir.Model, outputs: Sequence[str] | None = None) -> Run:
        names = [v.name or "" for v in model.graph.outputs] if outputs is None else list(outputs)
        if set(names) & set(self.refuse):
            raise ModelError("this runtime cannot return that value")
        self.sizes.append(len(names))
        run = self.inner.prepare(model, names)

        def wrapped(feeds: Feeds) -> dict[str, Array]:
            results = run(feeds)
            if self.spoil is not None:
                self.spoil(names, results)
            return results

        return wrapped


@pytest.mark.parametrize("change", [0, 1, 57, 98, 99])
def test_finds_the_first_value_within_bounded_memory(change: int) -> None:
    a, b = Counting(), Counting()
    found = first_divergence(chain(100), chain(100, change), a, b, {"x": X}, ROUNDING, at_once=4)
    assert found is not None and found.name == f"v{change}" and not found.hidden
    assert found.operator == f"{'Mul' if change % 2 else 'Add'} 'n{change}'"
    assert found.agreeing == ((f"v{change - 1}",) if change else ())
    assert found.difference.position is not None and found.difference.max_abs > 0.3
    assert max(a.sizes) <= 4 and len(a.sizes) <= 12
    assert "\n" not in str(found) and found.name in str(found)


def test_equal_models_do_not_diverge() -> None:
    executor = registry.executor("reference")
    assert first_divergence(chain(9), chain(9), executor, registry.executor("ort"), {"x": X}, ROUNDING) is None


def test_values_that_only_one_model_has_are_passed_over() -> None:
    other = chain(30, 12)
    for node in other.graph:
        if node.name in ("n12", "n11"):
            node.outputs[0].name = f"renamed_{node.name}"
    executor = registry.executor("reference")
    found = first_divergence(chain(30), other, executor, executor, {"x": X}, ROUNDING)
    assert found is not None and found.name == "v13" and found.agreeing == ("v10",)


def test_a_difference_that_vanishes_and_returns_is_traced_to_its_source() -> None:
    """m = x * s: s differs, the product with 0 hides it, and the output shows it again through another path."""
    nodes = [
        helper.make_node("Add", ["x", "c"], ["s"], name="source"),
        helper.make_node("Mul", ["s", "zero"], ["hidden"]),
        *[helper.make_node("Relu", ["hidden" if i == 0 else f"h{i - 1}"], [f"h{i}"]) for i in range(20)],
        helper.make_node("Add", ["h19", "s"], ["y"]),
    ]

    def build(c: float) -> ir.Model:
        constants = {"c": c, "zero": 0.0}
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
            [numpy_helper.from_array(np.array(v, np.float32), k) for k, v in constants.items()],
        )
        return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))

    executor = registry.executor("reference")
    found = first_divergence(build(1), build(2), executor, executor, {"x": X}, ROUNDING, at_once=2)
    assert found is not None and found.name == "s"


def test_a_value_that_cannot_be_returned_is_passed_over() -> None:
    executor = Counting(refuse=["v19", "v20"])
    found = first_divergence(chain(40), chain(40, 20), executor, executor, {"x": X}, ROUNDING)
    assert found is not None and found.name == "v21" and found.agreeing == ("v18",)


def test_a_fusion_is_told_from_an_operator() -> None:
    """The runtime is wrong only when no intermediate value is returned."""

    def spoil(names: list[str], results: dict[str, Array]) -> None:
        if names == ["v9"]:
            results["v9"] = results["v9"] + 1

    executor = registry.executor("reference")
    found = first_divergence(chain(10), chain(10), executor, Counting(spoil=spoil), {"x": X}, ROUNDING)
    assert found is not None and found.hidden and found.name == "v9" and "fusion" in str(found)


def test_subgraphs_are_followed() -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "s"], ["t"])],
        "then",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
    )

    def build(c: float) -> ir.Model:
        graph = helper.make_graph(
            [
                helper.make_node("Mul", ["x", "c"], ["s"], name="source"),
                helper.make_node("If", ["b"], ["y"], then_branch=body, else_branch=body),
            ],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.array(c, np.float32), "c"), numpy_helper.from_array(np.array(True), "b")],
        )
        return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))

    executor = registry.executor("reference")
    found = first_divergence(build(1), build(2), executor, executor, {"x": X}, ROUNDING)
    assert found is not None and found.name == "s"
