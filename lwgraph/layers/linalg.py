"""The linear algebra that the fits of forms share: solves, bases, the ridge, conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lwgraph.arrays import Array, Floats

JITTER = 1e-10  # on a unit diagonal before Cholesky; `nested` prices no size at less of the whole
STRIP, FLOOR = 256, 0.1  # rows taken at once; share of the ridge that all entries have alike


def solve(normal: Floats, right: Floats) -> Floats:
    """X with X N = right, for a symmetric positive semidefinite N (m, m) and right (o, m). O(m^3 + o m^2).

    N is scaled to a unit diagonal and gets a ridge of 1e-12, so that dependent or zero features get small weights
    instead of infinite ones.
    """
    diagonal = np.diagonal(normal)
    scale = np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1)), 0)
    scaled = normal * scale * scale[:, None]
    scaled[np.diag_indices(len(scaled))] += np.where(diagonal > 0, 1e-12, 1.0)
    return np.asarray(np.linalg.solve(scaled, (right * scale).T).T * scale)


def nested(normal: Floats, right: Floats) -> Floats:
    """Y (m, o) such that the first j features alone explain Y[:j]^T Y[:j] of the outputs, for every j.

    For features with normal matrix N (m, m) = F R F^T and right = W R F^T (o, m): Y = L^-1 right^T with N = L L^T. The
    least loss with the first j features is tr(W R W^T) - ||Y[:j]||^2, so one factorization prices all sizes. O(m^3).
    """
    diagonal = np.diagonal(normal)
    scale = np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1)), 0)
    scaled = normal * scale * scale[:, None]
    scaled[np.diag_indices(len(scaled))] += np.where(diagonal > 0, JITTER, 1.0)
    return np.asarray(np.linalg.solve(np.linalg.cholesky(scaled), (right * scale).T))


def top_basis(moments: Floats | None, right: Floats, size: int | None = None) -> Floats:
    """Directions V (r, I), best first, such that projecting `right` (I, n) on their span loses least in the metric.

    This is the truncated SVD of L^T right with moments = L L^T (the whitened SVD; reduced-rank regression), returned
    as rows V_r = (right q_r)^T for the right singular vectors q_r when n < I, else as the equal L^-T u_r s_r.
    moments None is the identity: the plain SVD. Works on the smaller Gram: O(min(I, n)^3 + I n min(I, n)).
    """
    inner, outer = right.shape
    if outer <= inner:
        _, vectors = np.linalg.eigh(right.T @ (right if moments is None else moments @ right))
        basis = (right @ vectors[:, ::-1]).T
    else:
        if moments is None:
            _, vectors = np.linalg.eigh(right @ right.T)
            basis = vectors[:, ::-1].T
        else:
            lower = np.linalg.cholesky(moments)
            whitened = lower.T @ right
            _, vectors = np.linalg.eigh(whitened @ whitened.T)
            basis = np.linalg.solve(lower.T, vectors[:, ::-1]).T
    basis = basis if size is None else basis[:size]
    norms = np.linalg.norm(basis, axis=1, keepdims=True)
    return np.asarray(basis / np.where(norms > 0, norms, 1))


def balance(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Scale row r of `first` (r, ...) and column r of `second` (o, r, ...) to equal norms; their product stays.

    Keeps the values between two stages in the range of the layer's own, for float16 and int8.
    """
    rows = np.sqrt(np.square(first.reshape(len(first), -1)).sum(1))
    columns = np.sqrt(np.square(np.moveaxis(second, 1, 0).reshape(second.shape[1], -1)).sum(1))
    alive = (rows > 0) & (columns > 0)
    factor = np.where(alive, np.sqrt(np.where(alive, columns, 1) / np.where(alive, rows, 1)), 0)
    inverse = np.where(alive, 1 / np.where(alive, factor, 1), 0)
    return (
        first * factor.reshape(-1, *[1] * (first.ndim - 1)),
        second * inverse.reshape(1, -1, *[1] * (second.ndim - 2)),
    )


def shrinkage(covariance: Floats, count: int) -> float:
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


