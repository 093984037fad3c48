"""Milliseconds of whole plans from prices of layers, with numbers only."""

from types import SimpleNamespace

import numpy as np
import pytest
from lwgraph.plan.search.clock import WIDEST, Clock

from lwgraph.plan.precision import FLOAT, INT8


def item(dense, form, integer=None, switch=0.0):
    def option(kind, ms, precision=FLOAT):
        return SimpleNamespace(form=kind, price=SimpleNamespace(ms=ms), precision=precision)

    options = [option(None, dense), option("low-rank", form)]
    options += [] if integer is None else [option(None, integer, INT8), option("low-rank", integer / 2, INT8)]
    return SimpleNamespace(dense=options[0], options=options, switch_ms=switch)


@pytest.fixture
def clock():
    return Clock([item(4.0, 1.0, 2.0, 0.5), item(2.0, 1.5, 1.0, 0.25), item(2.0, 1.0)])


def test_both_anchors_hold_and_scale_layers_that_were_timed_too_slow(clock):
    assert clock.anchor_floats(10.0)
    assert clock.total((0, 0, 0)) == pytest.approx(10.0) and clock.scale[FLOAT] == 1.0
    whole = (2, 2, 0)  # the last layer has no integer kernel
    clock.anchor_integers(6.0, whole)
    assert clock.total(whole) == pytest.approx(6.0) and clock.total((0, 0, 0)) == pytest.approx(10.0)
    clock.anchor_floats(4.0)
    assert clock.total((0, 0, 0)) == pytest.approx(4.0) and clock.scale[FLOAT] < 0.5
    assert not Clock([item(0.0, 0.0)]).anchor_floats(1.0)


def test_ways_into_integers_and_back_are_paid(clock):
    clock.anchor_floats(8.5)
    alone = sum(clock.ms(i, clock.items[i].options[o]) for i, o in enumerate((2, 0, 0)))
    assert clock.total((2, 0, 0)) == pytest.approx(alone + 0.25)  # from integers to the second layer


def test_measured_plans_correct_those_alike_and_leave_the_anchors(clock):
    clock.anchor_floats(10.0)
    clock.anchor_integers(6.0, (2, 2, 0))
    truth = Clock(clock.items)
    truth.scale, truth.beside, truth.factors = clock.scale, clock.beside, np.array([0.6, 0.5, 1.5, 0.8, 1.0])
    plans = [(1, 1, 0), (1, 0, 1), (0, 1, 1), (3, 3, 0), (3, 2, 1), (1, 1, 1), (3, 3, 1)]
    clock.fit([(plan, truth.total(plan)) for plan in plans])
    for plan in [*plans, (0, 0, 1), (2, 3, 0)]:
        assert clock.total(plan) == pytest.approx(truth.total(plan), rel=0.04)
    assert clock.total((0, 0, 0)) == pytest.approx(10.0) and clock.total((2, 2, 0)) == pytest.approx(6.0)


def test_a_single_wild_time_says_only_so_much(clock):
    clock.anchor_floats(10.0)
    before = clock.factors.copy()
    clock.fit([])
    assert (clock.factors == before).all()
    clock.fit([((1, 1, 1), 1e4)])
    assert (clock.factors <= WIDEST).all() and (clock.factors >= 1 / WIDEST).all()
    assert np.isfinite(clock.total((1, 1, 1)))
