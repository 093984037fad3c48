"""Fire: a 1 x 1 squeeze, then 1 x 1 and k x k side by side, concatenated.

    Khat[o, c, d] = sum_q H[o, q, d] B[q, c],  H[o, q, d] = 0 for d off the centre where o is a 1 x 1 output

This is SqueezeNet's module (Iandola et al. 2016) without its activations: the "input" low-rank form in which some
outputs do without a spatial kernel. For a squeeze B each output's loss with and without it follows from the moments;
those that lose least become 1 x 1 outputs, which is the best choice for that B. It starts from the whitened and the
plain SVD, then fits B (conjugate gradients) and H with its outputs chosen anew (least squares) in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Floats, Index
from lwgraph.layers.emit import Emitter
from lwgraph.layers.form import Fitted, Form, ceil16, cheaper
from lwgraph.layers.linalg import balance, solve
from lwgraph.layers.moments import Block, Moments
from lwgraph.layers.site import Site
from lwgraph.passes.forms._refusals import dense_spatial, partly_known
from lwgraph.passes.forms._reorder import reorder
from lwgraph.passes.forms._split import arranged, first_stage, inverse_average, normal_equations, solved

SWEEPS = 3  # alternations of B and H at most


@dataclass(frozen=True)
class Fire(Form):
    """A 1 x 1 layer into fewer channels, then a 1 x 1 layer for some outputs and a k x k layer for the others."""

    name: ClassVar[str] = "fire"

    squeeze: Annotated[int, "channels after the first 1 x 1 layer; 0: by ratio"] = 0
    ratio: Annotated[float, "squeeze as a share of the input channels, rounded up to a multiple of 16"] = 0.5
    share: Annotated[float, "share of the outputs that are 1 x 1; the others are rounded up to a multiple of 16"] = 0.5

    def __post_init__(self) -> None:
        self.check_option("squeeze", self.squeeze >= 0, "0 or more")
        self.check_option("ratio", 0 < self.ratio <= 1, "above 0, at most 1")
        self.check_option("share", 0 <= self.share <= 1, "0 to 1")

    @classmethod
    def refusal(cls, site: Site) -> str:
        """Why this form cannot stand at `site`; "" when it can."""
        return dense_spatial(site) or partly_known(site)

    @classmethod
    def menu(cls, site: Site) -> Sequence[Form]:
        """Squeezes to 1/4, 1/2 and 3/4 of the inputs, with 1/4 and 1/2 of the outputs 1 x 1, where that saves work."""
        pairs = [(ratio, share) for ratio in (1 / 4, 1 / 2, 3 / 4) for share in (1 / 2, 1 / 4)]
        sizes = dict.fromkeys(cls(ratio=ratio, share=share).at(site) for ratio, share in pairs)
        return cheaper(sizes, site)

    @classmethod
    def full(cls, site: Site) -> Form:
        """No squeeze, and no output without its kernel."""
        return cls(_limit(site), share=0.0)

    def at(self, site: Site) -> Fire:
        """The squeeze that `site` gets."""
        limit = _limit(site)
        return Fire(min(self.squeeze, limit) or ceil16(self.ratio * site.inputs, limit), share=self.share)

    def pointwise(self, site: Site) -> int:
        """The number of outputs that are 1 x 1."""
        spatial = (1 - self.share) * site.outputs
        return site.outputs - (ceil16(spatial, site.outputs) if spatial > 1e-9 else 0)

    def fit(self, site: Site, moments: Moments) -> Fitted:
        """Squeeze, choice of the 1 x 1 outputs and their weights by alternating least squares."""
        form, (block,) = self.at(site), moments.blocks
        squeeze, weights, points = factor(block, form.squeeze, form.pointwise(site))
        kernel = np.einsum("oqt,qc->oct", weights, squeeze, optimize=True).reshape(site.shape)
        rest = np.setdiff1d(np.arange(site.outputs), points)
        ones = (1,) * len(site.kernel)
        arrays = {"squeeze": squeeze.reshape(*squeeze.shape, *ones), "points": points.astype(np.float64)}
        if len(points):
            centre = weights[points][:, :, centre_tap(site.kernel)]
            arrays["expand1"] = centre.reshape(*centre.shape, *ones)
        if len(rest):
            arrays["expand"] = weights[rest].reshape(len(rest), form.squeeze, *site.kernel)
        return form.fitted(site, moments, arrays, kernel)

    def blank(self, site: Site) -> Fitted:
        """Random weights; 1 x 1 outputs spread among the others."""
        form, random, ones = self.at(site), np.random.default_rng(0), (1,) * len(site.kernel)
        count = form.pointwise(site)
        points = np.sort(random.permutation(site.outputs)[:count])
        arrays = {
            "squeeze": random.standard_normal((form.squeeze, site.inputs, *ones)) / site.inputs,
            "points": points.astype(np.float64),
        }
        if count:
            arrays["expand1"] = random.standard_normal((count, form.squeeze, *ones)) / form.squeeze
        if count < site.outputs:
            arrays["expand"] = random.standard_normal((site.outputs - count, form.squeeze, *site.kernel)) / site.taps
        return form.unfitted(site, arrays)

    def emit(self, op: Emitter, x: ir.Value, fitted: Fitted) -> ir.Value:
        """The squeeze, both expansions, Concat, and a Gather into the layer's order of outputs."""
        site, arrays, bias = fitted.site, fitted.arrays, fitted.bias
        points = arrays["points"].astype(np.int64)
        rest = np.setdiff1d(np.arange(site.outputs), points)
        x = op.stage(x, arrays["squeeze"], "squeeze", axes=())
        parts = []
        if len(rest):
            own = None if bias is None else bias[rest]
            parts.append(op.stage(x, arrays["expand"], "expand", bias=own))
        if len(points):
            own = None if bias is None else bias[points]
            where = np.unravel_index(centre_tap(site.kernel), site.kernel)
            parts.append(op.part(x, arrays["expand1"], "expand1", first=[int(w) for w in where], bias=own))
        y = parts[0] if len(parts) == 1 else op.Concat(*parts, axis=1)
        return reorder(op, y, np.argsort(np.concatenate([rest, points])), "order")

    def macs(self, site: Site) -> int:
        """Multiply-accumulates for one batch."""
        form = self.at(site)
        points = form.pointwise(site)
        expand = (points + (site.outputs - points) * site.taps) * site.positions()
        return form.squeeze * (site.inputs * site.positions(()) + expand)


