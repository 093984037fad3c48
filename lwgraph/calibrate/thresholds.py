"""Chooses the range that an integer grid should cover, from a histogram."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lwgraph.arrays import Floats, Ints
from lwgraph.calibrate.histogram import Histogram
from lwgraph.errors import DataError, UsageError, did_you_mean

METHODS = ("minmax", "moving-average", "percentile", "entropy", "mse")
_CANDIDATES = 64  # positions tried for each end of a range
_TINY = 1e-300  # the smallest share, so that logarithms are finite


@dataclass(frozen=True)
class Range:
    """An interval of real numbers that contains zero."""

    low: float
    high: float

    @staticmethod
    def around(low: float, high: float) -> Range:
        """[low, high], widened to contain zero: padding and ReLU need zero to be exact."""
        return Range(min(float(low), 0.0), max(float(high), 0.0))

    def symmetric(self) -> Range:
        """The smallest symmetric interval around it."""
        reach = max(-self.low, self.high)
        return Range(-reach, reach)


def mse_range(histogram: Histogram, levels: int = 256, symmetric: bool = False) -> Range:
    """The range whose uniform grid of `levels` steps has the least mean squared error.

    Both ends are searched at once: error(low, high) = clipping(low) + clipping(high) + step^2/12 * numbers inside, all
    from cumulative sums. Exact zeros cost nothing. O(bins + candidates^2).
    """
    counts, centres = histogram.counts, histogram.centres
    full = Range.around(histogram.low, histogram.high)
    if full.low == full.high:
        return full
    moments = np.stack([counts, counts * centres, counts * centres**2])
    below = np.concatenate([np.zeros((3, 1)), np.cumsum(moments, axis=1)], axis=1)
    above = below[:, -1:] - below

    def clipped(edges: Floats, sums: Floats) -> Floats:
        index = np.clip(np.rint(edges / histogram.width).astype(int) + len(counts) // 2, 0, len(counts))
        n, first, second = sums[:, index]
        return np.asarray(second - 2 * edges * first + n * edges**2)

    def ends(limit: float) -> Floats:
        """Candidates from 1/32 of the limit to the limit, denser towards it in relative terms."""
        return np.array([0.0]) if limit == 0 else limit * np.geomspace(1 / 32, 1, _CANDIDATES)

    if symmetric:
        reach = ends(full.symmetric().high)
        error = clipped(-reach, below) + clipped(reach, above) + (2 * reach / (levels - 1)) ** 2 / 12 * counts.sum()
        best = float(reach[int(np.argmin(error))])
        return Range(-best, best)
    lows, highs = ends(full.low), ends(full.high)
    steps = (highs[None, :] - lows[:, None]) / (levels - 1)
    error = clipped(lows, below)[:, None] + clipped(highs, above)[None, :] + steps**2 / 12 * counts.sum()
    i, j = np.unravel_index(int(np.argmin(error)), error.shape)
    return Range(float(lows[i]), float(highs[j]))


def entropy_range(histogram: Histogram, levels: int = 256, symmetric: bool = False) -> Range:
    """The threshold on |x| that loses the least information (Kullback-Leibler divergence) in `levels` steps.

    Migacz, "8-bit inference with TensorRT" (GTC 2017), over two-sided histograms: the reference distribution is the
    clipped one with its outliers in the end bins, the quantized one spreads each step evenly over its nonempty bins.
    All thresholds are evaluated by two cumulative sums. Exact zeros are left out. O(bins + candidates * levels).
    """
    full = Range.around(histogram.low, histogram.high)
    counts, width = histogram.counts, histogram.width
    if counts.sum() == 0:
        return full
    half = len(counts) // 2
    reach = full.symmetric().high
    last = min(int(np.ceil(reach / width)), half)
    first = max(min(levels // 2, last // 2), 1)
    sizes = np.unique(np.linspace(first, last, _CANDIDATES).astype(int))
    divergences = _divergences(counts, half - sizes, half + sizes, levels)
    best = int(np.argmin(divergences))
    threshold = min(float(sizes[best] * width), reach) if np.isfinite(divergences[best]) else reach
    if symmetric:
        return Range(-threshold, threshold)
    return Range(max(full.low, -threshold), min(full.high, threshold))


def _divergences(counts: Floats, starts: Ints, stops: Ints, levels: int) -> Floats:
    """(n,) KL(reference || quantized) of the bins from each start to its stop, over their occupied stretch; inf where
    they are empty.

    With r the number in a bin, R their sum with the outliers, s the mean number of the occupied bins of its step and Q
    the sum without outliers, it is sum(r log r - r log s) / R + log(Q / R). O(bins + n * levels).
    """
    occupied = counts > 0
    used = np.flatnonzero(occupied)
    logs = np.log(counts, out=np.zeros(len(counts)), where=occupied)
    numbers, bins, entropy = (np.concatenate([[0.0], np.cumsum(row)]) for row in (counts, occupied, counts * logs))
    found = np.full(len(starts), np.inf)
    before, behind = np.searchsorted(used, starts), np.searchsorted(used, stops)
    some = before < behind
    if not some.any():
        return found
    start, end = used[before[some]], used[behind[some] - 1]
    width = end + 1 - start
    steps = np.minimum(levels, width)
    # Where there are fewer bins than steps, the steps left over are empty and count for nothing.
    edges = start[:, None] + np.minimum(np.arange(levels + 1), steps[:, None]) * width[:, None] // steps[:, None]
    sums, filled = np.diff(numbers[edges], axis=1), np.diff(bins[edges], axis=1)
    means = np.log(np.maximum(sums, _TINY) / np.maximum(filled, 1.0))
    below, above, whole = numbers[start], numbers[-1] - numbers[end + 1], numbers[end + 1] - numbers[start]
    alone = width == 1  # one bin has the outliers of both ends
    reference = entropy[end + 1] - entropy[start]
    for bin_, extra in ((start, below + np.where(alone, above, 0.0)), (end, np.where(alone, 0.0, above))):
        own = counts[bin_]
        reference += (own + extra) * np.log(own + extra) - own * np.log(own)
    quantized = (sums * means).sum(axis=1) + below * means[:, 0] + above * means[np.arange(len(steps)), steps - 1]
    total = whole + below + above
    found[some] = (reference - quantized) / total + np.log(whole / total)
    return found


def percentile_range(histogram: Histogram, percentile: float = 99.99, symmetric: bool = False) -> Range:
    """The range that holds `percentile` % of the numbers, cutting as many at either end."""
    cut = (1 - percentile / 100) / 2
    found = Range.around(histogram.quantile(cut), histogram.quantile(1 - cut))
    return found.symmetric() if symmetric else found


def check_method(method: str) -> None:
    """UsageError with a near miss unless `method` is one of METHODS."""
    if method not in METHODS:
        raise UsageError(
            f"calibration method '{method}' is unknown{did_you_mean(method, METHODS)}; allowed: {', '.join(METHODS)}"
        )


def choose_range(
    histogram: Histogram,
    method: str,
    *,
    average: tuple[float, float] | None = None,
    levels: int = 256,
    symmetric: bool = False,
    percentile: float = 99.99,
) -> Range:
    """The range that `method` (one of METHODS) picks; `average` is the mean of the per-run extremes.

    Raises:
        UsageError: the method is unknown, or the percentile is not in (50, 100].
        DataError: nothing was counted, or a moving average is asked for and `average` is missing.
    """
    check_method(method)
    if not 50 < percentile <= 100:
        raise UsageError(f"percentile={percentile}: allowed are numbers above 50, up to 100")
    if histogram.low > histogram.high:
        raise DataError("no calibration data reached this tensor, so it has no range")
    if method == "mse":
        return mse_range(histogram, levels, symmetric)
    if method == "entropy":
        return entropy_range(histogram, levels, symmetric)
    if method == "percentile":
        return percentile_range(histogram, percentile, symmetric)
    low, high = histogram.low, histogram.high
    if method == "moving-average":
        if average is None:
            raise DataError("a moving average needs the extremes of every run")
        low, high = average
    found = Range.around(low, high)
    return found.symmetric() if symmetric else found


__all__ = ["METHODS", "Range", "check_method", "choose_range", "entropy_range", "mse_range", "percentile_range"]
