"""Integers in plans, anchored predictions, and the search above the solver, on a network of two convolutions."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

import lwgraph
from lwgraph import ir
from lwgraph.cache import Rows
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.layers.moments import Moments
from lwgraph.measure.distance import Loss
from lwgraph.plan.precision import FLOAT, INT8
from lwgraph.plan.price.oracle import WORK, WorkOracle
from lwgraph.plan.search import site_sensitivity
from lwgraph.plan.search.front import Candidate, Front, undominated
from lwgraph.plan.search.integer_error import integer_error
from lwgraph.plan.search.plan_search import Search, limit_prices, memory_of
from lwgraph.plan.search.planner import BYTES, FASTEST, LATENCY, MACS, open_planner
from lwgraph.plan.search.solver import Knapsack
from lwgraph.rewrite.base import Context
from tests.layers.chain import FEEDS, ORT, Measured, chain
from tests.plan.search.by_work import ByWork


@pytest.fixture(scope="module")
def planner(tmp_path_factory):
    model = chain()
    context = Context(executor=ORT, reference=ORT, statistics=Measured(ir.clone(model), FEEDS), data=[FEEDS])
    made = open_planner(
        model,
        context,
        ByWork(tmp_path_factory.mktemp("prices")),
        shapes=layer_shapes(model, FEEDS, ORT),
        forms=["low-rank"],
        precisions=(FLOAT, INT8),
    )
    return made.anchored(10.0, {INT8: 4.0}, 1000, 2000)


@pytest.fixture(scope="module")
def loss(planner):
    return Loss(ORT.prepare(planner.model), [FEEDS])


def test_every_layer_may_be_dense_in_integers(planner):
    for item in planner.items:
        assert item.dense.precision == FLOAT and item.integer_error > 0
        (dense,) = [o for o in item.options[1:] if o.form is None]
        assert dense.precision == INT8 and dense.error == item.integer_error and dense.bytes == item.dense.bytes // 4
        for option in item.options:
            if option.form is not None and option.precision == INT8:
                twins = [o for o in item.options if str(o.form) == str(option.form) and o.precision == FLOAT]
                assert all(option.error > twin.error for twin in twins)


def test_the_error_of_integers_is_near_what_is_measured(planner):
    item = planner.items[0]
    site, x = item.sites[0], FEEDS["x"]
    steps = 2 * np.abs(site.weight).max(axis=(1, 2, 3), keepdims=True) / 255
    step = (x.max() - x.min()) / 255
    model = site_sensitivity.stitched(planner.model, item, np.rint(site.weight / steps) * steps)
    before = ORT.prepare(planner.model, ["a"])(FEEDS)["a"]
    after = ORT.prepare(model, ["a"])({"x": (np.rint(x / step) * step).astype(np.float32)})["a"]
    measured = np.square(before - after).sum() / np.square(before - before.mean((0, 2, 3), keepdims=True)).sum()
    predicted = integer_error(Moments(site, Measured(planner.model, FEEDS).gram(site)), float(x.min()), float(x.max()))
    assert predicted == pytest.approx(measured, rel=0.2)


def test_totals_agree_with_what_was_measured(planner):
    assert planner.predicted(planner.uniform(FLOAT), LATENCY) == pytest.approx(10.0)
    assert planner.predicted(planner.uniform(INT8), LATENCY) == pytest.approx(4.0)
    assert planner.predicted(planner.uniform(FLOAT), BYTES) == pytest.approx(1000)
    assert planner.predicted(planner.uniform(FLOAT), MACS) == pytest.approx(2000)
    mixed = (planner.uniform(INT8)[0], 0)
    assert 4.0 < planner.predicted(mixed, LATENCY) < 10.0


def test_errors_of_integers_are_scaled_in_forms_too(planner):
    scaled = planner.with_integers_scaled(3.0)
    for item, other in zip(planner.items, scaled.items, strict=True):
        assert other.integer_error == pytest.approx(3 * item.integer_error)
        for before, option in zip(item.options, other.options, strict=True):
            stages = 0 if before.precision == FLOAT else 1 if before.form is None else 2
            assert option.error == pytest.approx(before.error + 2 * item.integer_error * stages)


def test_a_plan_in_integers_says_what_stays_in_floats(planner):
    whole = planner.uniform(INT8)
    plan = planner.plan(planner.chosen((whole[0], 0)))
    assert plan.precision.keep_float == ("y",) and plan.precision.passes[0].startswith("quantize")
    model = planner.apply(planner.chosen((whole[0], 0)), quick=True).model
    kinds = [n.op_type for n in model.graph]
    assert "QuantizeLinear" in kinds
    last = [n for n in model.graph if n.op_type == "Conv"][-1]
    assert ir.constant(last.inputs[1]).dtype == np.float32
    assert not planner.plan(planner.chosen((0, 0))).precision.passes


def test_sensitivities_tell_the_layers_that_matter(planner, loss):
    found = site_sensitivity.measure(planner.model, planner.items, loss, ORT)
    assert set(found) == {"a", "y"} and all(0 < v < math.inf for v in found.values())
    assert 0.4 < found["y"] < 1.6  # the last layer's error is the output's, but the loss looks at each channel alone


def test_networks_are_run_from_the_replaced_layer_on(planner, loss, monkeypatch):
    """What comes before it is the same for all of them; the figures are those of whole networks."""
    whole, pieces, prepare = site_sensitivity.measure(planner.model, planner.items, loss, ORT), [], type(ORT).prepare

    def prepared(self, model, outputs=None):
        pieces.append([value.name for value in model.graph.inputs])
        return prepare(self, model, outputs)

    monkeypatch.setattr(type(ORT), "prepare", prepared)
    found = site_sensitivity.measure(planner.model, planner.items, loss, ORT, feeds=loss.feeds)
    assert found == pytest.approx(whole, rel=1e-4)
    assert pieces[-2:] == [["x"], [planner.items[1].sites[0].input.name]]


def test_of_many_layers_only_some_are_measured(planner, loss, monkeypatch):
    """The others lie between their neighbours, by the logarithm."""
    asked = []

    def measured(run):
        asked.append(1)
        return loss(run)

    monkeypatch.setattr(site_sensitivity, "MOST_MEASURED", 1)
    found = site_sensitivity.measure(planner.model, planner.items, measured, ORT)
    assert len(asked) == 1 and list(found) == ["a", "y"] and found["a"] > 0 and found["y"] == pytest.approx(found["a"])
    between = site_sensitivity._between(list("abcdef"), ["a", "d"], [1.0, 8.0])
    assert list(between.values()) == pytest.approx([1.0, 2.0, 4.0, 8.0, 8.0, 8.0])
    assert site_sensitivity._between([], [], []) == {}


def run(planner, loss, memory=None, seconds=0.0, seed=0):
    return both(Search(planner, loss, ORT, seconds=seconds, memory=memory, seed=seed))


def both(search, most=math.inf):
    """The front of the first plans and the trials."""
    search.first(most)
    return search.go_on(most)


def test_the_search_keeps_all_it_ran_and_its_front_falls(planner, loss):
    front = run(planner, loss, seconds=1.0)
    best = front.best()
    assert len(front.candidates) > 3 and front.base_ms == pytest.approx(10.0)
    assert all(a.predicted_ms < b.predicted_ms and a.loss > b.loss for a, b in itertools.pairwise(best))
    assert best[0].predicted_ms < 4.0  # faster than all in integers: forms in integers
    assert all(c.loss >= 0 for c in front.candidates)


def test_the_first_plans_set_what_others_are_predicted_to_take(planner, loss, tmp_path):
    whole, calls = planner.uniform(INT8), []

    def timed(model):
        calls.append(model)
        return 1.5  # whatever it is

    def search():
        memory = Rows(tmp_path / "search.json", "it is")
        return Search(planner, loss, ORT, seconds=0.0, timed=timed, memory=memory)

    first = search()
    front, fitted = first.first(), first.planner
    formed = [c for c in front.candidates if any(o.form for o in fitted.chosen(c.choice).values())]
    assert calls and formed
    before = fitted.predicted(formed[0].choice, LATENCY)
    assert before == formed[0].predicted_ms and abs(math.log(before / 1.5)) < 0.5
    assert fitted.predicted(whole, LATENCY) == pytest.approx(4.0)  # anchors hold
    assert fitted.predicted(planner.uniform(FLOAT), LATENCY) == pytest.approx(10.0)
    count = len(calls)
    again = search().first()
    assert len(calls) == count and again.candidates == front.candidates  # times are remembered


def test_plans_that_would_take_too_much_are_not_run(planner, loss):
    most = 5.0  # half of the network's time
    front = both(Search(planner, loss, ORT, seconds=1.0), most)
    assert front.candidates and all(c.predicted_ms <= 1.01 * most for c in front.candidates)
    assert both(Search(planner, loss, ORT, seconds=1.0), 0.0).candidates == []


def test_a_search_that_was_stopped_goes_on_to_the_same_plans(planner, loss, tmp_path):
    path = tmp_path / "search.json"
    calls = []

    def counted(runner):
        calls.append(1)
        return 0.5 / len(calls)  # any loss will do, but each is measured once

    def stopped(runner):
        if len(calls) == 3:
            raise KeyboardInterrupt
        return counted(runner)

    with pytest.raises(KeyboardInterrupt):
        run(planner, stopped, Rows(path, "it is"))
    assert len(calls) == 3
    first = run(planner, counted, Rows(path, "it is"))
    done = len(calls)
    again = run(planner, counted, Rows(path, "it is"))
    assert len(calls) == done  # nothing was measured twice
    assert [(c.choice, c.loss) for c in again.candidates] == [(c.choice, c.loss) for c in first.candidates]
    assert again.seconds == pytest.approx(first.seconds)


def test_where_a_search_is_kept_depends_on_model_options_data_and_seed(planner):
    other = replace(planner, model=chain(shared=True))
    paths = {
        memory_of(planner, [FEEDS], 0).path,
        memory_of(planner, [FEEDS], 1).path,
        memory_of(planner, [{"x": FEEDS["x"] + 1}], 0).path,
        memory_of(other, [FEEDS], 0).path,
    }
    assert len(paths) == 4 and memory_of(planner, [FEEDS], 0).path in paths


def test_the_front_prefers_measured_losses():
    a = Candidate((0,), 1.0, 0.1, loss=0.5)
    b = Candidate((1,), 2.0, 0.9, loss=0.3)
    c = Candidate((2,), 3.0, 0.0, loss=0.4, bytes=1)
    assert undominated([c, b, a]) == [a, b]
    assert Front(1.0, [a, b, c], objective="bytes").best()[0] in (a, b)


def test_a_limit_of_another_resource_gets_a_price(planner):
    assert limit_prices(planner, {"latency": 1.0, "bytes": 1e9}, LATENCY) == {}  # nothing to bring under it
    free = Knapsack(planner.menus()).front()
    limit = min(planner.predicted(s.choice, BYTES) for s in free) + 1
    prices = limit_prices(planner, {"bytes": limit}, LATENCY)
    assert set(prices) == {"bytes"}
    priced = Knapsack(planner.menus(None, LATENCY, prices)).front()
    share = [np.mean([planner.predicted(s.choice, BYTES) <= limit for s in found]) for found in (free, priced)]
    assert share[0] < 0.5 <= share[1]


def test_predicted_times_stay_over_nothing(planner):
    odd = replace(planner, rest={LATENCY: -1e6})
    assert odd.predicted(odd.uniform(FLOAT), LATENCY) == pytest.approx(FASTEST * 10.0)


def test_work_stands_for_time_where_nothing_can_be_timed(planner, tmp_path):
    class Fails:
        name = "none"

        def prepare(self, model, outputs=None):
            raise AssertionError("nothing is timed")

    oracle, site = WorkOracle(Fails()), planner.items[0].sites[0]
    option = next(o for o in planner.items[0].options if o.form is not None)
    dense, form = oracle.prices(site, [None, option.form])
    assert dense.ms == dense.dense_ms == WORK * site.macs() and form.ms == WORK * option.form.macs(site) < dense.ms
    assert oracle.switch(site) == 0
    assert WorkOracle(ORT).against(planner.model, 3.0, planner.model, [FEEDS]) == pytest.approx(3.0)
    (whole,) = WorkOracle(ORT).whole({"it": planner.model}, [FEEDS])
    assert whole == pytest.approx(WORK * sum(item.dense.macs for item in planner.items))


@pytest.mark.usefixtures("no_trials")
def test_for_a_target_that_is_not_timed_work_is_saved_and_nothing_goes_into_integers(tmp_path, monkeypatch):
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path))
    random = np.random.default_rng(0)
    data = [{"x": random.standard_normal((4, 32, 12, 12)).astype(np.float32)} for _ in range(24)]
    result = lwgraph.optimize(chain(), data=data, max_drop=75.0, target="macs")
    assert result.status == 0
    assert result.plan.sites and not result.plan.precision.passes
    first, last = result.report.stages[0], result.report.stages[-1]
    assert last.facts.macs < 0.9 * first.facts.macs
    (chosen,) = [c for c in result.report.details["search"]["candidates"] if c["chosen"]]
    assert chosen["macs"] == pytest.approx(last.facts.macs, rel=0.05)
