"""Symmetric solves and bases that the fits of forms share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def solve(normal: Array, right: Array) -> Array:
    """X with X N = right, for a symmetric positive semidefinite N (m, m) and right (o, m). O(m^3 + o m^2).

    N is scaled to a unit diagonal and gets a ridge of 1e-12, so that dependent or zero features get small weights
    instead of infinite ones.
    """
    diagonal = np.diagonal(normal)
    scale = np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1)), 0)
    scaled = normal * scale * scale[:, None]
    scaled[np.diag_indices(len(scaled))] += np.where(diagonal > 0, 1e-12, 1.0)
    return np.asarray(np.linalg.solve(scaled, (right * scale).T).T * scale)


def nested(normal: Array, right: Array) -> Array:
    """Y (m, o) such that the first j features alone explain Y[:j]^T Y[:j] of the outputs, for every j.

    For features with normal matrix N (m, m) = F R F^T and right = W R F^T (o, m): Y = L^-1 right^T with N = L L^T. The
    least loss with the first j features is tr(W R W^T) - ||Y[:j]||^2, so one factorization prices all sizes. O(m^3).
    """
    diagonal = np.diagonal(normal)
    scale = np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1)), 0)
    scaled = normal * scale * scale[:, None]
    scaled[np.diag_indices(len(scaled))] += np.where(diagonal > 0, 1e-10, 1.0)
    return np.asarray(np.linalg.solve(np.linalg.cholesky(scaled), (right * scale).T))


def top_basis(moments: Array | None, right: Array, size: int | None = None) -> Array:
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


def balance(first: Array, second: Array) -> tuple[Array, Array]:
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


__all__ = ["balance", "nested", "solve", "top_basis"]
