import dataclasses

import numpy as np
import pytest

from lwgraph import ir
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.errors import UsageError
from lwgraph.layers.moments import Moments
from lwgraph.plan.carry_out import carry_out
from lwgraph.plan.plan import Choice, Plan
from lwgraph.plan.search.items import undominated
from lwgraph.plan.search.planner import open_planner
from lwgraph.rewrite.base import Context
from tests.layers.chain import FEEDS, ORT, Measured, chain
from tests.plan.search.by_work import ByWork


def context(model):
    return Context(executor=ORT, reference=ORT, statistics=Measured(ir.clone(model), FEEDS))


@pytest.fixture
def planner(tmp_path):
    model = chain()
    shapes = layer_shapes(model, FEEDS, ORT)
    return open_planner(model, context(model), ByWork(tmp_path), shapes=shapes, forms=["low-rank"])


def at(planner, threshold):
    """By item, the fastest option whose loss is at most `threshold`; items that stay dense are left out."""
    chosen = {}
    for item in planner.items:
        best = min((o for o in item.options if item.loss(o) <= threshold), key=lambda o: o.price.ms)
        if best is not item.dense:
            chosen[item.name] = best
    return chosen


def test_shapes_are_measured(planner):
    assert planner.shapes == {"x": (4, 32, 12, 12), "a": (4, 32, 12, 12), "r": (4, 32, 12, 12), "y": (4, 32, 12, 12)}
    assert planner.items[0].sites[0].macs() == 4 * 144 * 32 * 32 * 9


def test_items_and_options(planner):
    assert [item.name for item in planner.items] == ["a", "y"]
    for item in planner.items:
        assert item.dense.form is None and item.dense.error == 0
        times = [option.price.ms for option in item.options[1:]]
        assert times == sorted(times) and max(times) < item.dense.price.ms
        assert not planner._fits  # nothing is fitted before it is chosen


def test_estimates_are_near_the_error_on_unseen_inputs(planner):
    fresh = {"x": np.random.default_rng(7).standard_normal((16, 32, 12, 12)).astype(np.float32)}
    unseen = Measured(planner.model, fresh)
    for item in planner.items:
        moments = Moments(item.sites[0], unseen.gram(item.sites[0]))
        for option in item.options[1:]:
            fitted = planner.fitted(item, option)
            assert fitted.error <= option.error
            assert 0.5 < option.error / moments.error(fitted.kernel) < 2


def test_clearly_worse_forms_are_not_measured():
    a, b, c, d = (100, 0.01, "a"), (70, 0.01, "b"), (70, 0.02, "c"), (60, 0.005, "d")
    assert undominated([a, b, c]) == [b, c]  # c does the same work as b: only a measurement can tell
    assert undominated([a, b, d]) == [b, d]
    assert undominated([(100, 0.9, "hopeless")]) == []


def test_weights_tighten_the_threshold(tmp_path):
    model = chain()
    heavy = open_planner(model, context(model), ByWork(tmp_path), forms=["low-rank"]).weighed({"a": 1e6})
    assert set(at(heavy, 1.0)) == {"y"}


def test_no_form_that_is_slower(tmp_path):
    model = chain()
    slow = open_planner(model, context(model), ByWork(tmp_path, factor=10), forms=["low-rank"])
    assert not slow.items
    assert any("no form is measured faster" in skipped.reason for skipped in slow.context.skipped)


def test_a_shared_weight_is_one_item(tmp_path):
    model = chain(shared=True)
    p = open_planner(model, context(model), ByWork(tmp_path), forms=["low-rank"])
    (item,) = p.items
    assert [site.name for site in item.sites] == ["a", "y"]
    made = p.apply(at(p, 0.5))
    assert all(record.done for record in made.records)
    convs = [n for n in made.model.graph if n.op_type == "Conv"]
    assert convs[0].inputs[1] is convs[2].inputs[1]


def test_plan_round_trip_and_editing(planner):
    plan = planner.plan(at(planner, 0.3))
    again = Plan.from_json(plan.to_json())
    assert again.to_json() == plan.to_json() and again.sites.keys() == plan.sites.keys()
    edited = dataclasses.replace(plan, sites={"a": Choice("keep"), "y": Choice("low-rank{rank=16,split=output}")})
    made = carry_out(planner.model, Plan.from_json(edited.to_json()), planner.context)
    (record,) = made.records
    assert record.done and record.site == "y" and record.measured and 0 < record.error < 1
    assert record.macs[1] < record.macs[0] and len(made.model.graph) == 4


def test_the_same_plan_gives_the_same_bytes(planner):
    chosen = at(planner, 0.3)
    prints = {ir.fingerprint(planner.apply(chosen).model) for _ in range(2)}
    model = carry_out(planner.model, planner.plan(chosen), planner.context, shapes=planner.shapes).model
    assert len(prints) == 1 and ir.fingerprint(model) in prints


def test_a_plan_for_another_model(planner):
    with pytest.raises(UsageError, match="site 'b', which the model does not have"):
        carry_out(planner.model, Plan({"b": Choice()}), planner.context)


def test_a_plan_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        Plan.load(tmp_path / "none.json")
