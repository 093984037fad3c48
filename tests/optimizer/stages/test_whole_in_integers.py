"""The plans of all layers in integers that the solver's are compared with."""

from dataclasses import replace

import pytest

from lwgraph import ir
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.optimizer.stages.forms import whole_in_integers
from lwgraph.plan.carry_out import carry_out
from lwgraph.plan.precision import FLOAT, INT8, spelling
from lwgraph.plan.roles import Survey
from lwgraph.plan.search.planner import open_planner
from lwgraph.rewrite.base import Context
from tests.layers.chain import FEEDS, ORT, Measured, chain
from tests.plan.search.by_work import ByWork


@pytest.fixture
def planner(tmp_path):
    model = chain()
    context = Context(executor=ORT, reference=ORT, statistics=Measured(ir.clone(model), FEEDS), data=[FEEDS])
    shapes, both = layer_shapes(model, FEEDS, ORT), (FLOAT, INT8)
    found = open_planner(model, context, ByWork(tmp_path), shapes=shapes, forms=["low-rank"], precisions=both)
    return found.anchored(10.0, {INT8: 4.0}, 1000, 2000)


def test_they_go_from_everything_to_what_the_pass_would_do(planner):
    found = whole_in_integers(planner, Survey({}, ("y",), slower=0.2))
    plans = [whole.candidate.plan.precision for whole in found]
    assert [p.passes for p in plans] == [(spelling(),), (spelling(),), ("quantize",)]
    assert [p.keep_float for p in plans] == [(), ("y",), ()] and len({whole.candidate.key for whole in found}) == 3
    assert [whole.last for whole in found] == [False, False, True]
    assert all(whole.candidate.predicted_ms == pytest.approx(4.0) for whole in found)
    for whole in found[:2]:
        model = carry_out(planner.model, whole.candidate.plan, planner.context, shapes=planner.shapes).model
        assert "QuantizeLinear" in [n.op_type for n in model.graph]
    again = whole_in_integers(planner, Survey({}, ("y",), slower=0.001))  # hardly faster: only for its accuracy
    assert [whole.candidate.key for whole in again] == [whole.candidate.key for whole in found]
    assert [whole.last for whole in again] == [False, True, True]


def test_where_the_pass_keeps_nothing_or_says_nothing_of_the_target_there_are_fewer(planner):
    assert [whole.last for whole in whole_in_integers(planner, Survey())] == [False, True]
    assert [whole.last for whole in whole_in_integers(planner, None)] == [False]
    (hasty,) = whole_in_integers(planner, None, "in haste")
    assert hasty.candidate.plan.precision.passes == ("in haste",)


def test_without_integers_there_are_none(planner):
    items = tuple(replace(item, options=item.options[:1]) for item in planner.items)
    assert whole_in_integers(replace(planner, items=items), Survey()) == []
