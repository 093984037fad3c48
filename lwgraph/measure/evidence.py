"""What samples say of a loss on inputs to come: an estimate, and bounds that hold with a stated confidence.

The loss is that of a rewritten model against the original, lower is better, in the metric's own unit. Every bound is
one-sided at its level: the upper one is exceeded by the true loss with a probability of at most the level, and so is
the lower one undercut. Both are needed at the full level, since only one of them can mislead at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from scipy import special

from lwgraph.arrays import Floats, Index
from lwgraph.measure.margins import changed

LOSSES_SHARE = (
    0.9  # of the level that goes to right-to-wrong pairs; few samples have too few of the others to tell much of them
)
RESAMPLES = 1000
LEAST_BEYOND = 5  # draws beyond a percentile that it takes to be told
LEAST_RESAMPLED = 20  # samples below which resampling says nothing: too few different sets can be drawn

Bounds = tuple[float | None, float | None]  # lower and upper; None: nothing can be said


class Evidence(Protocol):
    """What samples say of a loss."""

    @property
    def estimate(self) -> float:
        """The loss on the samples."""

    @property
    def samples(self) -> int:
        """How many there are; 0 where that is not known."""

    @property
    def needs(self) -> int:
        """The fewest samples of which bounds can be given."""

    @property
    def method(self) -> str:
        """How the bounds are found, in words."""

    def bounds(self, level: float) -> Bounds:
        """The lower and the upper bound of the loss, each wrong with a probability of at most `level`, 0..1."""

    def scaled(self, samples: int) -> Evidence | None:
        """What so many samples would say if the estimate is right; None where that cannot be told."""


@dataclass(frozen=True)
class Disagreements:
    """Samples whose answer is not the original's: a bound on how many disagree bounds what accuracy can be lost.

    |P(A is right) - P(B is right)| <= P(A and B differ), whatever the labels would be.

    Attributes:
        count: of samples that disagree.
        samples: all.
        expected: the share of inputs to come, where more than the count says it; see `lwgraph.measure.margins`.
    """

    count: float
    samples: int
    method: str = "Clopper-Pearson on the samples that disagree with the original"
    needs: ClassVar[int] = 1
    expected: float | None = None

    @property
    def estimate(self) -> float:
        """The share of inputs on which the two disagree."""
        return self.count / self.samples if self.expected is None else self.expected

    def bounds(self, level: float) -> Bounds:
        """Exact (Clopper, Pearson 1934); of the counts alone."""
        return share_bounds(self.count, self.samples, level)

    def scaled(self, samples: int) -> Evidence:
        """These samples, with others of which the estimated share disagrees."""
        return Disagreements(self.count + self.estimate * (samples - self.samples), samples)


@dataclass(frozen=True)
class Pairs:
    """Samples that the original got right and the candidate wrong, and the reverse.

    The two counts are parts of one multinomial, so each alone is binomial. The loss is the difference of their shares:
    the bound of each at a part of the level, by Bonferroni's inequality, bounds the difference at the whole level,
    however the two depend on each other.

    Attributes:
        lost: right to wrong.
        gained: wrong to right.
        samples: all.
        unknown: samples that disagree and have no label, so that each of them may be lost, gained or neither.
        expected: the two shares of inputs to come, where more than the counts says them; see `lwgraph.measure.margins`.
    """

    lost: float
    gained: float
    samples: int
    method: str = "Clopper-Pearson on pairs that went right to wrong and wrong to right, by Bonferroni"
    needs: ClassVar[int] = 1
    unknown: int = 0
    expected: tuple[float, float] | None = None

    @property
    def estimate(self) -> float:
        """The difference of the two shares."""
        lost, gained = self._shares
        return lost - gained

    @property
    def _shares(self) -> tuple[float, float]:
        return (self.lost / self.samples, self.gained / self.samples) if self.expected is None else self.expected

    def bounds(self, level: float) -> Bounds:
        """Valid for every pair of shares; a little wide, never too narrow. Of the counts alone."""
        first, second = LOSSES_SHARE * level, (1 - LOSSES_SHARE) * level
        lost, _ = share_bounds(self.lost, self.samples, first)
        _, lost_more = share_bounds(self.lost + self.unknown, self.samples, first)
        gained, _ = share_bounds(self.gained, self.samples, second)
        _, gained_more = share_bounds(self.gained + self.unknown, self.samples, second)
        return lost - gained_more, lost_more - gained

    def scaled(self, samples: int) -> Evidence:
        """These samples, with others of the estimated shares, all of them labelled."""
        lost, gained = ((samples - self.samples) * share for share in self._shares)
        return Pairs(self.lost + lost, self.gained + gained, samples, unknown=self.unknown)


@dataclass(frozen=True)
class Mean:
    """The mean of one loss per sample.

    Attributes:
        estimate: the mean.
        deviation: the sample standard deviation.
        samples: how many.
        span: the width of the range that a loss cannot leave; inf: it has none.
    """

    estimate: float
    deviation: float
    samples: int
    span: float = math.inf
    needs: ClassVar[int] = 2

    @classmethod
    def of(cls, losses: Floats, span: float = math.inf) -> Mean:
        """Of losses (n,)."""
        deviation = float(np.std(losses, ddof=1)) if len(losses) > 1 else math.nan
        return cls(float(np.mean(losses)), deviation, len(losses), span)

    @property
    def method(self) -> str:
        """Depends on whether a loss has limits."""
        if math.isinf(self.span):
            return "Student's t on the mean loss, which assumes that the samples include the rare large losses"
        return "empirical Bernstein bound on the mean loss"

    def bounds(self, level: float) -> Bounds:
        """Maurer and Pontil 2009, theorem 4, where a loss has limits; else Student's t.

        Losses that are all alike tell t nothing of how they vary.
        """
        n = self.samples
        if n < 2 or (math.isinf(self.span) and self.deviation == 0):
            return None, None
        if math.isinf(self.span):
            half = float(special.stdtrit(n - 1, 1 - level)) * self.deviation / math.sqrt(n)
        else:
            log = math.log(2 / level)
            half = self.deviation * math.sqrt(2 * log / n) + 7 * self.span * log / (3 * (n - 1))
        return self.estimate - half, self.estimate + half

    def scaled(self, samples: int) -> Evidence:
        """The same mean and deviation of other samples."""
        return Mean(self.estimate, self.deviation, samples, self.span)


@dataclass(frozen=True)
class Resampled:
    """A loss that is one number of a whole set of samples, which can be had for any subset: the bootstrap (Efron 1979).

    Attributes:
        estimate: on all samples.
        samples: how many.
        draws: the loss on RESAMPLES resampled sets; what does not vary at all tells nothing.
        narrower: by how much the bounds draw together; see `scaled`.
    """

    estimate: float
    samples: int
    draws: Floats = field(repr=False, compare=False)
    narrower: float = 1.0
    method: str = "bootstrap over the samples, which is approximate"
    needs: ClassVar[int] = LEAST_RESAMPLED

    @classmethod
    def of(cls, loss: Callable[[Index], float], samples: int, seed: int = 0, draws: int = RESAMPLES) -> Resampled:
        """Of a function from positions of samples to the loss on them."""
        rng = np.random.default_rng(seed)
        estimate = loss(np.arange(samples))
        rows = draws if samples >= LEAST_RESAMPLED else 0
        found = [loss(rng.integers(0, samples, samples)) for _ in range(rows)]
        return cls(float(estimate), samples, np.array(found, np.float64))

    def bounds(self, level: float) -> Bounds:
        """Percentiles of the resampled losses; beyond what so many draws can tell, as far as a normal tail reaches."""
        if not len(self.draws) or self.draws.min() == self.draws.max():
            return None, None
        low, high = (float(each) for each in np.quantile(self.draws, (level, 1 - level)))
        if level * len(self.draws) < LEAST_BEYOND:
            reach = -float(special.ndtri(level)) * float(self.draws.std())
            low, high = min(low, self.estimate - reach), max(high, self.estimate + reach)
        return (
            self.estimate + self.narrower * (min(low, self.estimate) - self.estimate),
            self.estimate + self.narrower * (max(high, self.estimate) - self.estimate),
        )

    def scaled(self, samples: int) -> Evidence:
        """Bounds draw together as the root of the number of samples."""
        return Resampled(self.estimate, samples, self.draws, math.sqrt(self.samples / samples) * self.narrower)


@dataclass(frozen=True)
class OneNumber:
    """A loss of which nothing but its value is known."""

    estimate: float
    samples: int = 0
    method: str = "one number, no interval can be given"
    needs: ClassVar[int] = 1

    def bounds(self, level: float) -> Bounds:
        """None can be given."""
        return None, None

    def scaled(self, samples: int) -> None:
        """More samples change nothing."""


def share_bounds(count: float, samples: int, level: float) -> tuple[float, float]:
    """The exact bounds of a share, each wrong with a probability of at most `level` (Clopper, Pearson 1934).

    Args:
        count: of `samples`; for planning it need not be whole.
        samples: how many there are, at least 1.
        level: 0..1.
    """
    low = 0.0 if count <= 0 else float(special.betaincinv(count, samples - count + 1, level))
    high = 1.0 if count >= samples else float(special.betaincinv(count + 1, samples - count, 1 - level))
    return low, high


def paired(
    before: Floats,
    after: Floats,
    span: float = math.inf,
    *,
    original: bool = False,
    apart: tuple[Floats, Floats] | None = None,
) -> Evidence:
    """The evidence of one value per sample, higher is better, of the original and of a candidate.

    Args:
        before, after: (n,), of the same samples in the same order.
        span: the width of the range that a value cannot leave; inf: it has none.
        original: the values say how near outputs are to the original's, whose own are the best there are: a candidate
            can gain nothing.
        apart: the margins (n,) of the answers that count as right, of the original and of the candidate, where values
            are right or wrong: the estimate then says more than their count; see `lwgraph.measure.margins`.
    """
    if _all_or_nothing(before) and _all_or_nothing(after):
        lost, gained = int(np.sum(before > after)), int(np.sum(after > before))
        expected = None if apart is None else changed(*apart)
        if original:
            return Disagreements(lost, len(before), expected=None if expected is None else expected[0])
        return Pairs(lost, gained, len(before), expected=expected)
    return Mean.of(before - after, span if original else 2 * span)


def _all_or_nothing(values: Any) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


__all__ = [
    "Bounds",
    "Disagreements",
    "Evidence",
    "Mean",
    "OneNumber",
    "Pairs",
    "Resampled",
    "paired",
    "share_bounds",
]
