"""The ridge of fits: how much of a sample covariance is noise, and what stands for it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
STRIP, FLOOR = 256, 0.1  # rows taken at once; share of the ridge that all entries have alike


def shrinkage(covariance: Array, count: int) -> float:
    """One ridge for all entries of a sample covariance (D, D) of `count` samples.

    That of the oracle-approximating shrinkage estimator (Chen, Wiesel, Eldar, Hero 2010, eq. 23), which reads it off
    the spectrum's first two moments and the number of samples n, a quarter of the count as in `Moments`:

        rho = ((1 - 2/D) tr(C^2) + tr(C)^2) / ((n + 1 - 2/D) (tr(C^2) - tr(C)^2 / D)),   rho <= 0.9
        ridge = max(rho / (1 - rho), 1e-9) * tr(C) / D
    """
    width = len(covariance)
    trace, square = float(np.trace(covariance)), float(np.vdot(covariance, covariance))
    if trace <= 0 or square <= 0:
        return 1.0
    samples = max(1.0, count / 4)
    spread = square - trace**2 / width
    rho = ((1 - 2 / width) * square + trace**2) / max((samples + 1 - 2 / width) * spread, 1e-300)
    rho = min(max(rho, 0.0), 0.9)
    return max(rho / (1 - rho), 1e-9) * trace / width


def ridges(covariance: Array, count: int, prior: Array | None = None) -> Array:
    """The ridge (D,) for a sample covariance (D, D) of `count` samples; see `lwgraph.plan.fit.Moments`. O(D^2).

    `prior`: the correlations (D, D) that are expected without samples; None: none are.
    """
    width = len(covariance)
    variance = np.maximum(np.diagonal(covariance), 0)
    mean = float(variance.mean())
    if mean <= 0:
        return np.ones(width)
    scale = np.where(variance > 0, 1 / np.sqrt(np.where(variance > 0, variance, 1)), 0)
    noise = explained = 0.0
    for start in range(0, width, STRIP):  # in strips: no temporaries of the matrix's size
        part = slice(start, start + STRIP)
        found = np.clip(covariance[part] * scale * scale[part, None], -1, 1)
        noise += float(np.square(1 - np.square(found)).sum())
        if prior is None:
            found[np.arange(len(found)), np.arange(start, start + len(found))] = 0
        else:
            found -= prior[part]
        explained += float(np.square(found).sum())
    rho = noise / max(max(1.0, count / 4) * explained, 1e-300)
    rho = min(rho, 0.9)
    return np.asarray(max(rho / (1 - rho), 1e-9) * ((1 - FLOOR) * variance + FLOOR * mean))


def correlations(covariance: Array, alive: Array) -> Array:
    """(D, D) of a covariance; 1 on the diagonal, and 0 beside it where an entry does not vary, here or in `alive`."""
    scale = np.ones(len(covariance))
    for variance in (np.diagonal(covariance), np.diagonal(alive)):
        scale[variance <= 1e-12 * float(variance.max())] = 0
    variance = np.diagonal(covariance)
    scale[scale > 0] /= np.sqrt(variance[scale > 0])
    found = np.asarray(covariance * scale * scale[:, None])
    found[np.diag_indices(len(found))] = 1
    return found


__all__ = ["correlations", "ridges", "shrinkage"]
