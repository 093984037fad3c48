"""Factored moments: what they may be off by, what they share with exact ones, what they take."""

import gc
import tracemalloc
import weakref

import numpy as np
import pytest
from onnx import helper

from lwgraph import registry
from lwgraph.calibrate import Statistics
from lwgraph.calibrate import statistics as module
from lwgraph.calibrate.gram import Gram
from lwgraph.calibrate.sketch import FactoredGram, Sketch
from lwgraph.errors import DataError
from tests.calibrate.calibration_layers import FakeLayer, build

ORT = registry.executor("ort")


def patches(count, width, decay=0.7, seed=0, groups=1):
    """Rows with a spectrum that falls as i^-decay, and a mean."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((groups, width, width)) / np.sqrt(width)
    scale = np.arange(1, width + 1) ** -decay
    rows = np.einsum("rgw,gwd->rgd", rng.standard_normal((count, groups, width)) * scale, mixed)
    return (rows + rng.standard_normal((groups, width)) * 0.3).astype(np.float32)


def sketched(rows, capacity=64, parts=(100, 37, 1, 1000)):
    sketch = Sketch(rows.shape[1], rows.shape[2], capacity=capacity)
    start = 0
    while start < len(rows):
        for part in parts:
            sketch.add(rows[start : start + part])
            start += part
    return sketch.result()


def dense(gram, group=0):
    factor = gram.factor[group].astype(float)
    return factor.T @ factor + np.diag(gram.rest[group])


def covariance(rows, group=0):
    return np.cov(rows[:, group].astype(float), rowvar=False, bias=True)


@pytest.mark.parametrize("decay", [0.0, 0.7, 1.5])
def test_quadratic_forms_are_within_the_stated_bound(decay):
    rows = patches(3000, 200, decay)
    gram, exact = sketched(rows), covariance(rows)
    found = dense(gram)
    assert gram.count == 3000 and gram.factor.shape[1] <= 64
    np.testing.assert_allclose(np.diagonal(found), np.diagonal(exact), rtol=1e-5)
    np.testing.assert_allclose(gram.mean[0], rows[:, 0].mean(0, dtype=float), atol=1e-6)
    values = np.linalg.eigvalsh(exact)[::-1]
    slack = float(gram.slack[0])
    assert 0 < slack <= min((values.sum() - values[:k].sum()) / (6 - k) for k in range(6)) * 1.001
    assert np.abs(np.linalg.eigvalsh(found - exact)).max() <= slack * 1.001
    assert np.linalg.eigvalsh(exact - gram.factor[0].astype(float).T @ gram.factor[0]).min() > -1e-5 * values[0]


def test_few_patches_are_kept_without_loss():
    for groups in (1, 3):
        rows = patches(60, 100, groups=groups)
        gram = sketched(rows, parts=(13,))
        assert not gram.slack.any() and gram.count == 60
        for group in range(groups):
            np.testing.assert_allclose(dense(gram, group), covariance(rows, group), atol=1e-6)


def test_a_large_mean_costs_no_accuracy():
    rows = patches(60, 80) + np.float32(1000)
    np.testing.assert_allclose(dense(sketched(rows)), covariance(rows), atol=2e-4)


def test_pooled_moments_are_those_of_all_patches():
    rows = patches(120, 90)
    grams = [sketched(part) for part in np.split(rows, [30, 70])]
    gram = FactoredGram.pooled(grams)
    assert gram.count == 120 and not gram.slack.any()
    np.testing.assert_allclose(dense(gram), covariance(rows), atol=1e-6)
    np.testing.assert_allclose(gram.mean[0], rows[:, 0].mean(0, dtype=float), atol=1e-6)
    raw = np.einsum("rgd,rge->de", rows.astype(float), rows) / 120
    np.testing.assert_allclose(dense(gram.uncentred), raw, atol=1e-5)
    assert not gram.uncentred.mean.any()
    assert FactoredGram.pooled(grams[:1]) is grams[0]


def test_values_that_are_not_finite_are_refused():
    for value in (np.nan, np.inf, 1e30):
        rows = patches(70, 40)
        rows[5, 0, 3] = value
        with pytest.raises(DataError, match="'x' has NaN, infinite or overflowing values"):
            sketched(rows)
    with pytest.raises(DataError, match="no positions"):
        Sketch(1, 40).result()


def network(channels, taps, outputs=4, length=90):
    """A 1-D Conv of long patches behind one of short ones."""
    rng = np.random.default_rng(0)
    w1 = rng.standard_normal((channels, 2, 3)).astype(np.float32)
    w2 = rng.standard_normal((outputs, channels, taps)).astype(np.float32) * 0.01
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], "short", pads=[1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["y"], "long"),
    ]
    model = build(nodes, {"x": ("n", 2, "l")}, ["y"], {"w1": w1, "w2": w2})
    values = {v.name: v for node in model.graph for v in node.outputs} | {v.name: v for v in model.graph.inputs}
    layers = [
        FakeLayer("short", "conv", values["x"], channels, 6, (3,), (1,), (1,), (1, 1)),
        FakeLayer("long", "conv", values["r1"], outputs, channels * taps, (taps,), (1,), (1,), (0, 0)),
    ]
    return model, layers, [{"x": rng.standard_normal((1, 2, length)).astype(np.float32)} for _ in range(4)]


def test_the_longest_patches_are_factored_and_the_others_as_without_an_allowance():
    model, (short, long), feeds = network(40, 32)
    whole, part = (Statistics(model, feeds, ORT, memory_bytes=m) for m in (None, 16 << 20))
    assert all(whole.exact(layer) for layer in (short, long))
    assert part.exact(short) and not part.exact(long)
    part.prefetch([short, long])
    for name in ("matrix", "mean", "count"):
        assert np.array_equal(getattr(part.gram(short), name), getattr(whole.gram(short), name))
    found, exact = part.gram(long), whole.gram(long)
    assert isinstance(found, FactoredGram) and isinstance(exact, Gram) and found.count == exact.count == 4 * 59
    np.testing.assert_allclose(dense(found), exact.centred[0], atol=1e-5)


def test_an_allowance_with_room_changes_no_byte(monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", 7)
    model, layers, feeds = network(40, 32)
    whole, roomy = (Statistics(model, feeds, ORT, memory_bytes=m) for m in (None, 1 << 30))
    for layer in layers:
        assert roomy.exact(layer)
        assert np.array_equal(roomy.gram(layer).matrix, whole.gram(layer).matrix)


def test_without_an_allowance_all_but_the_very_longest_are_exact():
    model, layers, feeds = network(8, 4)
    statistics = Statistics(model, feeds, ORT)
    for fan_in, exact in ((20_000, True), (20_001, False)):
        assert statistics.exact(FakeLayer("x", "gemm", layers[0].input, 4, fan_in)) is exact


def test_what_was_released_is_collected_again():
    model, (short, long), feeds = network(40, 32)
    statistics = Statistics(model, feeds, ORT, memory_bytes=16 << 20, held_out=0.25)
    before = [statistics.gram(short).matrix.copy(), statistics.gram(long).factor.copy(), statistics.held_out(long)]
    held = weakref.ref(statistics.gram(long).factor)
    statistics.release([short, long])
    gc.collect()
    assert held() is None
    again = [statistics.gram(short).matrix, statistics.gram(long).factor, statistics.held_out(long)]
    assert all(np.array_equal(a, b) for a, b in zip(before, again, strict=True))


@pytest.mark.parametrize("allowance", [96 << 20, 256 << 20])
def test_a_fan_in_of_65536_stays_within_the_allowance(allowance):
    model, (_, long), feeds = network(1024, 64, length=400)
    statistics = Statistics(model, feeds, ORT, memory_bytes=allowance)
    tracemalloc.start()
    try:
        gram = statistics.gram(long)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    captured = 4 * 1024 * 400  # one value of one feed
    assert isinstance(gram, FactoredGram) and gram.mean.shape == (1, 65536) and gram.count > 64
    assert peak < allowance + 4 * captured
