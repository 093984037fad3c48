"""What integers cost, layer by layer, and with which ranges plans are tried."""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from lwgraph import ir
from lwgraph.calibrate import ranges
from lwgraph.calibrate.capture import main_values
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.measure.distance import Loss
from lwgraph.passes.quantize.grids import observer
from lwgraph.passes.quantize.quantize import Quantize, Weighed
from lwgraph.plan.carry_out import Samples
from lwgraph.plan.precision import FLOAT, INT8
from lwgraph.plan.roles import Mix, Survey
from lwgraph.plan.search import integers
from lwgraph.plan.search.planner import Planner, open_planner
from lwgraph.rewrite.base import Context
from tests.layers.chain import FEEDS, ORT, Measured, chain
from tests.plan.search.by_work import ByWork


@pytest.fixture
def planner(tmp_path):
    model = chain()
    context = Context(executor=ORT, reference=ORT, statistics=Measured(ir.clone(model), FEEDS), data=[FEEDS])
    made = open_planner(
        model,
        context,
        ByWork(tmp_path),
        shapes=layer_shapes(model, FEEDS, ORT),
        forms=["low-rank"],
        precisions=(FLOAT, INT8),
    )
    return made.anchored(10.0, {INT8: 4.0}, 1000, 2000)


def test_what_was_measured_of_a_layer_is_what_its_integers_cost(planner):
    first, second = planner.items
    planner = planner.weighed({first.name: 0.5, second.name: 2.0}).with_damages({first.name: 0.25})
    before, (first, second) = second.integer_error, planner.items
    whole = planner.uniform(INT8)
    assert first.loss(first.options[whole[0]]) == pytest.approx(0.25) and first.integer_error == pytest.approx(0.5)
    assert second.integer_error == before
    form = next(o for o in first.options if o.form is not None and o.precision == INT8)
    twin = next((o for o in first.options if str(o.form) == str(form.form) and o.precision == FLOAT), None)
    if twin is not None:
        assert form.error == pytest.approx(twin.error + 2 * 0.5)


def test_damages_are_those_of_the_items_and_none_is_nothing(planner):
    first, second = (item.sites[0].node.name for item in planner.items)
    found = integers.damages_of(planner, {first: 0.3, second: 0.0, "another": 1.0})
    assert found == {planner.items[0].name: 0.3, planner.items[1].name: pytest.approx(0.3 * integers.LEAST)}
    assert integers.damages_of(planner, {}) == {} and integers.damages_of(planner, {first: 0.0}) == {}


def answers(monkeypatch, answer):
    """Let carrying out a plan give what `answer` says of the planner's way into integers."""
    monkeypatch.setattr(Planner, "apply", lambda self, chosen, quick: SimpleNamespace(model=answer(self.quantizing)))
    return SimpleNamespace(prepare=lambda model: model)


def test_trials_get_the_ranges_that_lose_least_clearly(planner, monkeypatch):
    losses = {"minmax": 1.0, "percentile": 0.9, "mse": 0.5}
    runner = answers(monkeypatch, lambda quantizing: quantizing.quick)

    def loss(text):
        return next(value for name, value in losses.items() if f"calibration_method={name}" in text)

    found, model, lost = integers.quick_integers(planner, loss, runner)
    quick = found.quantizing.quick
    assert "mse" in quick and model == quick and lost == 0.5
    (earnest,) = found.plan(found.chosen(found.uniform(INT8))).precision.passes
    assert "calibration_method=mse" in earnest and "equalize" not in earnest  # as the pass does unless told otherwise
    found, *_ = integers.quick_integers(planner, loss, runner, even=False)
    (earnest,) = found.plan(found.chosen(found.uniform(INT8))).precision.passes
    assert "calibration_method=mse" in earnest and "equalize=false" in earnest  # found out before, for all plans
    losses["mse"] = 0.9  # hardly better than what clips nothing
    found, *_ = integers.quick_integers(planner, loss, runner)
    quick = found.quantizing.quick
    assert "mse" not in quick and "percentile" not in quick
    assert found.plan(found.chosen(found.uniform(INT8)), quick=True).precision.passes == (quick,)


