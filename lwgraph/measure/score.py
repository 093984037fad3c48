"""A metric's value with its uncertainty, and the difference of two values measured on the same samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lwgraph.arrays import Floats, Index

_Z = 1.959964  # two-sided 95 %
_RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Score:
    """A value, higher is better, and its 95 % interval over the samples (None where samples are not known).

    `samples` has one value per sample, where the metric is a mean over samples; else `subset` may tell the value on
    samples at given positions, which may come several times. `margins` has for each sample how far its answer is from
    another one, where a value says whether the answer of a classifier is right; see `lwgraph.measure.margins`.
    """

    value: float
    low: float | None = None
    high: float | None = None
    count: int = 0
    samples: Floats | None = None
    subset: Callable[[Index], float] | None = None
    margins: Floats | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.4f}"
        return f"{self.value:.4f} ({self.low:.4f} to {self.high:.4f}, {self.count} samples)"


@dataclass(frozen=True, eq=False)
class Values:
    """What a metric says of the samples of one batch.

    Attributes:
        values: (n,).
        margins: (n,), as those of a `Score`; None where there are none.
    """

    values: Floats
    margins: Floats | None = None


def score_of(parts: Sequence[Values], seed: int = 0) -> Score:
    """The mean of the values of all batches, as `mean_score`."""
    known = [part.margins for part in parts if part.margins is not None]
    margins = np.concatenate(known) if known and len(known) == len(parts) else None
    return replace(mean_score(np.concatenate([part.values for part in parts]), seed), margins=margins)


def mean_score(samples: Floats, seed: int = 0) -> Score:
    """The mean of per-sample values. Wilson's interval when all are 0 or 1, else the bootstrap's percentiles."""
    value, count = float(np.mean(samples)), len(samples)
    if np.isin(samples, (0.0, 1.0)).all():
        low, high = wilson(value, count)
    else:
        low, high = bootstrap(lambda rows: rows.mean(axis=-1), samples, seed)
    return Score(value, low, high, count, samples)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share of `count` trials (Wilson 1927); right at 0 and 1, too."""
    if count == 0:
        return 0.0, 1.0
    z2 = _Z * _Z / count
    centre, half = share + z2 / 2, _Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count))
    return max(0.0, (centre - half) / (1 + z2)), min(1.0, (centre + half) / (1 + z2))


def bootstrap(statistic: object, samples: Floats, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of a statistic over resampled samples (Efron 1979); `statistic` maps (r, n) to (r,)."""
    assert callable(statistic)
    rng = np.random.default_rng(seed)
    found: list[float] = []
    step = max(1, (1 << 20) // max(1, len(samples)))
    for start in range(0, _RESAMPLES, step):
        picks = rng.integers(0, len(samples), (min(step, _RESAMPLES - start), len(samples)))
        found.extend(np.asarray(statistic(samples[picks]), float))
    low, high = np.percentile(found, (2.5, 97.5))
    return float(low), float(high)


def drop(base: Score, new: Score, seed: int = 0) -> Score:
    """The loss of `new` against `base`, base - new; with an interval when both were measured on the same samples.

    The samples are paired, so the interval is much narrower than those of the two values.
    """
    lost = 0.0 if base.value == new.value else base.value - new.value
    if base.samples is None or new.samples is None or len(base.samples) != len(new.samples):
        return Score(lost)
    return _paired(base.samples - new.samples, lost, seed)


def _paired(samples: Floats, lost: float, seed: int) -> Score:
    low, high = bootstrap(lambda rows: rows.mean(axis=-1), samples, seed)
    return Score(lost, low, high, len(samples), samples)
