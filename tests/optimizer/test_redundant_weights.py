"""Without data only what keeps a weight itself is done, and what data would buy is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.layers.site import find_sites
from lwgraph.optimizer import optimize
from lwgraph.optimizer.without_data import EXACT_TAIL, LOST, Promise, estimate, exact_plan, tail_rank
from lwgraph.plan.carry_out import carry_out
from lwgraph.plan.price.oracle import Oracle, Price
from lwgraph.plan.price.price_table import PriceCache
from lwgraph.rewrite import Context


def layer(weight: np.ndarray, group: int = 1) -> ir.Model:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", weight.shape[1] * group, 8, 8]))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 17}, name="one")
    w = ir.add_initializer(graph, weight.astype(np.float32), "w")
    node = ir.make_node("Conv", [x, w], {"group": group})
    node.name, node.outputs[0].name = "layer", "y"
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph.append(node)
    graph.outputs.append(node.outputs[0])
    return ir.Model(graph, ir_version=8)


def of_view(view: str) -> np.ndarray:
    """A weight of few ranks in one of its views."""
    random = np.random.default_rng(0)
    if view == "outputs":
        return (random.standard_normal((32, 4)) @ random.standard_normal((4, 16 * 9))).reshape(32, 16, 3, 3)
    if view == "inputs":
        weight = np.einsum("ir,rox->oix", random.standard_normal((16, 3)), random.standard_normal((3, 32, 9)))
        return weight.reshape(32, 16, 3, 3)
    if view == "spatial":
        return np.einsum("ryi,roz->oiyz", random.standard_normal((6, 3, 16)), random.standard_normal((6, 32, 3)))
    return random.standard_normal((32, 16, 3, 3))


@pytest.mark.parametrize(("view", "rank"), [("outputs", 4 / 32), ("inputs", 3 / 16), ("spatial", 6 / 48), ("none", 1)])
def test_each_view_counts(view: str, rank: float) -> None:
    (site,) = find_sites(layer(of_view(view)))
    assert tail_rank(site, EXACT_TAIL) == pytest.approx(rank)


def test_a_larger_tail_leaves_less() -> None:
    (site,) = find_sites(layer(of_view("none")))
    assert 0 < tail_rank(site, 0.5) < tail_rank(site, 0.02) < 1


def test_groups_and_zero_weights() -> None:
    (grouped,) = find_sites(layer(np.ones((8, 1, 3, 3)), group=8))
    assert tail_rank(grouped, EXACT_TAIL) == 1
    (zero,) = find_sites(layer(np.zeros((8, 8, 3, 3))))
    assert tail_rank(zero, EXACT_TAIL) == 0


class HalfAsLong(Oracle):
    """Layers take their work in nanoseconds, half of it in integers; forms in proportion to their work."""

    def prices(self, site: Any, forms: Any, precision: str = "float") -> list[Price]:
        dense = site.macs() * 1e-6
        taken = [dense if form is None else form.macs(site) * 1e-6 for form in forms]
        return [Price(dense, ms / (1 if precision == "float" else 2)) for ms in taken]

    def switch(self, site: Any) -> float:
        return 0.0

    def whole(self, models: Any, feeds: Any, seconds: float = 2.0) -> list[float]:
        return [1.25 * sum(s.macs() for s in find_sites(m, SHAPES)) * 1e-6 for m in models.values()]


SHAPES = {"x": (1, 16, 8, 8), "y": (1, 32, 6, 6)}
FEEDS = {"x": np.random.default_rng(1).standard_normal((1, 16, 8, 8)).astype(np.float32)}
ORT = registry.executor("ort")


@pytest.fixture
def oracle(tmp_path: Path) -> HalfAsLong:
    return HalfAsLong(ORT, PriceCache(tmp_path))


@pytest.mark.parametrize("view", ["outputs", "none"])
def test_only_what_keeps_the_weight_itself_is_planned(view: str, oracle: HalfAsLong) -> None:
    model, context = layer(of_view(view)), Context(executor=ORT, reference=registry.executor("reference"))
    plan = exact_plan(model, context, oracle, ["low-rank"], FEEDS)
    if view == "none":
        assert plan.empty and "without data: no form" in context.skipped[0].reason
        return
    made = carry_out(model, plan, context).model
    before, after = (ORT.prepare(m)(FEEDS)["y"] for m in (model, made))
    assert len(made.graph) == 2 and np.allclose(before, after, rtol=1e-4, atol=1e-4)


def test_what_data_would_buy_follows_from_prices_and_spectra(oracle: HalfAsLong) -> None:
    full, low = layer(of_view("none")), layer(of_view("outputs"))
    integers = estimate(full, ORT, oracle, [FEEDS], True)
    assert integers.low == pytest.approx(LOST * 1.25 / 0.75)  # a quarter of the layer's time lies beside it
    floats = estimate(full, ORT, oracle, [FEEDS], False)
    assert floats.low == pytest.approx(1.0) and floats.high >= 1
    both = estimate(low, ORT, oracle, [FEEDS], True)
    assert both.low == pytest.approx(integers.low) and both.high > integers.high
    assert "2.5" not in str(floats) and f"{both.low:.1f} to {both.high:.1f} times the speed" in str(both)


def test_where_data_would_buy_little_no_figures_are_told() -> None:
    assert str(Promise(1.0, 1.1)) == "data would gain this model little more on this target"
    assert "1.0 to 1.2 times" in str(Promise(1.0, 1.2))


def test_a_model_without_layers_has_nothing_to_gain(oracle: HalfAsLong) -> None:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 16, 8, 8]))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 17}, name="none")
    node = ir.make_node("Relu", [x])
    node.outputs[0].name = "y"
    graph.append(node)
    graph.outputs.append(node.outputs[0])
    assert estimate(ir.Model(graph, ir_version=8), ORT, oracle, [FEEDS], True) == Promise(1.0, 1.0)


def test_a_run_without_data_keeps_the_outputs_and_tells_what_data_would_buy() -> None:
    for view, forms in (("none", False), ("outputs", True)):
        model = layer(of_view(view))
        result = optimize(ir.to_proto(model), target="macs")
        assert bool(result.plan.sites) == forms, result.report.notes
        before, after = (ORT.prepare(m)(FEEDS)["y"] for m in (model, result.model))
        assert np.allclose(before, after, rtol=1e-4, atol=1e-4)
        assert all(check.ok and check.contract != "approximate" for check in result.report.checks)
        told = ("data would gain this model little", "with a few hundred")
        assert sum(note.startswith(told) for note in result.report.notes) == 1