@pytest.mark.parametrize(("needed", "taken"), [(8, 16), (20, 32), (100, 120), (1000, 120)])
def test_trials_take_ranges_from_as_many_samples_as_they_need(planner, monkeypatch, needed, taken):
    slow = replace(planner, samples=Samples.in_earnest(100.0))  # 120 samples can be afforded
    runner = answers(monkeypatch, lambda quantizing: quantizing.samples)
    found, model, lost = integers.quick_integers(
        slow, lambda samples: 0.01 if samples >= min(needed, 120) else 0.5, runner
    )
    assert (model, lost, found.quantizing.samples) == (120, 0.01, taken)


def test_a_survey_is_made_once_and_tells_layers_apart(planner, tmp_path, monkeypatch):
    facts = [
        SimpleNamespace(name=name, damage=damage, reason=reason, integer_ms=ms, float_ms=3.0)
        for name, damage, reason, ms in (
            ("a", 0.1, "", 1.0),
            ("y", None, "slow", 5.0),
            ("made up", math.inf, "x", 2.0),
            ("z", None, "?", None),
        )
    ]
    calls = []

    def weighed(self, model, context):
        calls.append(self.rounding)
        return Weighed(facts, [Mix(("y", "made up"), 0.5, 0.4), Mix(("a", "y"), 0.2, 0.5)], "mse", False)

    monkeypatch.setattr(Quantize, "weighed", weighed)
    for _ in range(2):
        found = integers.survey(planner.model, planner.context, tmp_path)
        mixes = Mix(("y",), 0.5, 0.4), Mix(("a", "y"), 0.2, 0.5)  # of what the network has
        assert found == Survey({"a": 0.1}, ("y",), 2 / 8, False, "mse", mixes)
    assert [found.mix(share) for share in (0.9, 0.5, 0.3, 0.1)] == [mixes[0], mixes[0], mixes[1], None]
    assert replace(found, mixes=(mixes[0], replace(mixes[1], time=0.405))).mix(0.9).share == 0.2  # is as fast
    assert calls == ["nearest"]  # as in plans: rounding by second moments would take a minute more
    (path,) = tmp_path.glob("integers-*/*.json")
    path.write_text("cut o")
    assert integers.survey(planner.model, planner.context, tmp_path) == found and len(calls) == 2


def test_the_whole_network_loses_what_was_measured_of_it(planner, tmp_path, monkeypatch):
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path))
    loss = Loss(ORT.prepare(planner.model), [FEEDS])
    planner, model, known = integers.weigh_integers(planner, loss, ORT)
    measured = loss(ORT.prepare(model))
    assert 0 < measured < 0.1 and planner.predicted_loss(planner.uniform(INT8)) == pytest.approx(measured)
    assert isinstance(known, Survey)


def test_in_haste_no_layer_is_looked_at_alone(planner, tmp_path, monkeypatch):
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path))
    monkeypatch.setattr(integers, "survey", lambda *words, **more: pytest.fail("it takes many runs"))
    loss = Loss(ORT.prepare(planner.model), [FEEDS])
    planner, model, known = integers.weigh_integers(planner, loss, ORT, surveyed=False)
    assert known is None and planner.predicted_loss(planner.uniform(INT8)) == pytest.approx(loss(ORT.prepare(model)))
    assert "equalize=false" in planner.quantizing.earnest


