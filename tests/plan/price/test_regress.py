"""From times to prices."""

from __future__ import annotations

import math

import pytest

from lwgraph.plan.price.regress import FIRST, FLOATS, INTEGERS, NEVER, SWITCH, settle


def test_floats_without_their_neighbours() -> None:
    assert settle(FLOATS, [10.0, 2.0, 6.0, 4.0]) == [(8.0, 4.0), (8.0, 2.0)]


def test_a_tenth_is_left_to_the_layer() -> None:
    ((dense, form),) = settle(FLOATS, [10.0, 4.0, 4.0])  # the empty model is no faster than the form's
    assert form == pytest.approx(0.4) and dense == pytest.approx(6.4)


def test_integers_against_the_dense_layer_in_floats() -> None:
    assert settle(INTEGERS, [10.0, 2.0, 1.0, 3.0, 5.0]) == [(8.0, 3.0)]


def test_a_first_layer_in_integers_has_one_neighbour() -> None:
    assert settle(FIRST, [10.0, 2.0, 3.0, 5.0]) == [(8.0, 3.5)]


def test_switch() -> None:
    assert settle(SWITCH, [5.0, 1.0]) == [(1.0, 4.0)]
    assert settle(SWITCH, [1.0, 5.0]) == [(5.0, 0.0)]  # never negative


def test_what_does_not_run_is_never_chosen() -> None:
    assert settle(FLOATS, [10.0, 2.0, None, 4.0]) == [NEVER, (8.0, 2.0)]
    assert settle(FLOATS, [None, 2.0, 6.0]) == [NEVER] == settle(SWITCH, [1.0, None])
    assert settle(INTEGERS, [10.0, 2.0, None, 3.0, 5.0, 6.0]) == [NEVER, NEVER]
    assert settle(INTEGERS, [10.0, 2.0, 1.0, 3.0, None]) == [NEVER] and math.isinf(NEVER[1])
