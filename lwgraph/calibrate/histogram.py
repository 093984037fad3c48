"""A histogram of a stream of numbers whose range is not known beforehand, in fixed memory."""

from __future__ import annotations

import math

import numpy as np

from lwgraph.arrays import Array, Floats
from lwgraph.errors import DataError, UsageError

BINS = 8192
_SMALLEST = -100  # the exponent below which a range is as good as zero; keeps 1/width finite in float32


class Histogram:
    """Counts of a stream in `bins` equal bins that lie symmetrically around zero.

    The bin width is a power of two. When a number falls outside, the width doubles and neighbouring bins merge, which
    is exact because zero is always a bin edge: the result does not depend on the order in which the numbers arrive.
    Exact zeros are counted beside, since every quantizer here represents them without error.

    Args:
        bins: how many bins; a power of two, at least 16. Memory is 8 bytes per bin.

    Attributes:
        counts: (bins,) float64; bin i covers [(i - bins/2) * width, (i - bins/2 + 1) * width).
        width: the bin width, in the unit of the data; 0 before the first nonzero number.
        zeros: how many numbers were exactly zero (not in `counts`).
        low, high: the exact extremes seen; +inf and -inf before the first number.
    """

    def __init__(self, bins: int = BINS) -> None:
        if bins < 16 or bins & (bins - 1):
            raise UsageError(f"bins={bins}: a histogram needs a power of two, at least 16")
        self.counts: Floats = np.zeros(bins)
        self.width = 0.0
        self.zeros = 0.0
        self.low, self.high = math.inf, -math.inf

    @property
    def total(self) -> float:
        """The number of values counted, zeros included."""
        return float(self.counts.sum()) + self.zeros

    @property
    def centres(self) -> Floats:
        """(bins,) the middle of each bin."""
        half = len(self.counts) // 2
        middles: Floats = np.arange(-half, half, dtype=np.float64)
        return (middles + 0.5) * self.width

    def add(self, values: Array) -> None:
        """Count an array of any shape and floating dtype. O(values).

        Raises:
            DataError: a value is NaN or infinite.
        """
        flat = np.asarray(values).reshape(-1)
        if flat.dtype != np.float64:
            flat = flat.astype(np.float32, copy=False)
        if flat.size == 0:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DataError(f"a value is {low if not math.isfinite(low) else high}; only finite numbers have a range")
        self.extend(low, high)
        zeros = flat.size - int(np.count_nonzero(flat))
        self.zeros += zeros
        if zeros == flat.size:
            return
        half = len(self.counts) // 2
        index = np.floor(flat * flat.dtype.type(1 / self.width)).astype(np.int32)  # exact: a power of two
        np.minimum(index, half - 1, out=index)  # the largest number itself may round up to the last edge
        np.minimum(index, -1, out=index, where=flat < 0)  # the quotient of a subnormal one may round to zero
        found = np.bincount(index + half, minlength=len(self.counts)).astype(np.float64)
        found[half] -= zeros
        self.counts += found

    def extend(self, low: float, high: float) -> None:
        """Make room for numbers from `low` to `high` and remember them as seen extremes, counting nothing."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        reach = max(abs(self.low), abs(self.high))
        if reach == 0:
            return
        half = len(self.counts) // 2
        fitting = math.ldexp(1.0, max(math.frexp(reach)[1], _SMALLEST)) / half  # frexp: 2**exponent > reach
        if self.width == 0:
            self.width = fitting
        while self.width < fitting:
            self._coarsen()

    def merge(self, other: Histogram) -> None:
        """Add another histogram's counts; the same as having counted both streams. O(bins).

        Raises:
            UsageError: the numbers of bins differ.
        """
        if len(other.counts) != len(self.counts):
            raise UsageError(f"histograms of {len(self.counts)} and {len(other.counts)} bins cannot be merged")
        self.zeros += other.zeros
        if other.width == 0:
            if other.zeros:
                self.extend(0.0, 0.0)
            return
        self.extend(other.low, other.high)
        counts, width = other.counts, other.width
        while width < self.width:
            counts, width = _pairs(counts), 2 * width
        while self.width < width:
            self._coarsen()
        self.counts = self.counts + counts

    def _coarsen(self) -> None:
        self.counts, self.width = _pairs(self.counts), 2 * self.width

    def quantile(self, fraction: float) -> float:
        """The value below which `fraction` of the numbers lie, interpolated inside its bin, within [low, high]."""
        if self.total == 0:
            raise DataError("an empty histogram has no quantile")
        half = len(self.counts) // 2
        counts = np.concatenate([self.counts[:half], [self.zeros], self.counts[half:]])
        below = np.concatenate([[0.0], np.cumsum(counts)])
        target = fraction * below[-1]
        index = min(max(int(np.searchsorted(below, target, side="left")) - 1, 0), len(counts) - 1)
        if index == half:
            return 0.0
        inside = (target - below[index]) / counts[index] if counts[index] else 0.0
        start = (index - half - (index > half)) * self.width
        return float(np.clip(start + inside * self.width, self.low, self.high))

    def __repr__(self) -> str:
        return f"Histogram({self.total:.0f} numbers in [{self.low:.6g}, {self.high:.6g}], width {self.width:.3g})"


def _pairs(counts: Floats) -> Floats:
    """The same histogram with bins twice as wide."""
    padding = np.zeros(len(counts) // 4)
    return np.concatenate([padding, counts.reshape(-1, 2).sum(axis=1), padding])


__all__ = ["BINS", "Histogram"]
