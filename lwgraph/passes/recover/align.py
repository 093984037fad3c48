"""align-blocks: appends to each layer the 1x1 convolution that best restores its outputs, and absorbs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from lwgraph.arrays import Array
from lwgraph.errors import UsageError
from lwgraph.layers.site import Site
from lwgraph.layers.weights import has_bias_slot, transform, write
from lwgraph.passes.recover.closed_form import EQUAL, ClosedForm, FitTarget, Job, better_of
from lwgraph.rewrite.base import Contract, Skip

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)  # shares of the mean variance; held-out rows choose
ROWS_PER_CHANNEL = 16
LEAST_ROWS = 8192
WIDEST = 2048  # outputs of a group: the system to solve has as many unknowns per output


@dataclass(frozen=True)
class AlignBlocks(ClosedForm):
    """Append to each layer, in order, the 1x1 convolution that best restores the original's outputs, and absorb it.

    Few-sample knowledge distillation (Li et al. 2020, arXiv 1812.01839): min ||Q x + s - y||² in closed form, with a
    ridge towards the identity, W <- Q W, b <- Q b + s. No cost at run time. Where a residual sum follows, y is the
    original's sum less the other branch as it is now. In a grouped layer Q has a block per group. O(o³) per layer;
    each node runs about three times per sample.
    """

    name = "align-blocks"
    contract = Contract.APPROXIMATE

    samples: Annotated[int, "calibration samples to use at most"] = 256

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise UsageError(f"option 'samples' of pass 'align-blocks' is {self.samples}; allowed: 2 or more")

    @property
    def limit(self) -> int:
        """The most samples to use."""
        return self.samples

    def correct(self, job: Job, site: Site, target: FitTarget) -> bool:
        """Align one layer."""
        if site.outputs // site.group > WIDEST:
            raise Skip(
                f"it has {site.outputs // site.group} outputs, at most {WIDEST} are aligned; refit-head fits "
                "such a layer to its inputs"
            )
        most = max(LEAST_ROWS, ROWS_PER_CHANNEL * site.outputs)
        x, y = job.rows(site, target, job.fit, most)
        if float(((x - y) ** 2).mean()) <= EQUAL * max(float(y.var()), 1e-30):
            raise Skip("its outputs are those of the original")
        shifts = has_bias_slot(site)
        fits = _fits(x, y, site.group, shifts)
        maps = [lambda v, q=q, s=s: _apply(q, s, v) for q, s in fits]
        best, error, plain = better_of(job.rows(site, target, job.held, most), maps)
        if error >= plain:
            return False
        weight, bias = transform(site, *fits[best])
        write(site, weight, bias if shifts else None)
        return True


def _fits(x: Array, y: Array, groups: int, shifts: bool) -> list[tuple[Array, Array]]:
    """Q (G, o/g, o/g) and s (o,) for each ridge: least squares from x to y with a ridge towards the identity."""
    mean_x, mean_y = (x.mean(0), y.mean(0)) if shifts else (np.zeros(x.shape[1]), np.zeros(y.shape[1]))
    per = x.shape[1] // groups
    a, d = ((v - m).reshape(len(v), groups, per) for v, m in ((x, mean_x), (y - x, mean_y - mean_x)))
    moment = np.einsum("ngi,ngj->gij", a, a, optimize=True) / len(x)
    cross = np.einsum("ngi,ngj->gij", d, a, optimize=True) / len(x)
    found = []
    for ridge in RIDGES:
        level = ridge * np.trace(moment, axis1=1, axis2=2) / per + 1e-12
        normal = moment + level[:, None, None] * np.eye(per)
        q = np.eye(per) + np.linalg.solve(normal, cross.swapaxes(1, 2)).swapaxes(1, 2)
        found.append((q, mean_y - (q @ mean_x.reshape(groups, per, 1)).reshape(-1)))
    return found


def _apply(q: Array, shift: Array, x: Array) -> Array:
    groups, per = q.shape[:2]
    mapped: Array = np.einsum("gij,ngj->ngi", q, x.reshape(len(x), groups, per), optimize=True)
    return mapped.reshape(x.shape) + shift
