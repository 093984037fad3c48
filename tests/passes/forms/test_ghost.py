"""Ghost outputs are made from primary ones, in order where that is sound."""

from dataclasses import replace

import numpy as np
import pytest

from lwgraph import registry
from lwgraph.layers.moments import Block, Moments
from lwgraph.layers.substitute import difference, formed, small_model
from lwgraph.passes.forms._neighbours import output_probe
from lwgraph.passes.forms._split import factor
from lwgraph.passes.forms.ghost import AMPLIFIED, Ghost, growth, pivots, turn
from lwgraph.passes.forms.low_rank import LowRank
from lwgraph.testing.layers import SampleLayer, make_layer, moments_on
from tests.passes.forms.sampled import sampled

REFERENCE = registry.executor("reference")


def nodes(fitted):
    model = small_model(fitted.site, formed(fitted), (1, 32, 12, 12), 17)
    return [node.op_type for node in model.graph]


def test_errs_as_the_optimal_factors_of_its_rank():
    site, moments = sampled()
    for primary in (8, 16, 24):
        best = LowRank(primary, split="output").fit(site, moments).error
        assert Ghost(primary).fit(site, moments).error == pytest.approx(best, rel=1e-6)


def test_outputs_stay_in_order_where_the_first_are_sound():
    site, moments = sampled()
    assert nodes(Ghost(16).fit(site, moments)) == ["Conv", "Conv", "Concat"]


@pytest.mark.parametrize("place", ["first", "last", "spread"])
def test_primary_outputs_are_independent(place):
    site, moments = sampled()
    copies, of = {"first": (range(8), 8), "last": (range(24, 32), 0), "spread": (range(0, 32, 2), 1)}[place]
    weight = site.weight.copy()
    for c in copies:  # nearly the same output again and again
        weight[c] = weight[of] * (1 + 0.01 * c) + 1e-4 * weight[c]
    site = site.with_weight(weight, site.bias)
    (block,) = moments.blocks
    moments.blocks = [replace(block, weight=weight, cache={})]
    fitted = Ghost(12, order="pivoted" if place == "spread" else "auto").fit(site, moments)
    picked = set(fitted.arrays["outputs"].astype(int))
    assert len(picked & (set(copies) | {of})) <= 2
    assert ("Gather" in nodes(fitted)) == (place == "spread")
    assert difference(fitted, REFERENCE, 17) == ""


def test_pivots_skip_what_is_known():
    random = np.random.default_rng(0)
    x = random.standard_normal((500, 4)) @ random.standard_normal((4, 9))
    x[:, 5] = 0
    picked = pivots(x.T @ x, 4)
    assert np.linalg.matrix_rank(x[:, picked]) == 4
    assert sorted(pivots(x.T @ x, 9)) == list(range(9))


def test_bias_of_the_primary_layer_does_not_leak():
    site, moments = sampled()
    fitted = Ghost(16).fit(site, moments)
    assert site.bias is not None and np.any(site.bias)
    model = small_model(site, formed(fitted), (1, 32, 5, 5), 17)
    y = REFERENCE.prepare(model)({"x": np.zeros((1, 32, 5, 5), np.float32)})["y"]
    assert np.allclose(y, fitted.bias.reshape(1, -1, 1, 1), atol=1e-5)


def test_what_rounding_would_spoil_is_pivoted():
    _, moments = sampled()
    first, second = factor(moments.blocks[0], [0, 1], 16)
    rows, columns = first.reshape(16, -1), second.reshape(32, 16)
    loose, strict = (turn(moments.blocks[0], rows, columns, AMPLIFIED[size])[0] for size in (4, 2))
    assert list(loose) == list(range(16)) != list(strict)


@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": (1, 1, 1, 1)},
        {"strides": (2, 1)},
        {"dilations": (1, 2)},
        {"strides": (2, 2), "dilations": (2, 1)},
    ],
)
def test_moments_of_the_outputs_of_white_inputs(attributes):
    shape = (3000, 2, 17, 15)
    site = SampleLayer("layer", make_layer("Conv", shape, (3, 2, 3, 3), bias=False, **attributes), shape).site
    probe = output_probe(site)
    y = probe.values(np.random.default_rng(0).standard_normal(shape))
    height, width = y.shape[2:]
    middle = (np.arange(3000) * height + height // 2) * width + width // 2  # far from the padding
    rows = probe.patches.rows(y, middle)[:, 0]
    assert np.allclose(rows.T @ rows / len(rows), probe.white, atol=0.12 * np.diagonal(probe.white).max())


def test_outputs_that_are_moved_copies_are_made_from_them():
    shape = (4, 16, 12, 12)
    made = SampleLayer("layer", make_layer("Conv", shape, (16, 16, 3, 3), pads=(1, 1, 1, 1)), shape)
    site, weight = made.site, made.site.weight.copy()
    weight[:, :, :, 2] = 0
    weight[8:] = np.roll(weight[:8], 1, 3)  # outputs 8 to 15 see what is one to the left
    site = site.with_weight(weight, site.bias)
    fitted = Ghost(8, cheap="depthwise").fit(site, moments_on(site, made.samples()))
    assert {int(i) % 8 for i in fitted.arrays["outputs"]} == set(range(8))
    assert fitted.error < 0.1  # but for the padding
    assert difference(fitted, REFERENCE, 17) == ""
    assert Ghost(8, cheap="depthwise").fit(site, Moments(site)).error < 1e-9


def test_inputs_that_are_dead_on_the_samples_do_not_spoil_unusual_ones():
    columns = np.array([[1, 1e-3], [1, 0], [0, 1], [0.5, 1]])  # outputs 0 and 1 differ in what the second input adds
    faint = np.diag([1e-10, 1.0])
    block = Block(columns.reshape(4, 2, 1), faint, 1e-12)
    cheap = np.linalg.solve(columns[:2].T, columns[2:].T).T
    first, last = np.arange(2), np.arange(2, 4)
    assert growth(cheap, first, last, columns @ faint @ columns.T) < 2
    assert growth(cheap, first, last, columns @ columns.T) > 1000
    picked = set(turn(block, np.eye(2), columns, 100.0)[0])
    assert len(picked & {0, 1}) == 1  # one that sees each input


def test_outputs_that_cost_less_than_a_depthwise_layer_are_not_made_by_one():
    shapes = {"pointwise": (4, 6, 9, 9), "wide": (4, 12, 9, 9)}
    sites = {n: SampleLayer(n, make_layer("Conv", s, (16, s[1], 1, 1)), s).site for n, s in shapes.items()}
    form = Ghost(5, cheap="depthwise")
    assert form.at(sites["pointwise"]).cheap == "pointwise" and form.at(sites["wide"]).cheap == "depthwise"
