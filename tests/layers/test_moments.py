"""The linear algebra that forms share: the ridge, warnings, degenerate inputs, and what is not formed at all."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lwgraph import ir
from lwgraph.calibrate import Statistics
from lwgraph.calibrate.patches import Patches
from lwgraph.layers import moments as module
from lwgraph.layers.form import parse_form
from lwgraph.layers.linalg import ridges, shrinkage, solve
from lwgraph.layers.moments import MOST_UNKNOWNS, SETTLED, Block, Moments, Pooled, too_wide
from lwgraph.layers.probe import Probe
from lwgraph.layers.site import find_sites
from lwgraph.rewrite import Context, Pass
from lwgraph.runtime.ort import OrtExecutor
from lwgraph.testing.layers import make_layer


def block(count: int = 4000, channels: int = 6) -> Any:
    (site,) = find_sites(make_layer("Conv", (2, channels, 8, 8), (8, channels, 3, 3), pads=(1, 1, 1, 1)))
    rng = np.random.default_rng(1)
    x = rng.standard_normal((count, site.fan_in)) @ rng.standard_normal((site.fan_in, site.fan_in)) / 5 + 0.3
    gram = Pooled((x.T @ x / count)[None], x.mean(0)[None], count)
    return site, Moments(site, gram), gram


def test_the_ridge_is_that_of_the_shrinkage_estimator() -> None:
    rng = np.random.default_rng(0)
    width, count = 12, 400
    covariance = np.cov(rng.standard_normal((60, width)) * np.arange(1, width + 1), rowvar=False)
    n, p, trace, square = count / 4, width, np.trace(covariance), np.trace(covariance @ covariance)
    rho = ((1 - 2 / p) * square + trace**2) / ((n + 1 - 2 / p) * (square - trace**2 / p))
    assert shrinkage(covariance, count) == pytest.approx(rho / (1 - rho) * trace / p, rel=1e-12)
    assert shrinkage(covariance, 40) > shrinkage(covariance, 400) > shrinkage(covariance, 40_000) > 0
    # With hardly a sample, nine tenths are the mean of the spectrum; with very many, the ridge is a floor.
    assert shrinkage(covariance, 1) == pytest.approx(9 * trace / p)
    assert shrinkage(covariance, 10**15) == pytest.approx(1e-9 * trace / p)
    assert shrinkage(np.zeros((3, 3)), 100) == 1.0


def test_the_ridge_of_fits_shrinks_correlations() -> None:
    rng = np.random.default_rng(0)
    width, count = 300, 4000
    x = rng.standard_normal((count, width)) @ rng.standard_normal((width, width)) * np.geomspace(1e-3, 1e3, width)
    covariance = np.cov(x, rowvar=False)
    variance = np.diagonal(covariance)
    r = np.corrcoef(x, rowvar=False)
    rho = np.square(1 - r**2).sum() / (count / 4 * (np.square(r).sum() - width))
    expected = rho / (1 - rho) * (0.9 * variance + 0.1 * variance.mean())
    np.testing.assert_allclose(ridges(covariance, count), expected, rtol=1e-9)
    # Units do not matter but for the tenth that all have alike; few samples make it large, very many leave a floor.
    np.testing.assert_allclose(ridges(4 * covariance, count), 4 * expected)
    np.testing.assert_allclose(ridges(covariance, 1), 9 * (0.9 * variance + 0.1 * variance.mean()))
    np.testing.assert_allclose(ridges(covariance, 10**15), 1e-9 * (0.9 * variance + 0.1 * variance.mean()), rtol=1e-6)
    assert (ridges(np.zeros((3, 3)), 100) == 1).all()
    dead = covariance.copy()
    dead[:2] = dead[:, :2] = 0
    assert (ridges(dead, count) > 0).all()


def test_few_samples_of_a_probe_leave_what_fits_without_samples() -> None:
    """Features that repeat each other by their geometry do so with few samples, too."""
    rng = np.random.default_rng(0)
    mean = np.kron(np.eye(40), np.full((1, 4), 0.25))  # of four entries
    look = np.vstack([np.eye(160), mean])
    prior = look @ look.T
    (site,) = find_sites(make_layer("Conv", (1, 160, 4, 4), (20, 160, 1, 1)))
    weight = np.hstack([site.weight.reshape(20, -1), np.zeros((20, 40))])
    probe = Probe(site, Patches.of(site), weight, prior)
    for count, near in ((60, 0.03), (100_000, 1.0)):
        x = rng.standard_normal((count, 160)) @ look.T
        gram = Pooled((x.T @ x / count)[None], x.mean(0)[None], count)
        (found,) = Moments(probe, gram).blocks
        assert found.working is found.moments
        kept = np.r_[80:160, 160:180]  # the first half as means only
        fitted = solve(found.moments[np.ix_(kept, kept)], found.cross[:, kept])
        free = solve(prior[np.ix_(kept, kept)], (weight @ prior)[:, kept])
        gaps = [np.vdot((lost := weight_on(kept, k) - weight) @ prior, lost) for k in (fitted, free)]
        assert gaps[0] < (1 + near) * gaps[1]
        change = rng.standard_normal(weight.shape)
        exact = np.square((x - x.mean(0)) @ change.T).sum() / count
        assert found.error(found.matrix - change) == pytest.approx(exact, rel=1e-8)


def weight_on(columns: Any, kernel: Any) -> Any:
    whole = np.zeros((len(kernel), 200))
    whole[:, columns] = kernel
    return whole


def test_too_few_samples_are_told_with_how_many_would_do() -> None:
    site = block()[0]
    width = site.fan_in
    assert Moments.shortage(site, 3 * width) == ""
    text = Moments.shortage(site, 3 * width - 1)
    assert f"{3 * width - 1} samples for {width} unknowns" in text and f"about {5 * width} samples" in text
    assert "give 2 times as much data" in text and "give 27 times" in Moments.shortage(site, 10)


def test_a_pass_warns_of_too_few_samples() -> None:
    model = make_layer("Conv", (1, 20, 5, 5), (24, 20, 3, 3), pads=(1, 1, 1, 1), dynamic=False)
    x = np.random.default_rng(0).standard_normal((1, 20, 5, 5)).astype(np.float32)
    ort = OrtExecutor()
    context = Context(executor=ort, data=[{"x": x}], statistics=Statistics(model, [{"x": x}], ort))
    assert Pass.parse("low-rank{rank=4,split=output}").run(model, context) == 1
    assert any("25 samples for 180 unknowns" in text for text in context.warnings)


def test_averages_of_the_moments() -> None:
    site, moments, _ = block()
    (found,) = moments.blocks
    whole = found.moments.reshape(6, 9, 6, 9)
    np.testing.assert_allclose(found.channel_moments, np.einsum("ctdt->cd", whole) / 9)
    np.testing.assert_allclose(found.tap_moments, np.einsum("ctcs->ts", whole) / 6)
    assert found.total == pytest.approx(found.loss(np.zeros(site.shape)))


def test_large_layers_get_fewer_sweeps() -> None:
    (found,) = block()[1].blocks
    assert found.sweeps(8) == 8 and replace(found, refine=False).sweeps(8) == 0
    white = replace(found, ridge=0.0)
    assert white.sweeps(8) == 0 and white.sweeps(8, white=True) == 8
    for width, outputs, expected in ((1152, 128, 8), (1728, 192, 5), (2304, 256, 2), (4608, 512, 1)):
        wide = Block(np.zeros((outputs, width, 1)), np.empty((width, width)), 1.0)  # never touched
        assert wide.sweeps(8) == expected


def test_float32_is_taken_where_the_ridge_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = block()[1].blocks
    assert found.working is found.moments
    kernel = found.weight + 1e-3 * np.random.default_rng(0).standard_normal(found.weight.shape)
    loss = found.loss(kernel)
    monkeypatch.setattr(module, "WIDE", 1)
    assert found.working.dtype == np.float32
    assert found.loss(kernel) == pytest.approx(loss, rel=1e-4) and found.loss(kernel) != loss
    weak = replace(found, ridge=1e-7, cache={})
    assert weak.working is weak.moments  # float32 would not tell its small eigenvalues from zero


def test_a_sweep_that_gains_little_is_the_last() -> None:
    (found,) = block()[1].blocks
    error = 0.1 * found.total
    before = error - found.total  # losses are counted without the total
    assert found.settled(before, before - 0.5 * SETTLED * error)
    assert not found.settled(before, before - 2 * SETTLED * error)


def test_dependent_and_zero_features_get_finite_weights() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((5, 40))
    features = np.vstack([features, features[:2], np.zeros((1, 40))])
    targets = rng.standard_normal((3, 5)) @ features[:5]
    weight = solve(features @ features.T, targets @ features.T)
    assert np.isfinite(weight).all() and np.abs(weight).max() < 100
    np.testing.assert_allclose(weight @ features, targets, atol=1e-6)
    assert not weight[:, -1].any()


@pytest.mark.parametrize("kind", ["zero", "constant", "one channel", "copies"])
@pytest.mark.parametrize("text", ["low-rank{rank=4,split=vertical}", "depthwise{terms=2}", "cp{rank=12}"])
def test_degenerate_inputs_give_finite_fits_of_what_there_is(kind: str, text: str) -> None:
    site = block()[0]
    rng, n = np.random.default_rng(0), 2000
    x = np.zeros((n, site.fan_in))
    if kind == "constant":
        x += 3.0
    elif kind == "one channel":
        x[:, 9:18] = rng.standard_normal((n, 9))
    elif kind == "copies":
        x = np.tile(rng.standard_normal((n, 9)), 6)
    fitted = parse_form(text).fit(site, Moments(site, Pooled((x.T @ x / n)[None], x.mean(0)[None], n)))
    assert np.isfinite(fitted.kernel).all() and np.isfinite(fitted.shift).all()
    assert fitted.error == 0 if kind in ("zero", "constant") else fitted.error < 0.2
    assert np.abs(fitted.kernel).max() < 100 * np.abs(site.weight).max()


def test_layers_with_too_many_unknowns_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    width = MOST_UNKNOWNS + 1
    model = make_layer("Gemm", (1, width), (4, width), transB=1)
    (site,) = find_sites(model)
    assert "10,001 entries" in too_wide(site) and not too_wide(block()[0])
    x = np.zeros((1, width), np.float32)
    ort = OrtExecutor()
    statistics = Statistics(model, [{"x": x}], ort)
    monkeypatch.setattr(statistics, "_collect", lambda *_: pytest.fail("moments of a layer that is too wide"))
    context = Context(executor=ort, data=[{"x": x}], statistics=statistics)
    before = ir.fingerprint(model)
    assert Pass.parse("low-rank{rank=2}").run(model, context) == 0
    assert ir.fingerprint(model) == before
    assert any("moments of more than 10,000 are not formed" in s.reason for s in context.skipped)
