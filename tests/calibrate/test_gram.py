"""Second moments of streams."""

from __future__ import annotations

import numpy as np
import pytest

from lwgraph.calibrate.gram import CrossAccumulator, GramAccumulator
from lwgraph.errors import DataError


def rows(count=700, groups=2, width=5, seed=0, offset=0.0):
    return (np.random.default_rng(seed).standard_normal((count, groups, width)) + offset).astype(np.float32)


def test_moments_do_not_depend_on_how_the_stream_is_cut():
    x = rows()
    expected = np.einsum("rgi,rgj->gij", x.astype(float), x.astype(float)) / len(x)
    for step in (1, 37, 700):
        gram = GramAccumulator(2, 5)
        for start in range(0, len(x), step):
            gram.add(x[start : start + step])
        found = gram.result()
        np.testing.assert_allclose(found.matrix, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.mean, x.mean(0, dtype=float), atol=1e-6)
        assert found.count == 700
        np.testing.assert_allclose(found.centred[1], np.cov(x[:, 1].astype(float).T, bias=True), rtol=1e-4, atol=1e-5)


def test_a_large_mean_costs_no_accuracy():
    x = rows(3000, 1, 4, offset=1000.0)
    gram = GramAccumulator(1, 4)
    gram.add(x)
    np.testing.assert_allclose(gram.result().centred[0], np.cov(x[:, 0].astype(float).T, bias=True), atol=1e-4)


def test_results_can_be_taken_in_between():
    x, gram = rows(), GramAccumulator(2, 5)
    gram.add(x[:300])
    assert gram.result().count == 300
    gram.add(x[300:])
    np.testing.assert_allclose(gram.result().mean, x.mean(0, dtype=float), atol=1e-6)


def test_what_is_not_finite_is_named():
    for bad in (np.nan, np.inf, 1e30):
        gram = GramAccumulator(1, 3, name="conv_7")
        x = np.zeros((4, 1, 3), np.float32)
        x[2, 0, 1] = bad
        gram.add(x)
        with pytest.raises(DataError, match="'conv_7' has NaN, infinite"):
            gram.result()
    with pytest.raises(DataError, match="no positions"):
        GramAccumulator(1, 3).result()


def test_cross_moments_solve_the_least_squares_problem():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((2, 3, 5))
    x = rows(4000, offset=2.0)
    y = np.einsum("god,rgd->rgo", weight, x).astype(np.float32) + 7
    cross = CrossAccumulator(2, 3, 5)
    for start in range(0, 4000, 333):
        cross.add(x[start : start + 333], y[start : start + 333])
    found = cross.result()
    solved = np.linalg.solve(found.gram.centred, found.centred.swapaxes(1, 2)).swapaxes(1, 2)
    np.testing.assert_allclose(solved, weight, atol=1e-4)
    np.testing.assert_allclose(found.target_mean, y.mean(0, dtype=float), atol=1e-4)
    np.testing.assert_allclose(found.target_power, np.square(y.astype(float)).mean(0), rtol=1e-4)
    np.testing.assert_allclose(found.cross, np.einsum("rgo,rgd->god", y.astype(float), x) / 4000, rtol=1e-4, atol=1e-4)
