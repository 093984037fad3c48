"""Bounds on a loss: they hold as often as they say, and nothing is said of what samples cannot tell."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from lwgraph.measure.evidence import Disagreements, Mean, OneNumber, Pairs, Resampled, paired, share_bounds

LEVEL = 0.05
REPETITIONS = 2000
# Of 2,000 repetitions at exactly 5 %, fewer than 4 % miss in all but 1 of 50 and more than 6.5 % in 1 of 500.
MISSED = 0.065


def test_the_exact_bounds_of_a_share_are_those_of_the_binomial() -> None:
    low, high = share_bounds(3, 50, LEVEL)
    assert stats.binom.cdf(3, 50, high) == pytest.approx(LEVEL) and stats.binom.sf(2, 50, low) == pytest.approx(LEVEL)
    assert share_bounds(0, 100, LEVEL) == (0.0, pytest.approx(1 - LEVEL ** (1 / 100)))
    assert share_bounds(100, 100, LEVEL) == (pytest.approx(LEVEL ** (1 / 100)), 1.0)


@pytest.mark.parametrize(("samples", "percent", "high"), [(256, 0, 1.2), (256, 3, 5.6), (1000, 1, 1.7), (5000, 1, 1.3)])
def test_known_bounds_in_points(samples: int, percent: int, high: float) -> None:
    found = Disagreements(round(percent * samples / 100), samples).bounds(LEVEL)[1]
    assert 100 * found == pytest.approx(high, abs=0.15)


@pytest.mark.parametrize("samples", [32, 512])
@pytest.mark.parametrize("share", [0.0, 0.002, 0.03, 0.4])
def test_bounds_on_disagreement_hold(samples: int, share: float) -> None:
    counts = np.random.default_rng(0).binomial(samples, share, REPETITIONS)
    values, times = np.unique(counts, return_counts=True)
    bounds = [Disagreements(int(v), samples).bounds(LEVEL) for v in values]
    assert sum(t for t, (_, high) in zip(times, bounds, strict=True) if high < share) <= MISSED * REPETITIONS
    assert sum(t for t, (low, _) in zip(times, bounds, strict=True) if low > share) <= MISSED * REPETITIONS


@pytest.mark.parametrize("samples", [32, 512])
@pytest.mark.parametrize(("lost", "gained"), [(0.0, 0.0), (0.01, 0.0), (0.03, 0.02), (0.1, 0.1), (0.3, 0.05)])
def test_bounds_on_pairs_hold(samples: int, lost: float, gained: float) -> None:
    counts = np.random.default_rng(1).multinomial(samples, [lost, gained, 1 - lost - gained], REPETITIONS)
    values, times = np.unique(counts[:, :2], axis=0, return_counts=True)
    bounds = [Pairs(int(a), int(b), samples).bounds(LEVEL) for a, b in values]
    loss = lost - gained
    assert sum(t for t, (_, high) in zip(times, bounds, strict=True) if high < loss) <= MISSED * REPETITIONS
    assert sum(t for t, (low, _) in zip(times, bounds, strict=True) if low > loss) <= MISSED * REPETITIONS


@pytest.mark.parametrize("span", [1.0, math.inf])
def test_bounds_on_means_hold(span: float) -> None:
    rng = np.random.default_rng(2)
    losses = rng.beta(2, 30, (REPETITIONS, 200)) if span == 1.0 else rng.normal(0.3, 1.0, (REPETITIONS, 200))
    true = 2 / 32 if span == 1.0 else 0.3
    bounds = np.array([Mean.of(row, span).bounds(LEVEL) for row in losses])
    assert (bounds[:, 1] < true).mean() <= MISSED and (bounds[:, 0] > true).mean() <= MISSED
    if span == math.inf:  # and t is no wider than it must be
        assert (bounds[:, 1] < true).mean() >= 0.035


def test_the_empirical_bernstein_bound_is_maurer_and_pontils() -> None:
    losses = np.array([0.0, 0.0, 1.0, 0.0])
    log = math.log(2 / LEVEL)
    expected = 0.25 + math.sqrt(2 * np.var(losses, ddof=1) * log / 4) + 7 * log / 9
    assert Mean.of(losses, 1.0).bounds(LEVEL)[1] == pytest.approx(expected)


def test_the_bootstrap_holds_about_as_often_as_it_says() -> None:
    rng, kept = np.random.default_rng(3), 0
    for seed in range(120):
        values = rng.gamma(2.0, 1.0, 150)
        found = Resampled.of(lambda at, values=values: float(np.median(values[at])), 150, seed, draws=200).bounds(LEVEL)
        kept += found[1] >= stats.gamma.median(2.0)
    assert kept >= 0.9 * 120


def test_what_never_varies_has_no_bootstrap_interval() -> None:
    assert Resampled.of(lambda at: 0.0, 100).bounds(LEVEL) == (None, None)
    assert Resampled.of(lambda at: float(at.mean()), 19).bounds(LEVEL) == (None, None)  # too few to resample
    some = Resampled.of(lambda at: float(at.mean()), 50)
    assert some.bounds(LEVEL)[0] < some.estimate < some.bounds(LEVEL)[1]


def test_the_bootstrap_reaches_beyond_what_so_many_draws_can_tell() -> None:
    """Of the mean of 0..49, whose deviation is 14.43 / sqrt(50) = 2.04, at 3.72 deviations."""
    some = Resampled.of(lambda at: float(at.mean()), 50)
    assert some.bounds(1e-4) == pytest.approx((24.5 - 7.59, 24.5 + 7.59), abs=0.5)


def test_more_samples_draw_bootstrap_bounds_together() -> None:
    values = np.random.default_rng(4).normal(size=100)
    few = Resampled.of(lambda at: float(values[at].mean()), 100)
    many = few.scaled(400)
    widths = [high - low for low, high in (few.bounds(LEVEL), many.bounds(LEVEL))]
    assert widths[1] == pytest.approx(widths[0] / 2) and many.estimate == few.estimate


def test_losses_that_are_all_alike_tell_t_nothing() -> None:
    assert Mean.of(np.zeros(50)).bounds(LEVEL) == (None, None)
    assert Mean.of(np.zeros(1), 1.0).bounds(LEVEL) == (None, None)
    assert Mean.of(np.zeros(50), 1.0).bounds(LEVEL)[1] > 0.15  # with limits, seven thirds of log over n stays


def test_one_number_has_no_bounds() -> None:
    assert OneNumber(0.1).bounds(LEVEL) == (None, None) and OneNumber(0.1).scaled(10) is None


def test_the_evidence_follows_from_the_values() -> None:
    right, wrong = np.array([1.0, 1, 1, 0, 0]), np.array([1.0, 0, 0, 1, 0])
    assert paired(right, wrong, 1.0) == Pairs(2, 1, 5)
    assert paired(np.ones(5), wrong, 1.0, original=True) == Disagreements(3, 5)
    halves = paired(np.ones(4), np.array([1.0, 0.5, 1, 1]), 1.0, original=True)
    assert isinstance(halves, Mean) and halves.span == 1.0 and halves.estimate == 0.125
    assert paired(right, wrong / 2, 1.0).span == 2.0  # a difference of two values from 0 to 1
    assert paired(np.array([30.0, 40.0]), np.array([30.0, 39.0])).method.startswith("Student's t")
