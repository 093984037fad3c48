"""Integers whose grids are taken as the model runs, beside those with grids from data, layer by layer in one plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.layers.site import find_sites
from lwgraph.measure.distance import Loss
from lwgraph.plan.choices import Precision
from lwgraph.plan.precision import DYNAMIC, FLOAT, INT8
from lwgraph.plan.price.oracle import Oracle
from lwgraph.plan.price.price_table import PriceCache
from lwgraph.plan.search.integers import weigh_dynamic
from lwgraph.plan.search.items import Item, Option
from lwgraph.plan.search.planner import LATENCY, Planner, Quantizing, open_planner
from lwgraph.plan.search.time_model import TimeModel
from lwgraph.rewrite.base import Context
from tests.passes.quantize.quantize_models import Net
from tests.plan.search.by_work import ByWork

ORT = registry.executor("ort")
RUNNING = Precision(("quantize{activations=dynamic,keep=none}",), ("last",))
STATIC = "quantize{calibration_method=minmax,keep=none}"
FEEDS = [{"x": np.random.default_rng(i).normal(size=(1, 8, 6, 6)).astype(np.float32)} for i in range(4)]


def network() -> ir.Model:
    """A convolution and three products; the last is no faster in such integers."""
    net = Net()
    x = net.op("Relu", net.conv(net.input("x", [1, 8, 6, 6]), 8, 16, name="conv"))
    x = net.op("Reshape", x, net.constant(np.array([1, 16, 36])))
    for name, outputs in (("first", 36), ("second", 36), ("last", 4)):
        weight = net.constant((net.rng.normal(size=(36, outputs)) / 6).astype(np.float32))
        x = net.op("MatMul", x, weight, name=name)
    return net.model(x)


@pytest.fixture
def planner(tmp_path: Any) -> Planner:
    model = network()
    context = Context(executor=ORT, statistics=Statistics(ir.clone(model), FEEDS, ORT), data=FEEDS)
    shapes = layer_shapes(model, FEEDS[0], ORT)
    made = open_planner(
        model, context, ByWork(tmp_path), shapes=shapes, forms=[], precisions=(FLOAT, INT8), dynamic=RUNNING
    )
    return made.quantized(Quantizing(STATIC, STATIC, dynamic=RUNNING))


def options(planner: Planner) -> dict[str, dict[str, Option]]:
    return {item.name: {option.precision: option for option in item.options} for item in planner.items}


def test_products_that_are_faster_so_have_the_option(planner: Planner) -> None:
    have = {name: sorted(found) for name, found in options(planner).items()}
    both = [DYNAMIC, FLOAT, INT8]
    assert have == {"conv": [FLOAT, INT8], "first": both, "second": both, "last": [FLOAT, INT8]}


def test_one_plan_mixes_both(planner: Planner) -> None:
    kinds = options(planner)
    chosen = {"conv": kinds["conv"][INT8], "first": kinds["first"][DYNAMIC], "second": kinds["second"][INT8]}
    plan = planner.plan(chosen)
    assert plan.precision.passes == (STATIC,) and plan.precision.keep_float == ("last",)
    assert plan.precision.dynamic == ("first",)
    made = planner.apply(chosen).model
    integers = {str(n.name) for n in made.graph if n.op_type == "MatMulInteger"}
    assert integers == {"first"}
    read = {str(n.name): n.inputs[1].producer() for n in made.graph if n.op_type in ("Conv", "MatMul") and n.inputs[1]}
    assert {name for name, maker in read.items() if maker is not None} == {"conv", "second"}
    want, got = (next(iter(ORT.prepare(m)(FEEDS[0]).values())) for m in (planner.model, made))
    assert np.square(want - got).mean() < 1e-3 * want.var()


def test_a_plan_of_such_integers_alone_needs_no_ranges(planner: Planner) -> None:
    kinds = options(planner)
    plan = planner.plan({"second": kinds["second"][DYNAMIC]})
    assert plan.precision.passes == RUNNING.passes and plan.precision.dynamic == ()
    assert set(plan.precision.keep_float) == {"conv", "first", "last"}
    made = planner.apply({"second": kinds["second"][DYNAMIC]}).model
    assert [n.name for n in made.graph if n.op_type == "MatMulInteger"] == ["second"]
    assert not any(n.op_type == "QuantizeLinear" for n in made.graph)


def test_what_the_whole_network_loses_is_shared_out(planner: Planner) -> None:
    loss = Loss(ORT.prepare(planner.model), FEEDS)
    weighed, model = weigh_dynamic(planner, loss, ORT)
    choice = weighed.uniform(DYNAMIC)
    assert weighed.predicted_loss(choice) == pytest.approx(loss(ORT.prepare(model)))
    assert weighed.uniform(INT8) != choice
    first, before = weighed.items[1], planner.items[1]
    assert first.integer_error == before.integer_error and first.dynamic_error != before.dynamic_error
    assert {o.precision for item in planner.without(DYNAMIC).items for o in item.options} == {FLOAT, INT8}


def test_no_way_into_integers_is_paid_for(planner: Planner) -> None:
    """The layer reads and gives floats: between it and a float layer nothing is converted."""

    def edges(precisions: tuple[str, str]) -> float:
        choice = [0] * len(planner.items)
        for at, precision in zip((1, 2), precisions, strict=True):
            choice[at] = next(i for i, o in enumerate(planner.items[at].options) if o.precision == precision)
        alone = sum(
            planner.times.ms(i, item.options[o]) for i, (item, o) in enumerate(zip(planner.items, choice, strict=True))
        )
        return float(planner.predicted(choice, LATENCY) - alone)

    assert edges((FLOAT, DYNAMIC)) == pytest.approx(0) and edges((INT8, DYNAMIC)) == pytest.approx(0.02)


def test_all_in_such_integers_take_what_was_measured() -> None:
    from lwgraph.plan.price.oracle import Price

    site = find_sites(network())[1]
    made = tuple(
        Item((site,), (Option(None, Price(2, 2), 0.0), Option(None, Price(2, ms), 0.1, precision=DYNAMIC)))
        for ms in (0.5, 1.0)
    )
    times = TimeModel(made).anchored_floats(8.0)
    assert times is not None
    assert times.anchored_integers(5.0, (1, 1), DYNAMIC).total((1, 1)) == pytest.approx(5.0)
    assert times.anchored_integers(5.0, (1, 1), DYNAMIC).total((0, 0)) == pytest.approx(8.0)


def test_a_product_has_a_price_and_a_convolution_none(tmp_path: Any) -> None:
    conv, product = find_sites(network(), layer_shapes(network(), FEEDS[0], ORT))[:2]
    oracle = Oracle(ORT, PriceCache(tmp_path), budget=0.01)
    assert 0 < oracle.prices(product, [None], DYNAMIC)[0].ms < np.inf
    assert oracle.prices(conv, [None], DYNAMIC)[0].ms == np.inf
