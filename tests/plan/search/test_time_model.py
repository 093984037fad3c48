"""Milliseconds of whole plans from prices of layers, with numbers only."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lwgraph.plan.precision import FLOAT, INT8
from lwgraph.plan.search.time_model import WIDEST, TimeModel


def item(dense, form, integer=None, switch=0.0):
    def option(kind, ms, precision=FLOAT):
        return SimpleNamespace(form=kind, price=SimpleNamespace(ms=ms), precision=precision)

    options = [option(None, dense), option("low-rank", form)]
    options += [] if integer is None else [option(None, integer, INT8), option("low-rank", integer / 2, INT8)]
    return SimpleNamespace(dense=options[0], options=options, switch_ms=switch)


@pytest.fixture
def bare():
    return TimeModel((item(4.0, 1.0, 2.0, 0.5), item(2.0, 1.5, 1.0, 0.25), item(2.0, 1.0)))


def test_both_anchors_hold_and_scale_layers_that_were_timed_too_slow(bare):
    floats = bare.anchored_floats(10.0)
    assert floats.total((0, 0, 0)) == pytest.approx(10.0) and floats.scale[FLOAT] == 1.0
    whole = (2, 2, 0)  # the last layer has no integer kernel
    both = floats.anchored_integers(6.0, whole)
    assert both.total(whole) == pytest.approx(6.0) and both.total((0, 0, 0)) == pytest.approx(10.0)
    slow = both.anchored_floats(4.0)
    assert slow.total((0, 0, 0)) == pytest.approx(4.0) and slow.scale[FLOAT] < 0.5
    assert floats.total((0, 0, 0)) == pytest.approx(10.0)  # each is another value
    assert TimeModel((item(0.0, 0.0),)).anchored_floats(1.0) is None


def test_ways_into_integers_and_back_are_paid(bare):
    times = bare.anchored_floats(8.5)
    alone = sum(times.ms(i, times.items[i].options[o]) for i, o in enumerate((2, 0, 0)))
    assert times.total((2, 0, 0)) == pytest.approx(alone + 0.25)  # from integers to the second layer


def test_measured_plans_correct_those_alike_and_leave_the_anchors(bare):
    times = bare.anchored_floats(10.0).anchored_integers(6.0, (2, 2, 0))
    truth = replace(times, factors=np.array([0.6, 0.5, 1.5, 0.8, 1.0]))
    plans = [(1, 1, 0), (1, 0, 1), (0, 1, 1), (3, 3, 0), (3, 2, 1), (1, 1, 1), (3, 3, 1)]
    fitted = times.fitted([(plan, truth.total(plan)) for plan in plans])
    for plan in [*plans, (0, 0, 1), (2, 3, 0)]:
        assert fitted.total(plan) == pytest.approx(truth.total(plan), rel=0.04)
    assert fitted.total((0, 0, 0)) == pytest.approx(10.0) and fitted.total((2, 2, 0)) == pytest.approx(6.0)


def test_a_single_wild_time_says_only_so_much(bare):
    times = bare.anchored_floats(10.0)
    assert (times.fitted([]).factors == times.factors).all()
    wild = times.fitted([((1, 1, 1), 1e4)])
    assert (wild.factors <= WIDEST).all() and (wild.factors >= 1 / WIDEST).all()
    assert np.isfinite(wild.total((1, 1, 1)))
