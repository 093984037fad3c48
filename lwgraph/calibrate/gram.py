"""Second moments of a stream of vectors: float32 matrix products, summed in float64, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lwgraph.arrays import Array, Floats
from lwgraph.errors import DataError

_SMALL = 64  # vectors shorter than this are multiplied for all groups in one call
_LEAST_ROWS = 1024  # rows multiplied at once, at least (a quarter for layers with groups); else as many as D


class NoMomentsError(DataError):
    """Why a stream of vectors has no second moments."""


@dataclass(frozen=True, eq=False)
class Gram:
    """Mean and second moments of a layer's input patches x, per group.

    Attributes:
        matrix: (G, D, D) float64, the mean of x x^T over the samples, not centred.
        mean: (G, D) float64, the mean of x.
        count: how many patches were averaged.
    """

    matrix: Floats
    mean: Floats
    count: int

    @property
    def centred(self) -> Floats:
        """(G, D, D), the covariance: matrix - mean mean^T."""
        return self.matrix - self.mean[:, :, None] * self.mean[:, None, :]


@dataclass(frozen=True, eq=False)
class CrossMoments:
    """Moments of two streams, for fits that correct the error of what came before (Zhang et al. 2015, section 3.3).

    With xhat the patches that a layer sees in the rewritten model and y what it gave in the original one, the weight of
    least error is C G^-1.

    Attributes:
        gram: of xhat.
        cross: (G, o/g, D) float64, the mean of y xhat^T, not centred.
        target_mean: (G, o/g) float64, the mean of y.
        target_power: (G, o/g) float64, the mean of y squared.
    """

    gram: Gram
    cross: Floats
    target_mean: Floats
    target_power: Floats

    @property
    def centred(self) -> Floats:
        """(G, o/g, D): the covariance of y and xhat."""
        return self.cross - self.target_mean[:, :, None] * self.gram.mean[:, None, :]


class GramAccumulator:
    """Sums x x^T of rows added bit by bit.

    Rows are shifted by the mean of the first block before they are multiplied in float32, and shifted back in float64:
    a mean much larger than the spread then costs no accuracy. Time: one symmetric product (r D^2 / 2 multiply-adds for
    r rows) and a float64 addition of D^2 numbers per D rows. Memory: 8 G D^2 bytes for the sum, 4 G D max(D, 1024) for
    the rows not yet multiplied (256 in place of 1024 for layers with groups).
    """

    def __init__(self, groups: int, width: int, dtype: Any = np.float32, name: str = "x") -> None:
        self.name = name
        self._sum: Floats = np.zeros((groups, width, width))
        self._total: Floats = np.zeros((groups, width))
        self._shift: Array | None = None
        self._buffer: Array = np.empty((groups, _capacity(groups, width), width), dtype)
        self._filled = 0
        self.count = 0

    @staticmethod
    def size(groups: int, width: int) -> int:
        """Bytes that an accumulator takes."""
        return groups * width * (8 * width + 4 * _capacity(groups, width))

    def add(self, rows: Array) -> None:
        """Add (r, G, D) rows."""
        done, capacity = 0, self._buffer.shape[1]
        while done < len(rows):
            take = min(capacity - self._filled, len(rows) - done)
            self._buffer[:, self._filled : self._filled + take] = rows[done : done + take].transpose(1, 0, 2)
            self._filled += take
            done += take
            if self._filled == capacity:
                self._flush()

    def result(self) -> Gram:
        """The moments of everything added; the accumulator may go on.

        Raises:
            DataError: nothing was added, or a value is NaN, infinite, or too large to square.
        """
        self._flush()
        if self.count == 0:
            raise NoMomentsError(f"'{self.name}' has no positions to measure: its output is empty for every sample")
        assert self._shift is not None
        shift = self._shift.astype(np.float64)
        mean = self._total / self.count  # the mean of x - shift
        matrix = self._sum / self.count
        for start in range(0, shift.shape[1], _LEAST_ROWS):  # strips avoid temporaries of the matrix's size
            part = np.s_[:, start : start + _LEAST_ROWS]
            matrix[part] += shift[part][..., None] * (mean + shift)[:, None, :]
            matrix[part] += mean[part][..., None] * shift[:, None, :]
        return Gram(matrix, mean + shift, self.count)

    def _flush(self) -> None:
        rows = self._buffer[:, : self._filled]
        if not self._filled:
            return
        with np.errstate(over="ignore", invalid="ignore"):  # found below
            if self._shift is None:
                self._shift = rows.mean(axis=1, dtype=np.float64).astype(rows.dtype)
            rows -= self._shift[:, None]
            if rows.shape[2] < _SMALL:
                self._sum += np.matmul(rows.transpose(0, 2, 1), rows)
            else:
                for group, block in enumerate(rows):  # x.T @ x of one array is a symmetric product: half the work
                    self._sum[group] += block.T @ block
            self._total += np.matmul(np.ones((1, rows.shape[1]), rows.dtype), rows)[:, 0]
        self.count += self._filled
        self._filled = 0
        if not np.isfinite(np.einsum("gdd->g", self._sum)).all():
            raise NoMomentsError(f"'{self.name}' has NaN, infinite or overflowing values on the calibration data")


def _capacity(groups: int, width: int) -> int:
    return max(_LEAST_ROWS if groups == 1 else _LEAST_ROWS // 4, width)


class CrossAccumulator:
    """Sums y xhat^T and the moments of xhat, of two streams sampled at the same positions; see `CrossMoments`."""

    def __init__(self, groups: int, outputs: int, width: int, dtype: Any = np.float32, name: str = "x") -> None:
        self._gram = GramAccumulator(groups, width, dtype, name)
        self._cross: Floats = np.zeros((groups, outputs, width))
        self._sums: Floats = np.zeros((2, groups, outputs))
        self._shift: tuple[Array, Array] | None = None
        self.count = 0

    def add(self, rows: Array, targets: Array) -> None:
        """Add xhat as (r, G, D) rows and y as (r, G, o/g), row by row of the same positions."""
        if not len(rows):
            return
        if self._shift is None:
            self._shift = (
                rows.mean(0, dtype=np.float64).astype(rows.dtype),
                targets.mean(0, dtype=np.float64).astype(targets.dtype),
            )
        with np.errstate(over="ignore", invalid="ignore"):  # found in the sums
            x, y = rows - self._shift[0], targets - self._shift[1]
            if x.shape[2] < _SMALL:
                self._cross += np.matmul(y.transpose(1, 2, 0), x.transpose(1, 0, 2))
            else:
                for group in range(x.shape[1]):
                    self._cross[group] += y[:, group].T @ x[:, group]
        self._sums += (y.sum(0, dtype=np.float64), np.square(y, dtype=np.float64).sum(0))
        self._gram.add(rows)
        self.count += len(rows)

    def result(self) -> CrossMoments:
        """The moments of everything added; DataError as for `GramAccumulator.result`."""
        gram = self._gram.result()
        if not np.isfinite(self._sums).all():
            raise NoMomentsError(f"what '{self._gram.name}' should give has NaN, infinite or overflowing values")
        assert self._shift is not None
        sx, sy = (s.astype(np.float64) for s in self._shift)
        mx, my, power = gram.mean - sx, self._sums[0] / self.count, self._sums[1] / self.count
        cross = (
            self._cross / self.count
            + sy[:, :, None] * mx[:, None, :]
            + my[:, :, None] * sx[:, None, :]
            + sy[:, :, None] * sx[:, None, :]
        )
        return CrossMoments(gram, cross, my + sy, power + 2 * sy * my + sy * sy)
