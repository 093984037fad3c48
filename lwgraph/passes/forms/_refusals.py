"""Why a form cannot stand at a layer: the reasons that several forms share. "" where it can."""

from __future__ import annotations

from lwgraph.layers.emit import known_padding
from lwgraph.layers.site import Site


def dense_conv(site: Site) -> str:
    """Whether the layer is a convolution without groups."""
    if site.kind != "conv":
        return f"the layer is a {site.node.op_type}; the form needs a Conv"
    if site.group > 1:
        return f"the layer has {site.group} groups; the form needs a dense one"
    return ""


def dense_spatial(site: Site) -> str:
    """Whether it is one with a spatial kernel, too."""
    if site.kind == "conv" and site.taps == 1:
        return "the layer has no spatial kernel"
    return dense_conv(site)


def partly_known(site: Site) -> str:
    """Why a smaller kernel cannot stand at the place of some of the layer's taps; "" when it can."""
    if known_padding(site) is None:
        return f"auto_pad={site.auto_pad} with a stride pads by the image size, which is not known"
    return ""


__all__ = ["dense_conv", "dense_spatial", "partly_known"]
