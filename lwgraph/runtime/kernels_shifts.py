"""Products without a multiplier: weights that are sums of a few powers of two, as shifts and additions of integers."""

from __future__ import annotations

import numpy as np

from lwgraph.arrays import Array
from lwgraph.runtime.backend import plain, run

_WIDEST = 31  # bits by which a value may be shifted


def terms_of(weights: Array) -> Array:
    """(T, *shape) int8: the powers of two that integer weights are sums of, 2^s as s + 1, -2^s as -(s + 1), 0 for none.

    T is the largest number of ones in the binary digits of a weight.

    Raises:
        ValueError: the weights are no integers, or one is 2^32 or larger.
    """
    if weights.dtype.kind not in "iu":
        raise ValueError(f"weights of {weights.dtype} are no integers")
    rest = np.abs(weights.astype(np.int64))
    if rest.size and int(rest.max()) >> (_WIDEST + 1):
        raise ValueError(f"the weight {int(rest.max())} is not below 2^{_WIDEST + 1}")
    sign, found = np.sign(weights.astype(np.int64)), []
    while rest.any():
        highest = np.frexp(np.maximum(rest, 1).astype(np.float64))[1]  # of the digits, counted from 1
        exponent = np.where(rest > 0, highest, 0)
        found.append((sign * exponent).astype(np.int8))
        rest = np.where(rest > 0, rest - np.left_shift(1, np.maximum(exponent - 1, 0), dtype=np.int64), 0)
    return np.stack(found) if found else np.zeros((0, *weights.shape), np.int8)


def matmul_shifts(x: Array, terms: Array, *, threads: int = 1) -> Array:
    """(M, N) int64, x (M, K) times the weights (K, N) that `terms` (T, K, N) stand for; nothing is multiplied.

    Args:
        x: integers of 32 bits or fewer, zero points taken off.
        terms: see `terms_of`.
        threads: that share the rows.

    Raises:
        ValueError: the shapes do not fit each other, or a type is not possible.

    Complexity: O(T M K N) shifts and additions.
    """
    if x.ndim != 2 or terms.ndim != 3 or x.shape[1] != terms.shape[1]:
        raise ValueError(
            f"product of {list(x.shape)} with terms {list(terms.shape)}; (M, K) and (T, K, N) are possible"
        )
    if x.dtype.kind not in "iu" or x.dtype.itemsize > 4 or x.dtype == np.uint32 or terms.dtype != np.int8:
        raise ValueError(
            f"product of {x.dtype} with terms of {terms.dtype}: integers up to int32, and int8, are possible"
        )
    y = np.empty((x.shape[0], terms.shape[2]), np.int64)
    sizes = np.array([*x.shape, terms.shape[2], terms.shape[0]], np.int64)
    run("shift_multiply", (plain(x, np.int32), plain(terms, np.int8), y, sizes), threads, terms.size * x.shape[0])
    return y


__all__ = ["matmul_shifts", "terms_of"]
