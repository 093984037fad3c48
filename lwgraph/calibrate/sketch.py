"""Second moments of long patches in factored form: a thin factor and what the diagonal has beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lwgraph.calibrate.gram import NoMomentsError

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]
CAPACITY, LEAST_CAPACITY = 512, 32  # rows of a factor
SHRUNK = 0.2  # of the directions that a full factor keeps
BLOCK = 64  # rows taken in at once
WORK = 10**11  # multiply-adds that one sketch may take, about
_STRIP = 4096  # columns turned at once


@dataclass(frozen=True, eq=False)
class FactoredGram:
    """Mean and covariance of a layer's input patches, per group: C = factor^T factor + diag(rest), about.

    The diagonal is exact (to float32), and so is all of C while the factor had a row for every patch.

    Attributes:
        factor: (G, r, D) float32.
        rest: (G, D) float64, not negative.
        mean: (G, D) float64.
        count: how many patches there were.
        slack: (G,) float64; for any V (o, D), tr(V C V^T) is within slack * ||V||^2 of what the factors say. 0: exact.
    """

    factor: Rows
    rest: Array
    mean: Array
    count: int
    slack: Array

    @property
    def uncentred(self) -> FactoredGram:
        """The same of a mean that counts as any other direction: C + mean mean^T, with mean 0."""
        factor = np.concatenate([self.factor, self.mean[:, None].astype(np.float32)], axis=1)
        return FactoredGram(factor, self.rest, np.zeros_like(self.mean), self.count, self.slack)

    @classmethod
    def pooled(cls, grams: Sequence[FactoredGram]) -> FactoredGram:
        """The moments over the samples of all `grams`; factors of more than CAPACITY rows in all are sketched again."""
        if len(grams) == 1:
            return grams[0]
        groups, _, width = grams[0].factor.shape
        sketch = Sketch(groups, width)
        for gram in grams:
            sketch.merge(gram)
        return sketch.result()


class Sketch:
    """Frequent directions of centred rows (Liberty 2013), of which only the lower are shrunk (Desai, Ghashami, Phillips
    2016, "Improved practical matrix sketching with guarantees", section 2.1, with their alpha = SHRUNK).

    Rows are centred block by block; the step from the mean so far to that of a block is a row of its own (Chan, Golub,
    LeVeque 1979), so that the sum over all is that of the rows centred by their common mean. Whenever the factor is
    full, its lower half goes: with l half the capacity, the last SHRUNK * l of the squared singular values that stay
    are lowered by the first that goes, delta. Then C - F^T F has no negative eigenvalue, and none over sum(delta) / n,
    which is at most (trace of C - C_k) / (SHRUNK * l - k) for every k < SHRUNK * l. Its diagonal is kept beside F, so
    that what a quadratic form is off by is at most `slack` times the squared norm of its vectors, in either direction.

    Time: 1.5 c^2 D multiply-adds for every c / 2 rows after the first c, c being the capacity. Memory: `size`.
    """

    def __init__(self, groups: int, width: int, name: str = "x", capacity: int = CAPACITY) -> None:
        self.name = name
        self._factor: Rows = np.zeros((groups, capacity, width), np.float32)
        self._waiting: Rows = np.empty((BLOCK, groups, width), np.float32)
        self._filled = self._pending = self.count = 0
        self._mean: Array = np.zeros((groups, width))
        self._power: Array = np.zeros((groups, width))
        self._slack: Array = np.zeros(groups)

    @staticmethod
    def size(groups: int, width: int, capacity: int = CAPACITY) -> int:
        """Bytes that a sketch takes, rows on their way into it included."""
        return 4 * groups * width * (capacity + 6 * BLOCK)

    @staticmethod
    def capacity(groups: int, width: int, room: int) -> int:
        """The capacity of a sketch of about `room` bytes, from LEAST_CAPACITY to CAPACITY."""
        return max(LEAST_CAPACITY, min(CAPACITY, room // (4 * groups * width) - 6 * BLOCK))

    @staticmethod
    def rows(groups: int, width: int, capacity: int = CAPACITY) -> int:
        """How many rows WORK affords; what the factor holds without loss, at least."""
        lossless = capacity - -(-capacity // BLOCK)
        shrinks = WORK * 2 // (3 * capacity**2 * width * groups)
        return lossless + shrinks * (capacity // 2)

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Add (r, G, D) rows."""
        done = 0
        while done < len(rows):
            take = min(BLOCK - self._pending, len(rows) - done)
            self._waiting[self._pending : self._pending + take] = rows[done : done + take]
            self._pending, done = self._pending + take, done + take
            if self._pending == BLOCK:
                self._flush()

    def merge(self, gram: FactoredGram) -> None:
        """Add the patches that `gram` is of."""
        self._flush()
        scale = np.float32(np.sqrt(gram.count))
        self._power += gram.count * gram.rest
        self._slack += gram.count * gram.slack
        for start in range(0, gram.factor.shape[1], BLOCK):
            rows = gram.factor[:, start : start + BLOCK] * scale
            self._power += np.einsum("grd,grd->gd", rows, rows, dtype=np.float64)
            self._push(rows)
        self._move(gram.mean, gram.count)

    def result(self) -> FactoredGram:
        """The moments of everything added; this ends the sketch, whose memory they take over.

        Raises:
            DataError: nothing was added, or a value is NaN, infinite, or too large to square.
        """
        self._flush()
        if self.count == 0:
            raise NoMomentsError(f"'{self.name}' has no positions to measure: its output is empty for every sample")
        factor = self._factor[:, : self._filled]
        factor /= np.float32(np.sqrt(self.count))
        rest = self._power / self.count
        for group, rows in enumerate(factor):
            rest[group] -= np.einsum("rd,rd->d", rows, rows, dtype=np.float64)
        rest[rest < 1e-6 * self._power / self.count] = 0  # rounding of float32
        return FactoredGram(factor, rest, self._mean, self.count, self._slack / self.count)

    def _flush(self) -> None:
        rows, self._pending = self._waiting[: self._pending], 0
        if not len(rows):
            return
        with np.errstate(over="ignore", invalid="ignore"):  # found below
            mean = rows.mean(0, dtype=np.float64)
            rows -= mean.astype(np.float32)
            self._power += np.einsum("rgd,rgd->gd", rows, rows, dtype=np.float64)
            if not np.isfinite(self._power.sum(1).astype(np.float32)).all():
                raise NoMomentsError(f"'{self.name}' has NaN, infinite or overflowing values on the calibration data")
            self._push(rows.swapaxes(0, 1))
            self._move(mean, len(rows))

    def _move(self, mean: Array, count: int) -> None:
        """Take in the mean of `count` rows whose deviations from it are there already."""
        before, self.count = self.count, self.count + count
        if before:
            step = mean - self._mean
            weight = before * count / self.count
            self._power += weight * np.square(step)
            self._push((np.sqrt(weight) * step)[:, None].astype(np.float32))
            self._mean += step * (count / self.count)
        else:
            self._mean = mean.copy()

    def _push(self, rows: Rows) -> None:
        """Append (G, r, D) rows, in parts of at most half the capacity."""
        half = self._factor.shape[1] // 2
        for start in range(0, rows.shape[1], half):
            part = rows[:, start : start + half]
            if self._filled + part.shape[1] > self._factor.shape[1]:
                self._shrink()
            self._factor[:, self._filled : self._filled + part.shape[1]] = part
            self._filled += part.shape[1]

    def _shrink(self) -> None:
        half = self._factor.shape[1] // 2
        for group, factor in enumerate(self._factor):
            factor[self._filled :] = 0
            values, vectors = np.linalg.eigh((factor @ factor.T).astype(np.float64))
            delta = max(float(values[-half - 1]), 0.0)
            kept = np.maximum(values[-half:], 0)
            lowered = np.s_[: max(1, round(SHRUNK * half))]
            kept[lowered] = np.maximum(kept[lowered] - delta, 0)
            scale = np.sqrt(np.divide(kept, values[-half:], out=np.zeros_like(kept), where=kept > 0))
            turn = (vectors[:, -half:] * scale).T.astype(np.float32)
            for start in range(0, factor.shape[1], _STRIP):  # in place: no second factor
                part = np.s_[start : start + _STRIP]
                factor[:half, part] = turn @ factor[:, part]
            self._slack[group] += delta
        self._filled = half


__all__ = ["BLOCK", "CAPACITY", "FactoredGram", "Sketch"]
