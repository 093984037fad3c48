"""A layer's output error from factored moments, R = F^T F + diag(e): nothing of D x D numbers is ever formed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from lwgraph.arrays import Weights
from lwgraph.layers.linalg import ridge_of
from lwgraph.layers.quadratic import Array, Indices, Quadratic

STRIP = 2048  # columns taken at once, in float64
OUTPUTS = 1 << 23  # numbers of the weight that are refitted at once
PROBED = 128  # entries of a patch whose correlations with all others stand for those of all


@dataclass(eq=False)
class Factored(Quadratic):
    """See `Quadratic`. With r rows in F, V R and V R^-1 take O(o r D), the latter after O(r^2 D) once (Woodbury).

    Attributes:
        weight: (o, c, *k), of any float type.
        factor: F, (r, D) float32.
        rest: (D,), what C has on its diagonal beside F^T F.
        ridge: (D,), what R has there besides.
    """

    weight: Weights
    factor: npt.NDArray[np.float32]
    rest: Array
    ridge: Array

    @classmethod
    def of(cls, weight: Weights, factor: npt.NDArray[np.float32], rest: Array, count: int) -> Factored:
        """With the ridge that `count` samples call for, see `lwgraph.layers.moments.Moments`; its sums over pairs of
        entries are taken over the pairs of PROBED of them with all others."""
        found = cls(weight, factor, rest, np.zeros_like(rest))
        variance = found.variance
        if not variance.any():
            found.ridge = np.ones(len(variance))
            return found
        scale = np.where(variance > 0, 1 / np.sqrt(np.where(variance > 0, variance, 1)), 0)
        width = len(variance)
        probed = np.unique(np.linspace(0, width - 1, min(PROBED, width)).astype(int))
        few = factor[:, probed].astype(np.float64) * scale[probed]
        noise = explained = 0.0
        for part, rows in found._strips():
            pairs = np.clip(few.T @ (rows * scale[part]), -1, 1)
            own = (probed >= part.start) & (probed < part.stop)
            pairs[own, probed[own] - part.start] = 1
            noise += float(np.square(1 - np.square(pairs)).sum())
            pairs[own, probed[own] - part.start] = 0
            explained += float(np.square(pairs).sum())
        found.ridge = ridge_of(variance, noise, explained, count)
        return found

    @classmethod
    def white(cls, weight: Weights) -> Factored:
        """Of white inputs, C = I."""
        width = weight[0].size
        return cls(weight, np.zeros((0, width), np.float32), np.ones(width), np.zeros(width))

    def _strips(self) -> Iterator[tuple[slice, Array]]:
        for start in range(0, self.factor.shape[1], STRIP):
            part = slice(start, min(start + STRIP, self.factor.shape[1]))
            yield part, self.factor[:, part].astype(np.float64)

    @cached_property
    def variance(self) -> Array:
        """See `Quadratic.variance`."""
        return np.asarray(self.rest + np.einsum("rd,rd->d", self.factor, self.factor, dtype=np.float64))

    @property
    def trace(self) -> float:
        """See `Quadratic.trace`."""
        return float(self.variance.sum())

    @property
    def diagonal(self) -> Array:
        """See `Quadratic.diagonal`."""
        return self.variance + self.ridge

    def apply(self, rows: Array) -> Array:
        """See `Quadratic.apply`."""
        inner = sum(rows[:, part] @ strip.T for part, strip in self._strips())
        found = rows * (self.rest + self.ridge)
        for part, strip in self._strips():
            found[:, part] += inner @ strip
        return np.asarray(found)

    @cached_property
    def _half(self) -> Array:
        """L^-1 with I + F e^-1 F^T = L L^T, (r, r)."""
        inner = np.eye(len(self.factor))
        for part, strip in self._strips():
            inner += (strip / (self.rest + self.ridge)[part]) @ strip.T
        return np.asarray(np.linalg.inv(np.linalg.cholesky(inner)))

    def solve(self, rows: Array) -> Array:
        """See `Quadratic.solve`."""
        found = rows / (self.rest + self.ridge)
        inner = sum(found[:, part] @ strip.T for part, strip in self._strips())
        inner = (inner @ self._half.T) @ self._half
        for part, strip in self._strips():
            found[:, part] -= (inner @ strip) / (self.rest + self.ridge)[part]
        return np.asarray(found)

    def chosen(self, at: Indices) -> Array:
        """See `Quadratic.chosen`."""
        some = self.factor[:, at].astype(np.float64)
        found = np.asarray(some.T @ some)
        found[np.diag_indices(len(at))] += (self.rest + self.ridge)[at]
        return found

    def inverse_blocks(self, columns: Indices) -> Iterator[Array]:
        """(t, t) for each row of `columns` (n, t): what R^-1 has between these entries. O(n r^2 t)."""
        for at in columns:
            base = (self.rest + self.ridge)[at]
            half = self._half @ (self.factor[:, at] / base)
            yield np.diag(1 / base) - half.T @ half

    def onto(self, kept: Indices) -> Weights:
        """See `Quadratic.onto`."""
        some = Factored(self.weight, self.factor[:, kept], self.rest[kept], self.ridge[kept])
        matrix, found = self.matrix, np.empty((len(self.weight), len(kept)), self.weight.dtype)
        step = max(1, OUTPUTS // matrix.shape[1])
        for start in range(0, len(matrix), step):  # a few outputs at once: the weight itself may be large
            part = np.s_[start : start + step]
            found[part] = some.solve(self.apply(matrix[part].astype(np.float64))[:, kept])
        return found

    def _form(self, kernel: Weights | None, beside: Array) -> float:
        """V (F^T F + diag(beside)) V^T for V = W - K, by strips; in float32, since all terms are squares."""
        inner, total = np.zeros((len(self.weight), len(self.factor)), np.float32), 0.0
        for start in range(0, self.factor.shape[1], STRIP):
            part = np.s_[:, start : start + STRIP]
            change = self.matrix[part].astype(np.float64)
            if kernel is not None:
                change -= kernel[part]
            total += float(np.einsum("od,od->d", change, change) @ beside[part[1]])
            inner += change.astype(np.float32) @ self.factor[part].T
        return total + float(np.square(inner).sum(dtype=np.float64))

    @cached_property
    def total(self) -> float:
        """See `Quadratic.total`."""
        return self._form(None, self.rest + self.ridge)

    @cached_property
    def power(self) -> float:
        """See `Quadratic.power`."""
        return self._form(None, self.rest)

    def loss(self, kernel: Weights) -> float:
        """See `Quadratic.loss`."""
        return self._form(kernel.reshape(self.matrix.shape), self.rest + self.ridge)

    def error(self, kernel: Weights) -> float:
        """See `Quadratic.error`."""
        return self._form(kernel.reshape(self.matrix.shape), self.rest)


__all__ = ["Factored"]
