"""Shuffle: a grouped convolution, its channels dealt out among all groups, and a grouped 1 x 1 convolution.

    Khat[o, c, d] = sum_r L[o, i, r] V[j, r, c, d],  o in output group j, c in input group i

Every pair of an output and an input group has a block of rank `rank`. For a 1 x 1 layer of rank 1 this is a Monarch
matrix (Dao et al. 2022), whose projection is a truncated SVD per block; with a spatial kernel it is an interleaved
group convolution (Zhang et al. 2017). On the moments the outputs of each group are a grouped convolution with a 1 x 1
layer behind it, independent of the other groups', and are fitted as that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np

from lwgraph import ir
from lwgraph.layers.emit import Emitter
from lwgraph.layers.form import Fitted, Form, cheaper
from lwgraph.layers.moments import SHARED, Moments
from lwgraph.layers.site import Site
from lwgraph.passes.forms._refusals import dense_conv
from lwgraph.passes.forms._reorder import reorder
from lwgraph.passes.forms.grouped import INVERSE, expand, split


@dataclass(frozen=True)
class Shuffle(Form):
    """Two grouped convolutions, the second 1 x 1, with the channels shuffled in between."""

    name: ClassVar[str] = "shuffle"

    groups: Annotated[int, "groups of both; a common divisor of the input and output channels"] = 2
    rank: Annotated[int, "channels from each group of the first to each of the second; 0: by ratio"] = 0
    ratio: Annotated[float, "all channels in between as a share of the smaller of inputs and outputs"] = 1.0

    def __post_init__(self) -> None:
        self.check_option("groups", self.groups >= 1, "1 or more")
        self.check_option("rank", self.rank >= 0, "0 or more")
        self.check_option("ratio", self.ratio > 0, "above 0")

    @classmethod
    def refusal(cls, site: Site) -> str:
        """Why this form cannot stand at `site`; "" when it can."""
        if refused := dense_conv(site):
            return refused
        if np.gcd(site.inputs, site.outputs) < 2:
            return f"{site.inputs} inputs and {site.outputs} outputs have no common divisor"
        return ""

    @classmethod
    def menu(cls, site: Site) -> Sequence[Form]:
        """2 and 4 groups of whole blocks of 16 channels, with 1/2 and 1 times the channels, where that saves work."""
        sizes = dict.fromkeys(
            cls(groups, ratio=ratio).at(site)
            for groups in (2, 4)
            for ratio in (0.5, 1.0)
            if site.inputs % (16 * groups) == site.outputs % (16 * groups) == 0
        )
        whole = [form for form in sizes if form.rank * form.groups % 16 == 0]
        return cheaper(whole, site)

    @classmethod
    def full(cls, site: Site) -> Form:
        """Blocks of full rank."""
        groups = next(g for g in range(2, site.inputs + 1) if site.inputs % g == site.outputs % g == 0)
        return cls(groups, min(site.outputs, site.fan_in) // groups)

    def at(self, site: Site) -> Shuffle:
        """The next smaller number of groups that divides the channels, and the rank, that `site` gets."""
        groups = min(self.groups, site.inputs, site.outputs)
        while site.inputs % groups or site.outputs % groups:
            groups -= 1
        limit = min(site.outputs, site.fan_in) // groups
        wanted = self.rank or int(np.ceil(self.ratio * min(site.inputs, site.outputs) / groups**2 - 1e-9))
        return Shuffle(groups, min(wanted, limit))

    def fit(self, site: Site, moments: Moments) -> Fitted:
        """Fit a grouped convolution and a 1 x 1 layer to the moments, for each group of outputs."""
        form, (block,) = self.at(site), moments.blocks
        groups, rank = form.groups, form.rank
        parts = []
        for rows in np.split(np.arange(site.outputs), groups):
            known = {key: value for key, value in block.cache.items() if key in SHARED or key[0] == INVERSE}
            own = replace(block, weight=block.weight[rows], cache=known | {"cross": block.cross[rows]})
            parts.append(split(own, groups, rank))
            block.cache.update({k: v for k, v in own.cache.items() if k in SHARED or k[0] == INVERSE})
        kernel = np.concatenate([outer @ expand(inner, groups) for inner, outer in parts])
        # (j, i, r) of the fits is (i, j, r) in the first convolution.
        first = np.stack([inner.reshape(groups, rank, -1) for inner, _ in parts], 1)
        arrays = {
            "grouped": first.reshape(groups * groups * rank, site.inputs // groups, *site.kernel),
            "pointwise": np.concatenate([outer for _, outer in parts]).reshape(
                site.outputs, groups * rank, *(1,) * len(site.kernel)
            ),
        }
        return form.fitted(site, moments, arrays, kernel.reshape(site.shape))

    def blank(self, site: Site) -> Fitted:
        """Random weights."""
        form, random, ones = self.at(site), np.random.default_rng(0), (1,) * len(site.kernel)
        width = form.groups * form.rank
        shape = (form.groups * width, site.inputs // form.groups, *site.kernel)
        arrays = {
            "grouped": random.standard_normal(shape) / site.fan_in,
            "pointwise": random.standard_normal((site.outputs, width, *ones)) / width,
        }
        return form.unfitted(site, arrays)

    def emit(self, op: Emitter, x: ir.Value, fitted: Fitted) -> ir.Value:
        """A grouped convolution with the layer's geometry, a Gather, a grouped 1 x 1 convolution with its bias."""
        form, arrays = fitted.form, fitted.arrays
        assert isinstance(form, Shuffle)
        y = op.stage(x, arrays["grouped"], "grouped", group=form.groups)
        order = np.arange(len(arrays["grouped"])).reshape(form.groups, form.groups, form.rank)
        y = reorder(op, y, order.swapaxes(0, 1).reshape(-1), "order")
        return op.stage(y, arrays["pointwise"], "pointwise", bias=fitted.bias, axes=(), group=form.groups)

    def macs(self, site: Site) -> int:
        """Multiply-accumulates for one batch."""
        form = self.at(site)
        return form.groups * form.rank * (site.fan_in + site.outputs) * site.positions()


__all__ = ["Shuffle"]