def _limit(site: Site) -> int:
    """The squeeze at which nothing is lost."""
    return min(site.inputs, site.outputs * site.taps)


def centre_tap(kernel: Sequence[int]) -> int:
    """The number of the middle tap; of an even axis, the one before the middle."""
    return int(np.ravel_multi_index([(k - 1) // 2 for k in kernel], tuple(kernel)))


def factor(block: Block, squeeze: int, points: int) -> tuple[Floats, Floats, Index]:
    """B (q, c), H (o, q, t) and the 1 x 1 outputs, increasing, of least error. O(q D^2) a step, (q t)^3 a sweep."""
    weight, moments = arranged(block, ())
    cross = np.asarray(block.cache[("cross", ())])
    centre = centre_tap(block.weight.shape[2:])
    loss, first, second, chosen = min(
        (_expand(each, points, centre, len(moments)) for each in solved(block, (), squeeze)),
        key=lambda found: found[0],
    )
    for _ in range(block.sweeps(SWEEPS, white=points > 0) if squeeze < weight.shape[2] else 0):
        better = first_stage(moments, cross, first, second, inverse_average(block, ()))
        normal, right = normal_equations(moments, cross, better)
        found = _expand((better, normal, right, solve(normal, right)), points, centre, len(moments))
        if found[0] >= loss:
            break
        done = block.settled(loss, found[0])
        loss, first, second, chosen = found
        if done:
            break
    rows, columns = balance(first, second.transpose(0, 2, 1))
    return rows, columns, chosen


def _expand(
    start: tuple[Floats, Floats, Floats, Floats], points: int, centre: int, taps: int
) -> tuple[float, Floats, Floats, Index]:
    """Loss (up to a constant), B, H (o, t, q) with the least harmful outputs 1 x 1, and these.

    `start`: B (q, c), the normal matrix and the right-hand side of H, and the H that solves them.
    """
    first, normal, right, solution = start
    size, second = len(first), solution.copy()
    at = np.arange(centre * size, (centre + 1) * size)
    alone = solve(normal[np.ix_(at, at)], right[:, at])
    gains = np.einsum("oi,oi->o", second, right)
    gains_alone = np.einsum("oi,oi->o", alone, right[:, at])
    chosen = np.sort(np.argsort(gains - gains_alone, kind="stable")[:points])
    second[chosen] = 0
    second[np.ix_(chosen, at)] = alone[chosen]
    gains[chosen] = gains_alone[chosen]
    return -float(gains.sum()), first, second.reshape(-1, taps, size), chosen


__all__ = ["Fire", "centre_tap", "factor"]
