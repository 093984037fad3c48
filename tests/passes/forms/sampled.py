"""A layer with its moments."""

from lwgraph.testing.layers import SampleLayer, make_layer, moments_on


def sampled(shape=(4, 32, 12, 12), weight=(32, 32, 3, 3)):
    layer = SampleLayer("wide", make_layer("Conv", shape, weight, pads=(1, 1, 1, 1)), shape)
    site = layer.site
    return site, moments_on(site, layer.samples())
