"""How many nearest neighbours of each embedding stay: what retrieval is done with them for."""

from __future__ import annotations

import numpy as np

from lwgraph.arrays import Array, Floats

NEIGHBOURS, LEAST_NEIGHBOURS = 10, 12  # nearest ones that are compared; samples from which on they are


def neighbours(original: Array, candidate: Array) -> Floats:
    """(n,) the share of each sample's nearest neighbours, by cosine, that are still among its nearest.

    Args:
        original, candidate: embeddings (n, d) of the same samples; NEIGHBOURS of each are looked at, a quarter of n
            where there are few.
    """
    count = min(NEIGHBOURS, max(1, len(original) // 4))
    nearest = []
    for rows in (original.astype(np.float64), candidate.astype(np.float64)):
        unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
        likeness = unit @ unit.T
        np.fill_diagonal(likeness, -np.inf)
        nearest.append(np.argsort(-likeness, axis=1, kind="stable")[:, :count])
    return np.array([len(set(a) & set(b)) / count for a, b in zip(*nearest, strict=True)])


__all__ = ["LEAST_NEIGHBOURS", "NEIGHBOURS", "neighbours"]
