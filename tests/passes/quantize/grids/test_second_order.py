"""Rounding by the second moments of the inputs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lwgraph.passes.quantize.grids.second_order import descend, learned, loss, row_scales, second_order, to_nearest


def problem(outputs=12, width=40, samples=300, seed=0):
    """A weight, and correlated inputs of falling strength."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((width, width)) @ np.diag(np.geomspace(1, 0.05, width))
    x = rng.standard_normal((samples, width)) @ mix.T
    return rng.standard_normal((outputs, width)), x.T @ x / samples


@pytest.mark.parametrize("limit", [1, 7, 127])
def test_scales_lose_no_more_than_the_largest_weight_and_can_be_read_off_again(limit):
    weight, moments = problem()
    importance = np.diagonal(moments)
    scale = row_scales(weight, limit, importance)
    full = np.abs(weight).max(axis=1) / limit

    def lost(s):
        return np.square(to_nearest(weight, s, limit) * s[:, None] - weight) @ importance

    assert (lost(scale) <= lost(full)).all()
    assert (np.abs(to_nearest(weight, scale, limit)).max(axis=1) == limit).all()


@pytest.mark.parametrize("limit", [7, 127])
def test_each_method_beats_rounding_to_nearest_in_its_own_degree(limit):
    weight, moments = problem()
    scale = row_scales(weight, limit, np.diagonal(moments))
    found = {"nearest": to_nearest(weight, scale, limit), "adaround": learned(weight, scale, limit, moments)}
    found["second-order"] = second_order(weight, scale, limit, moments)
    found["descent"] = descend(weight, found["second-order"], scale, limit, moments)
    lost = {name: loss(weight, q, scale, moments) for name, q in found.items()}
    for q in found.values():
        assert np.array_equal(q, np.rint(q))
        assert np.abs(q).max() <= limit
        assert (np.abs(q).max(axis=1) == limit).all()  # the scale can still be read off
    for name in ("adaround", "second-order"):
        assert (lost[name] <= lost["nearest"] * (1 + 1e-9)).all()
    assert (lost["descent"] <= lost["second-order"] * (1 + 1e-9)).all()
    assert lost["descent"].sum() < 0.25 * lost["nearest"].sum()
    assert lost["adaround"].sum() < 0.8 * lost["nearest"].sum()


def test_elimination_in_blocks_is_elimination_one_by_one():
    """More columns than a block holds; against the textbook form, which inverts what is left at every step."""
    weight, moments = problem(3, 150, 600)
    limit = 7
    scale = row_scales(weight, limit)
    order = np.argsort(-np.diagonal(moments), kind="stable")
    h = moments + 1e-3 * np.diagonal(moments).mean() * np.eye(150)
    pins = np.abs(weight).argmax(axis=1)
    rest, q = weight.copy(), np.zeros_like(weight)
    left = list(order)
    for column in order:
        inverse = np.linalg.inv(h[np.ix_(left, left)])
        q[:, column] = np.clip(np.rint(rest[:, column] / scale), -limit, limit)
        for row in np.flatnonzero(pins == column):
            q[row, column] = np.sign(weight[row, column]) * limit
        error = (rest[:, column] - q[:, column] * scale) / inverse[0, 0]
        rest[:, left[1:]] -= np.outer(error, inverse[0, 1:])
        left.pop(0)
    np.testing.assert_array_equal(second_order(weight, scale, limit, moments), q)


def test_descent_ends_where_no_single_change_helps():
    weight, moments = problem(4, 20)
    limit = 3
    scale = row_scales(weight, limit)
    q = descend(weight, to_nearest(weight, scale, limit), scale, limit, moments, sweeps=50)
    best = loss(weight, q, scale, moments)
    pins = np.abs(weight).argmax(axis=1)
    for row, column, step in itertools.product(range(4), range(20), (-1, 1)):
        if column == pins[row] or abs(q[row, column] + step) > limit:
            continue
        other = q.copy()
        other[row, column] += step
        assert loss(weight, other, scale, moments)[row] >= best[row] * (1 - 1e-9)


def test_uncorrelated_inputs_leave_nothing_to_compensate():
    weight, _ = problem()
    scale = row_scales(weight, 7)
    for moments in (np.eye(40), np.zeros((40, 40))):
        q = second_order(weight, scale, 7, moments)
        np.testing.assert_array_equal(q, to_nearest(weight, scale, 7))
        np.testing.assert_array_equal(descend(weight, q, scale, 7, moments), q)


def test_rows_of_zeros_stay_zero():
    weight, moments = problem()
    weight[3] = 0
    scale = row_scales(weight, 7)
    assert (second_order(weight, scale, 7, moments)[3] == 0).all()
    assert (learned(weight, scale, 7, moments)[3] == 0).all()
    assert np.isfinite(scale).all()


def test_groups_rounded_at_once_are_rounded_as_each_alone():
    limit, parts = 7, [problem(3, 9, seed=seed) for seed in range(4)]
    parts.append((parts[0][0], np.zeros((9, 9))))  # nothing comes in
    weight, moments = (np.stack(side) for side in zip(*parts, strict=True))
    scale = row_scales(weight, limit, np.diagonal(moments, axis1=-2, axis2=-1))
    q = descend(weight, second_order(weight, scale, limit, moments), scale, limit, moments)
    for group, (w, h) in enumerate(parts):
        alone = row_scales(w, limit, np.diagonal(h))
        np.testing.assert_array_equal(scale[group], alone)
        expected = descend(w, second_order(w, alone, limit, h), alone, limit, h)
        np.testing.assert_array_equal(q[group], expected)
    assert not np.array_equal(q[0], to_nearest(weight[0], scale[0], limit))