def test_trials_observe_only_what_the_network_has_not(planner, tmp_path, monkeypatch):
    """Of a plan in which a form stands: what lies in the form. Plans that may be delivered are observed anew."""
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path))
    loss = Loss(ORT.prepare(planner.model), [FEEDS])
    made, *_ = integers.weigh_integers(planner, loss, ORT)
    observed = []

    def collect(model, data, executor, names, **options):
        observed.append(list(names))
        return ranges.collect(model, data, executor, names, **options)

    monkeypatch.setattr(observer, "collect", collect)
    dense = made.chosen(made.uniform(INT8))
    assert ir.fingerprint(made.apply(dense, quick=True).model) and observed == []
    form = next(i for i, o in enumerate(made.items[0].options) if o.form is not None and o.precision == INT8)
    choice = (form, *made.uniform(INT8)[1:])
    there = set(main_values(made.model))
    made.apply(made.chosen(choice), quick=True)
    assert len(observed) == 1 and observed[0] and not there & set(observed[0])
    observed.clear()
    made.apply(made.chosen(choice))
    assert any(there & set(names) for names in observed)


def test_trials_lose_the_same_with_ranges_that_are_known(planner, tmp_path, monkeypatch):
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path))
    loss = Loss(ORT.prepare(planner.model), [FEEDS])
    made, *_ = integers.weigh_integers(planner, loss, ORT)
    fresh = made.quantized(replace(made.quantizing, known=None))
    dense = made.chosen(made.uniform(INT8))
    models = [p.apply(dense, quick=True).model for p in (made, fresh)]
    assert ir.fingerprint(models[0]) == ir.fingerprint(models[1])
    form = next(i for i, o in enumerate(made.items[0].options) if o.form is not None and o.precision == INT8)
    choice = made.chosen((form, *made.uniform(INT8)[1:]))
    losses = [loss(ORT.prepare(p.apply(choice, quick=True).model)) for p in (made, fresh)]
    assert losses[0] == pytest.approx(losses[1], rel=0.3)


def test_ranges_inside_a_form_are_observed_once_whatever_trial_comes_first(planner, tmp_path, monkeypatch):
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path))
    weighed, *_ = integers.weigh_integers(planner, Loss(ORT.prepare(planner.model), [FEEDS]), ORT)
    observed = []

    def collect(model, data, executor, names, **options):
        observed.append(list(names))
        return ranges.collect(model, data, executor, names, **options)

    monkeypatch.setattr(observer, "collect", collect)

    def trials(*items):
        """Plans with forms at these layers, one after the other, of a planner that has seen none."""
        made = weighed.quantized(replace(weighed.quantizing, known=copy.deepcopy(weighed.quantizing.known)))
        dense, found = made.uniform(INT8), []
        observed.clear()
        for some in items:
            choice = list(dense)
            for item in some:
                choice[item] = next(i for i, o in enumerate(made.items[item].options) if o.form and o.precision == INT8)
            found.append(ir.fingerprint(made.apply(made.chosen(choice), quick=True).model))
        return found

    both, first, last = trials((0, -1), (0,), (-1,))
    assert len(observed) == 1  # both forms in one run, none for the others
    assert trials((-1,), (0,), (0, -1)) == [last, first, both] and len(observed) == 2  # each form once


@pytest.mark.parametrize("opset", [11, 17])
def test_forms_of_other_ranks_have_ranges_of_their_own(tmp_path, opset):
    """Below opset 13, trials convert the network first, which must not lose what its nodes are."""
    model = chain()
    model.graph.opset_imports[""] = opset
    statistics = Measured(ir.clone(model), FEEDS)
    context = Context(executor=ORT, reference=ORT, statistics=statistics, data=[FEEDS])
    shapes, both = layer_shapes(model, FEEDS, ORT), (FLOAT, INT8)
    made = open_planner(model, context, ByWork(tmp_path), shapes=shapes, forms=["low-rank"], precisions=both)
    weighed, _, _ = integers.weigh_integers(made, Loss(ORT.prepare(made.model), [FEEDS]), ORT)
    item = weighed.items[0]
    options = [o for o in item.options if o.form is not None and o.precision == INT8]
    ranks = {o.form.rank: o for o in options}
    assert len(ranks) > 1
    for option in ranks.values():
        kept = weighed.apply({item.name: option}, quick=True).model
        alone = made.apply({item.name: option}, quick=True).model  # nothing is known there
        near = Loss(ORT.prepare(alone), [FEEDS])(ORT.prepare(kept))
        assert near < 0.01