def rounding(moments: Array) -> float:
    """What rounding may leave of a covariance (D, D) that is taken from these moments, mean included: a ridge of it
    keeps the covariance of inputs that hardly vary definite."""
    return float(len(moments) * np.finfo(np.float64).eps * np.diagonal(moments).mean())


def ridges(covariance: Floats, count: int, prior: Floats | None = None) -> Floats:
    """The ridge (D,) for a sample covariance (D, D) of `count` samples; see `lwgraph.layers.moments.Moments`. O(D^2).

    `prior`: the correlations (D, D) that are expected without samples; None: none are.
    """
    width = len(covariance)
    variance = np.maximum(np.diagonal(covariance), 0)
    mean = float(variance.mean())
    if mean <= 0:
        return np.ones(width)
    scale = np.where(variance > 0, 1 / np.sqrt(np.where(variance > 0, variance, 1)), 0)
    noise = explained = 0.0
    for start in range(0, width, STRIP):  # strips avoid temporaries of the matrix's size
        part = slice(start, start + STRIP)
        found = np.clip(covariance[part] * scale * scale[part, None], -1, 1)
        noise += float(np.square(1 - np.square(found)).sum())
        if prior is None:
            found[np.arange(len(found)), np.arange(start, start + len(found))] = 0
        else:
            found -= prior[part]
        explained += float(np.square(found).sum())
    return ridge_of(variance, noise, explained, count)


def ridge_of(variance: Array, noise: float, explained: float, count: int) -> Array:
    """The ridge (D,) from the sums over pairs of entries of (1 - r^2)^2 and r^2, or the same share of both sums."""
    rho = noise / max(max(1.0, count / 4) * explained, 1e-300)
    rho = min(rho, 0.9)
    return np.asarray(max(rho / (1 - rho), 1e-9) * ((1 - FLOOR) * variance + FLOOR * float(variance.mean())))


def correlations(covariance: Floats, alive: Floats) -> Floats:
    """(D, D) of a covariance; 1 on the diagonal, and 0 beside it where an entry does not vary, here or in `alive`."""
    scale = np.ones(len(covariance))
    for variance in (np.diagonal(covariance), np.diagonal(alive)):
        scale[variance <= 1e-12 * float(variance.max())] = 0
    variance = np.diagonal(covariance)
    scale[scale > 0] /= np.sqrt(variance[scale > 0])
    found = np.asarray(covariance * scale * scale[:, None])
    found[np.diag_indices(len(found))] = 1
    return found


def conjugate_gradients(
    operate: Callable[[Array], Array],
    target: Array,
    start: Array,
    steps: int,
    precondition: Callable[[Array], Array] = lambda v: v,
    *,
    separate: bool = False,
) -> Array:
    """`steps` preconditioned conjugate-gradient steps from `start` towards operate(v) = target.

    `operate` is a symmetric positive semidefinite linear map given as a function, so that normal equations of many
    unknowns need no matrix. Each step lowers the quadratic loss or leaves it. `separate`: the entries of the first
    axis are systems of their own, each with its own step lengths. The precision is that of `start`, where
    `operate` keeps it.
    """

    def inner(a: Array, b: Array) -> Array:
        return np.asarray(np.sum(a * b, axis=tuple(range(1, a.ndim)) if separate else None, keepdims=True))

    def over(a: Array, b: Array) -> Array:  # 0 where nothing is left to do
        return np.asarray(np.where((a > 0) & (b > 0), a, 0) / np.where(b > 0, b, 1))

    v = start
    residual = target - operate(v)
    direction = z = precondition(residual)
    rho = inner(residual, z)
    for _ in range(steps):
        image = operate(direction)
        step = over(rho, inner(direction, image))
        if not step.any():
            break
        v = v + step * direction
        residual = residual - step * image
        z = precondition(residual)
        rho, previous = inner(residual, z), rho
        direction = z + over(rho, previous) * direction
    return v


__all__ = [
    "balance",
    "conjugate_gradients",
    "correlations",
    "nested",
    "ridge_of",
    "ridges",
    "shrinkage",
    "solve",
    "top_basis",
]
