"""The mathematics of a sequential refit: least squares from what a layer sees now to what it should give."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack

from lwgraph.arrays import Floats
from lwgraph.calibrate.gram import CrossMoments, Gram
from lwgraph.layers.linalg import shrinkage
from lwgraph.layers.moments import RIDGED, WIDE, Pooled
from lwgraph.layers.site import Site

ROUNDS, SETTLED = 8, 0.003  # rounds of the fit before a Relu, and the share of the squared gap that each must gain
RIDGES = (0.01, 1.0, 10.0, 100.0)  # multiples of the shrinkage ridge; held-out samples choose


@dataclass(frozen=True, eq=False)
class Rows:
    """Patches x (r, G, D) of a layer in the rewritten model, and what it should give there, y (r, o).

    With `rectified` only what a Relu lets through counts.
    """

    x: npt.NDArray[np.floating]
    y: Floats
    rectified: bool = False

    @property
    def power(self) -> float:
        """The summed variance of y."""
        return float((np.maximum(self.y, 0) if self.rectified else self.y).var(0).sum())

    def outputs(self, weight: Floats, bias: Floats) -> Floats:
        """(r, o): W x + b."""
        groups = self.x.shape[1]
        flat = weight.reshape(groups, -1, self.x.shape[2]).astype(self.x.dtype)
        return np.concatenate([self.x[:, g] @ flat[g].T for g in range(groups)], axis=1) + bias

    def error(self, weight: Floats, bias: Floats) -> float:
        """The mean over the rows of ||W x + b - y||^2; W (o, c/g, *k), b (o,). O(r o D)."""
        return self.distance(self.outputs(weight, bias))

    def distance(self, outputs: Floats) -> float:
        """The mean over the rows of ||outputs - y||^2; with `rectified`, of what a Relu lets through of both."""
        if self.rectified:
            return float(np.square(np.maximum(outputs, 0) - np.maximum(self.y, 0)).sum(1).mean())
        return float(np.square(outputs - self.y).sum(1).mean())


def dense(moments: CrossMoments, weight: Floats, bias: Floats, shifts: bool) -> Iterator[tuple[Floats, Floats, float]]:
    """(weight, bias, ridge) of least squares from the layer's patches to its target, for each of RIDGES.

    W = W0 + (C - W0 G) (G + ridge I)^-1 (Zhang et al. 2015, arXiv 1505.06798, section 3.3, with a ridge towards W0):
    where the samples say nothing, the layer stays as it is. Moments are centred where the bias takes up the mean
    (`shifts`); else the bias stays. The ridge is that of `lwgraph.layers.moments.Moments` times each of RIDGES. O(D^3 +
    o D^2) per ridge and group.

    Args:
        moments: of the patches seen now and of the target.
        weight: W0, (o, c/g, *k).
        bias: (o,).
        shifts: whether there is a bias that may change.
    """
    groups, width = moments.gram.mean.shape
    start = weight.reshape(groups, -1, width)
    old = bias.reshape(groups, -1)
    if shifts:
        gram, cross = moments.gram.centred, moments.centred
    else:
        gram = np.array(moments.gram.matrix)
        cross = moments.cross - old[:, :, None] * moments.gram.mean[:, None, :]
    gaps = cross - start @ gram
    levels = [shrinkage(block, moments.gram.count) for block in gram]
    for factor in RIDGES:
        found = np.empty_like(start)
        for g in range(groups):
            normal = gram[g].copy()
            normal[np.diag_indices(width)] += levels[g] * factor
            found[g] = start[g] + normal_solver(normal, levels[g] * factor)(gaps[g])
        shift = moments.target_mean - np.einsum("god,gd->go", found, moments.gram.mean) if shifts else old
        yield found.reshape(weight.shape), shift.reshape(-1), levels[0] * factor


def normal_solver(normal: Floats, ridge: float) -> Callable[[Floats], Floats]:
    """What gives X with X N = right, by a Cholesky factorization: D^3 / 3 multiply-adds, half of what LU takes.

    In float32 where N is large and its ridge keeps it well conditioned, as `Block.working` says.

    Args:
        normal: N, (D, D), symmetric and positive semidefinite.
        ridge: what was added to its diagonal.
    """
    kinds = [(np.float64, lapack.dpotrf, lapack.dpotrs)]
    if len(normal) >= WIDE and ridge >= RIDGED * float(np.trace(normal)) / len(normal):
        kinds.insert(0, (np.float32, lapack.spotrf, lapack.spotrs))
    for kind, factorize, substitute in kinds:
        factor, failed = factorize(normal.astype(kind), lower=1)
        if not failed:
            return partial(_substituted, substitute, factor)
    return lambda right: np.asarray(np.linalg.solve(normal, right.T).T)  # rounding left it indefinite


def _substituted(substitute: Callable[..., tuple[Any, int]], factor: Any, right: Floats) -> Floats:
    found, _ = substitute(factor, right.T.astype(factor.dtype), lower=1)
    return np.asarray(found.T, np.float64)


def behind_relu(rows: Rows, moments: Gram, weight: Floats, bias: Floats, ridge: float) -> tuple[Floats, Floats]:
    """Weight and bias that bring relu(W x + b) nearer to relu(y) on the rows, from those of the linear fit.

    Where y is negative, any negative output will do: so the target there is the present output, at most zero (the
    alternation of Zhang et al. 2015, section 3.2, with a hard constraint), and the layer is fitted to it again, ROUNDS
    times or until a round gains less than SETTLED. O(r o D) each, after O(D^3) once per group.

    Args:
        rows: in whose precision the steps are computed.
        moments: of the patches, on these rows or on others of the same samples.
        weight, bias: (o, c/g, *k) and (o,) of the linear fit.
        ridge: added to the diagonal of the moments.
    """
    groups, width = rows.x.shape[1:]
    start = weight.reshape(groups, -1, width)
    solvers, centred = [], moments.centred
    for g in range(groups):
        normal = centred[g]
        normal[np.diag_indices(width)] += ridge
        solvers.append(normal_solver(normal, ridge))
    y, before = rows.y.astype(rows.x.dtype), math.inf
    for _ in range(ROUNDS):
        flat = start.astype(rows.x.dtype)
        now = np.concatenate([rows.x[:, g] @ flat[g].T for g in range(groups)], axis=1)
        now += bias.astype(now.dtype)
        gap = np.where(y > 0, y, np.minimum(now, 0))
        gap -= now
        size = float(np.vdot(gap, gap))
        if size > (1 - SETTLED) * before:
            break
        before = size
        shift = gap.mean(0, dtype=np.float64)
        gap -= shift.astype(gap.dtype)
        grouped = gap.reshape(len(gap), groups, -1)
        # The gap has no mean, so that the mean of x does not count.
        step = np.stack(
            [solvers[g]((grouped[:, g].T @ rows.x[:, g]).astype(np.float64) / len(gap)) for g in range(groups)]
        )
        start = start + step
        bias = bias + shift - np.einsum("god,gd->go", step, moments.mean).reshape(-1)
    return start.reshape(weight.shape), bias


def target_site(site: Site, moments: CrossMoments, weight: Floats, bias: Floats, shifts: bool) -> tuple[Site, Pooled]:
    """The layer that a form should imitate now, and the moments to fit it on.

    E||y - K x||^2 = E||y - W x||^2 + tr((W - K) G (W - K)^T) for the least-squares W: so a form is refitted, all of its
    factors at once, by fitting it to W on the moments of the inputs that it sees now.
    """
    gram = moments.gram
    if not shifts:  # no bias takes up the mean, so that it counts as any other direction
        return site.with_weight(weight, None), Pooled(gram.matrix, np.zeros_like(gram.mean), gram.count)
    return site.with_weight(weight, bias), Pooled(gram.matrix, gram.mean, gram.count)


def affine(x: Floats, y: Floats) -> list[tuple[Floats, Floats]]:
    """Scales and shifts (o,), (o,) of outputs x (r, o) towards y: nothing but the mean; its variance; least squares.

    The second is the statistics repair of Jordan et al. 2023 (arXiv 2211.08403), the first the bias correction of Nagel
    et al. 2019 (arXiv 1906.04721). Channels that do not vary are only shifted; scales stay within 1/4 and 4.
    """
    mx, my, sx, sy = x.mean(0), y.mean(0), x.std(0), y.std(0)
    alive = sx > 1e-6 * max(float(sx.max(initial=0.0)), 1e-30)
    over = np.where(alive, sx, 1.0)
    slope = ((x - mx) * (y - my)).mean(0) / over**2
    scales = [np.ones_like(sx), *(np.where(alive, np.clip(a, 0.25, 4.0), 1.0) for a in (sy / over, slope))]
    return [(a, my - a * mx) for a in scales]


__all__ = ["RIDGES", "Rows", "affine", "behind_relu", "dense", "normal_solver", "target_site"]
