"""Taps are kept where they matter, and stand where they stood."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from lwgraph import registry
from lwgraph.layers.emit import known_padding
from lwgraph.layers.moments import Moments
from lwgraph.layers.substitute import difference
from lwgraph.passes.forms.fire import Fire
from lwgraph.passes.forms.smaller_kernel import SmallerKernel
from lwgraph.testing.layers import SampleLayer, make_layer, patches

REFERENCE = registry.executor("reference")


def layer(kernel, size=11, **attributes):
    shape = (2, 6, *(size,) * len(kernel))
    return SampleLayer("layer", make_layer("Conv", shape, (8, 6, *kernel), dynamic=False, **attributes), shape)


def keeping(site, taps):
    """The site with a weight that is zero elsewhere."""
    mask = np.zeros(site.kernel)
    mask[np.ix_(*taps)] = 1
    site = site.with_weight(site.weight * mask, site.bias)
    return site


@pytest.mark.parametrize("taps", [((0, 1), (1, 2)), ((0, 2), (0, 2)), ((1, 2), (0, 2)), ((0, 2), (1, 2))])
@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 0, 0, 0), (0, 2, 1, 0)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
def test_finds_the_support(taps, pads, strides):
    site = keeping(layer((3, 3), pads=pads, strides=strides).site, taps)
    fitted = SmallerKernel("2").fit(site, Moments(site))
    assert fitted.error < 1e-12
    assert [tuple(fitted.arrays[f"taps{a}"].astype(int)) for a in (0, 1)] == list(taps)
    assert difference(fitted, REFERENCE, 17) == ""


def test_large_kernels_are_placed_axis_by_axis():
    site = keeping(layer((7, 7), pads=(3, 3, 3, 3), dilations=(1, 2), size=17).site, ((0, 3, 6), (2, 3, 4)))
    fitted = SmallerKernel("3").fit(site, Moments(site))
    assert fitted.error < 1e-12 and difference(fitted, REFERENCE, 17) == ""


@pytest.mark.parametrize("cell", list(itertools.product(range(3), range(3))))
def test_finds_the_cross(cell):
    site = layer((3, 3), pads=(1, 1, 1, 1)).site
    mask = np.zeros((3, 3))
    mask[cell[0]], mask[:, cell[1]] = 1, 1
    site = site.with_weight(site.weight * mask, site.bias)
    fitted = SmallerKernel(cross=True).fit(site, Moments(site))
    assert fitted.error < 1e-12 and difference(fitted, REFERENCE, 17) == ""


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("size", [9, 10, 11])
@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_padding_by_size_is_known_where_the_size_is(auto_pad, strides, size, kernel):
    made = layer((kernel,), size=size, auto_pad=auto_pad, strides=(strides,))
    begin, end = known_padding(made.site)
    twin = replace(made.site, auto_pad="NOTSET", pads=(begin, end))
    x = made.samples()
    assert np.array_equal(patches(made.site, x), patches(twin, x))


def test_padding_by_a_size_that_is_not_known_is_refused():
    shape = (2, 6, 9, 9)
    for strides, refused in (((1, 1), False), ((1, 2), True)):
        model = make_layer("Conv", shape, (8, 6, 3, 3), auto_pad="SAME_UPPER", strides=strides)
        site = SampleLayer("layer", model, shape).site
        assert ("auto_pad=SAME_UPPER" in SmallerKernel.refusal(site)) == refused
        assert ("auto_pad=SAME_UPPER" in Fire.refusal(site)) == refused


def test_depthwise_layers_are_taken():
    shape = (2, 12, 9, 9)
    made = SampleLayer("deep", make_layer("Conv", shape, (12, 1, 5, 5), group=12, pads=(2, 2, 2, 2)), shape)
    site = keeping(made.site, ((1, 2, 3), (1, 2, 3)))
    assert SmallerKernel.refusal(site) == ""
    fitted = SmallerKernel("3").fit(site, Moments(site))
    assert fitted.error < 1e-12 and difference(fitted, REFERENCE, 17) == ""
