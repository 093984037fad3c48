"""The output error of one group of a layer as a quadratic form, whatever its moments are kept as."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from lwgraph.arrays import Weights, slabs

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.integer[Any]]


class Quadratic(ABC):
    """tr((W - K) R (W - K)^T) for another weight K, and what may be asked of R = C + diag(ridge).

    Attributes:
        weight: (o, c, *k), in float64 or as the model holds it: where it is large, no copy is made.
    """

    weight: Weights

    @property
    def matrix(self) -> Weights:
        """The weight as (o, D)."""
        return self.weight.reshape(len(self.weight), -1)

    @property
    def powers(self) -> Array:
        """(D,), the squares of the weight, summed over the outputs."""
        matrix = self.matrix
        parts = (np.square(matrix[part], dtype=np.float64).sum(0) for part in slabs(matrix.shape))
        return np.asarray(sum(parts, np.zeros(matrix.shape[1])))

    @property
    @abstractmethod
    def diagonal(self) -> Array:
        """(D,), that of R."""

    @property
    @abstractmethod
    def variance(self) -> Array:
        """(D,), the diagonal of C."""

    @property
    @abstractmethod
    def trace(self) -> float:
        """tr(C)."""

    @abstractmethod
    def apply(self, rows: Array) -> Array:
        """V R for V (o, D)."""

    @abstractmethod
    def solve(self, rows: Array) -> Array:
        """V R^-1 for V (o, D)."""

    @abstractmethod
    def chosen(self, at: Indices) -> Array:
        """(k, k), R between k of the entries of a patch."""

    @abstractmethod
    def onto(self, kept: Indices) -> Weights:
        """W R_:K (R_KK)^-1, (o, k): the weights on k entries of a patch that lose least of the outputs."""

    @property
    @abstractmethod
    def total(self) -> float:
        """tr(W R W^T): the loss of no kernel at all."""

    @property
    @abstractmethod
    def power(self) -> float:
        """tr(W C W^T), the summed variance of the outputs."""

    @abstractmethod
    def loss(self, kernel: Weights) -> float:
        """tr((W - K) R (W - K)^T) for K of the weight's shape or (o, D)."""

    @abstractmethod
    def error(self, kernel: Weights) -> float:
        """tr((W - K) C (W - K)^T), the squared error that the samples themselves would show."""


__all__ = ["Array", "Indices", "Quadratic"]
