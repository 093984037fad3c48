"""Second moments of a layer's inputs, made ready for fits: the ridge, refits and error formulas that forms share.

Notation, for one group of a layer: W (o, D) is the weight, x (D,) an input patch, y = W x + b. With free biases every
error depends on the *centred* moments C = E[x x^T] - mean mean^T only: a replacement kernel K leaves
E||y - yhat||^2 = tr((W - K) C (W - K)^T) when its bias is b + (W - K) mean.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from lwgraph.arrays import Floats, Weights, slabs
from lwgraph.calibrate.sketch import FactoredGram
from lwgraph.errors import DataError
from lwgraph.layers.factored import Factored
from lwgraph.layers.linalg import (
    correlations,
    ridges,
    rounding,
    solve,
)
from lwgraph.layers.probe import Probe
from lwgraph.layers.quadratic import Indices, Quadratic
from lwgraph.layers.site import Site

SWEEP_WORK = 3 * 10**9  # outputs times squared patch lengths
SETTLED = 0.02  # alternating fits stop at a sweep that gains less than this share of the error
MOST_UNKNOWNS = 10_000  # longest patch whose moments are formed
WIDE, RIDGED = 1024, 1e-4  # length and ridge from which float32 is precise enough; see `Block.working`
SINGLE, LOWER, SHARED = "single", "lower", ("single", "lower")  # keys of what depends on the inputs alone
FEW, ENOUGH = 3, 5  # samples per unknown below which fits are doubtful, and from which they are good


class GramLike(Protocol):
    """The statistics of a layer's input patches that fits need; see `lwgraph.calibrate.gram`."""

    @property
    def matrix(self) -> Floats:
        """(G, D, D), the mean of x x^T over samples, not centred; G groups, D = c/g * taps, order (channel, *tap)."""

    @property
    def mean(self) -> Floats:
        """(G, D), the mean of x."""

    @property
    def count(self) -> int:
        """The number of patches averaged."""


@dataclass(frozen=True, eq=False)
class Pooled:
    """Several Grams as one: what layers with a common weight see together."""

    matrix: Floats
    mean: Floats
    count: int

    @classmethod
    def of(cls, grams: Sequence[GramLike]) -> Pooled:
        """The moments over the samples of all `grams`."""
        count = sum(gram.count for gram in grams)
        matrix: Floats = np.zeros_like(grams[0].matrix, np.float64)
        mean: Floats = np.zeros_like(grams[0].mean, np.float64)
        for gram in grams:
            matrix += gram.matrix * (gram.count / count)
            mean += gram.mean * (gram.count / count)
        return cls(matrix, mean, count)


def pooled(grams: Sequence[GramLike | FactoredGram]) -> GramLike | FactoredGram:
    """The moments over the samples of all `grams`, which are all exact or all factored."""
    if len(grams) == 1:
        return grams[0]
    factored = [gram for gram in grams if isinstance(gram, FactoredGram)]
    if factored:
        return FactoredGram.pooled(factored)
    return Pooled.of([gram for gram in grams if not isinstance(gram, FactoredGram)])


@dataclass(eq=False)
class Block(Quadratic):
    """One group of a layer with exact moments, ready for fitting.

    Attributes:
        weight: (o, c, *k).
        moments: R = C + diag(ridge), (D, D), with D = c * prod(k), order (channel, *tap).
        ridge: what was added to the diagonal, (D,); one number stands for all.
        prior: the correlations (D, D) that came with it, so that R = C + sqrt(ridge ridge^T) * prior; None: none.
        refine: whether a fit should go on from its start with alternating sweeps; a start is enough for an estimate.
        cache: for intermediate results that several forms or sizes share.
    """

    weight: Floats
    moments: Floats
    ridge: Floats | float
    refine: bool = True
    prior: Floats | None = None
    cache: dict[Any, Any] = field(default_factory=dict)

    @property
    def matrix(self) -> Floats:
        """The weight as (o, D)."""
        return self.weight.reshape(len(self.weight), -1)

    def __post_init__(self) -> None:
        self.ridge = np.broadcast_to(np.asarray(self.ridge, np.float64), (len(self.moments),))

    @property
    def diagonal(self) -> Floats:
        """(D,), that of R."""
        return np.asarray(np.diagonal(self.moments))

    @property
    def variance(self) -> Floats:
        """(D,), the diagonal of C."""
        return self.diagonal - self.ridge

    @property
    def trace(self) -> float:
        """tr(C)."""
        return float(np.trace(self.moments)) - float(np.sum(self.ridge))

    def apply(self, rows: Floats) -> Floats:
        """V R for V (o, D)."""
        return rows @ self.moments

    def solve(self, rows: Floats) -> Floats:
        """V R^-1 for V (o, D)."""
        return solve(self.moments, rows)

    def chosen(self, at: Indices) -> Floats:
        """(k, k), R between k of the entries of a patch."""
        return np.asarray(self.moments[np.ix_(at, at)])

    def onto(self, kept: Indices) -> Floats:
        """W R_:K (R_KK)^-1, (o, k). O(k^3)."""
        return solve(self.chosen(kept), self.cross[:, kept])

    @property
    def white(self) -> bool:
        """Whether the fit is for white inputs, where truncated SVDs are optimal as they are."""
        return not np.any(self.ridge)

    @property
    def cross(self) -> Floats:
        """W R, (o, D)."""
        if "cross" not in self.cache:
            self.cache["cross"] = self.matrix @ self.moments
        found: Floats = self.cache["cross"]
        return found

    @property
    def total(self) -> float:
        """tr(W R W^T): the loss of no kernel at all."""
        if "total" not in self.cache:
            self.cache["total"] = float(np.vdot(self.cross, self.matrix))
        return float(self.cache["total"])

    def sweeps(self, most: int, *, white: bool = False) -> int:
        """The number of alternations that a fit does from its start: `most`, or what SWEEP_WORK affords at o D^2 each.

        None for an estimate, nor for white inputs unless `white`.
        """
        if not self.refine or (self.white and not white):
            return 0
        outputs, width = self.matrix.shape
        return int(max(1, min(most, SWEEP_WORK // (outputs * width**2))))

    def settled(self, before: float, after: float) -> bool:
        """Whether a sweep that lowered the loss (less `total`) so far gained less than SETTLED of what is left."""
        return before - after < SETTLED * (self.total + before)

    @property
    def single(self) -> Weights:
        """R in float32, for steps whose result is judged in float64."""
        if SINGLE not in self.cache:
            self.cache[SINGLE] = self.moments.astype(np.float32)
        found: Weights = self.cache[SINGLE]
        return found

    @property
    def working(self) -> Weights:
        """R in the precision that normal equations are set up in: float32 where it is large and well conditioned.

        An error E of the normal matrix N changes the loss of the weights found by tr(A E N^-1 E A^T), second order in
        E: with a ridge of RIDGED of the mean variance and more, float32 changes less than 1e-6 of the outputs' power.
        """
        mean = float(np.trace(self.moments)) / len(self.moments)
        wide = self.prior is None and len(self.moments) >= WIDE and float(np.min(self.ridge)) >= RIDGED * mean
        return self.single if wide else self.moments

    @property
    def lower(self) -> Weights:
        """L in float32 with R = L L^T: ||V L||^2 keeps the digits that V R V^T in float32 would lose."""
        if LOWER not in self.cache:
            self.cache[LOWER] = np.linalg.cholesky(self.moments).astype(np.float32)
        found: Weights = self.cache[LOWER]
        return found

    def size(self, change: Floats) -> float:
        """tr(V R V^T) for V (o, D). O(o D^2)."""
        if self.working is self.moments:
            return float(np.vdot(change @ self.moments, change))
        return float(np.square(change.astype(np.float32) @ self.lower).sum(dtype=np.float64))

    @property
    def channel_moments(self) -> Floats:
        """(c, c): the moments of the channels, the mean over the taps."""
        if "channel moments" not in self.cache:
            inputs, taps = self.weight.shape[1], math.prod(self.weight.shape[2:])
            whole = self.moments.reshape(inputs, taps, inputs, taps)
            self.cache["channel moments"] = sum(whole[:, t, :, t] for t in range(taps)) / taps
        found: Floats = self.cache["channel moments"]
        return found

    @property
    def tap_moments(self) -> Floats:
        """(t, t): the moments of the taps, the mean over the channels."""
        if "tap moments" not in self.cache:
            inputs, taps = self.weight.shape[1], math.prod(self.weight.shape[2:])
            at = np.arange(inputs)
            self.cache["tap moments"] = self.moments.reshape(inputs, taps, inputs, taps)[at, :, at].mean(0)
        found: Floats = self.cache["tap moments"]
        return found

    def loss(self, kernel: Weights) -> float:
        """tr((W - K) R (W - K)^T) for K of the weight's shape or (o, D). O(o D^2)."""
        change: Floats = self.matrix - kernel.reshape(self.matrix.shape)
        return self.size(change)

    def error(self, kernel: Weights) -> float:
        """tr((W - K) C (W - K)^T), the squared error that the samples themselves would show."""
        change: Floats = self.matrix - kernel.reshape(self.matrix.shape)
        return self._without_ridge(self.size(change), change)

    @property
    def power(self) -> float:
        """tr(W C W^T), the summed variance of the outputs."""
        matrix = self.matrix
        return self._without_ridge(float(np.vdot(self.cross, matrix)), matrix)

    def _without_ridge(self, size: float, change: Floats) -> float:
        """tr(V C V^T) from tr(V R V^T); 0 where only rounding is left."""
        if self.prior is None:
            left = size - float(np.vdot(np.square(change).sum(0), self.ridge))
        else:
            scaled = change * np.sqrt(self.ridge)
            left = size - float(np.vdot(scaled @ self.prior, scaled))
        apart = float(np.vdot(np.square(change).sum(0), np.diagonal(self.moments)))  # the terms that may cancel
        return left if left > 1e-12 * max(size, apart) else 0.0


class Moments:
    """The second moments of a site's input patches, one quadratic form per group (`losses`).

    Args:
        site: the layer.
        gram: what calibration measured, exact or factored; None fits for white inputs (C = I, mean 0), which is fitting
            the weight alone.
        measure: gives what calibration measured of a probe at the site, for forms that look at more than its patches.

    The ridge shrinks the correlations of the inputs by the share rho that their number of samples n calls for
    (Schaefer, Strimmer 2005, target D, with the variance (1 - r^2)^2 / n of a correlation r of normal variables), and
    keeps a tenth of itself for all entries alike, so that inputs that hardly vary on the samples are not free:

        rho = sum_ij (1 - r_ij^2)^2 / (n sum_{i != j} r_ij^2),   rho <= 0.9
        ridge_i = max(rho / (1 - rho), 1e-9) * (0.9 C_ii + 0.1 tr(C) / D)

    Features of a probe are correlated by their geometry alone, such as a patch and its mean; for them r_ij in the
    denominator is the difference to the correlation for white inputs, and what is added has these correlations.
    Positions of one image resemble each other, so n is taken as a quarter of the count. Inputs that never vary
    (C = 0) are treated as white: then every kernel is exact, and the weight's own geometry decides.
    """

    def __init__(
        self,
        site: Site | Probe,
        gram: GramLike | FactoredGram | None = None,
        measure: Callable[[Callable[[Site], Site | Probe]], GramLike | FactoredGram] | None = None,
    ) -> None:
        self.site = site
        self._measure = measure
        self._others: dict[Any, Moments] = {}
        self.count = None if gram is None else gram.count
        size, width = site.outputs // site.group, site.fan_in
        self.mean: Floats = np.zeros((site.group, width)) if gram is None else np.asarray(gram.mean, np.float64)
        self.losses: list[Quadratic] = []
        for index in range(site.group):
            rows = np.s_[index * size : (index + 1) * size]
            if gram is None:
                if not isinstance(site, Probe) and width > MOST_UNKNOWNS:
                    self.losses.append(Factored.white(site.stored[rows]))
                    continue
                white = site.white if isinstance(site, Probe) else np.eye(width)
                self.losses.append(Block(site.weight[rows], white, 0.0))
                continue
            if isinstance(gram, FactoredGram):
                weight = site.weight[rows] if isinstance(site, Probe) else site.stored[rows]
                self.losses.append(Factored.of(weight, gram.factor[index], gram.rest[index], gram.count))
                continue
            centred = np.array(gram.matrix[index], np.float64)
            if centred.shape != (width, width):
                raise ValueError(f"the moments of '{site.name}' are {centred.shape}; its patches have length {width}")
            centred -= np.outer(self.mean[index], self.mean[index])
            prior = correlations(site.white, centred) if isinstance(site, Probe) else None
            ridge = np.maximum(ridges(centred, gram.count, prior), rounding(gram.matrix[index]))
            if prior is None:
                centred[np.diag_indices(width)] += ridge
            else:
                centred += prior * np.sqrt(ridge) * np.sqrt(ridge)[:, None]
            self.losses.append(Block(site.weight[rows], centred, ridge, prior=prior))

    @property
    def exact(self) -> bool:
        """Whether all moments are there as matrices (D, D), which fits of forms need."""
        return all(isinstance(each, Block) for each in self.losses)

    @property
    def blocks(self) -> list[Block]:
        """The groups with their matrices of moments.

        Raises:
            DataError: the moments are factored; see `exact`.
        """
        found = [each for each in self.losses if isinstance(each, Block)]
        if len(found) < len(self.losses):
            raise DataError(f"layer '{self.site.name}': {inexact(self.site)}")
        return found

    @blocks.setter
    def blocks(self, blocks: Sequence[Block]) -> None:
        self.losses = list(blocks)

    def seen(self, look: Callable[[Site], Site | Probe]) -> Moments:
        """The moments of what a form looks at instead of the layer's patches, remembered.

        Args:
            look: makes the probe of a site with this weight.

        Raises:
            DataError: these were collected without it.
        """
        assert isinstance(self.site, Site)
        probe = look(self.site)
        if probe is self.site:
            return self
        assert isinstance(probe, Probe)
        if probe.patches not in self._others:
            if self.count is not None and self._measure is None:
                raise DataError(f"for layer '{self.site.name}', only the moments of its own input patches are known")
            gram = None if self._measure is None else self._measure(look)
            self._others[probe.patches] = Moments(probe, gram)
        found = self._others[probe.patches]
        return found if self.blocks[0].refine else found.quick()

    @staticmethod
    def shortage(site: Site | Probe, count: int) -> str:
        """The warning about having only `count` samples for a layer; "" when they are enough."""
        if count >= FEW * site.fan_in:
            return ""
        need = ENOUGH * site.fan_in
        return (
            f"layer '{site.name}' has {count} samples for {site.fan_in} unknowns per output; "
            f"fits are reliable from about {need} samples: give {math.ceil(need / max(1, count))} times as much data"
        )

    def error(self, kernel: Weights) -> float:
        """Predicted ||Y - Yhat||^2 / ||Y - mean Y||^2 of a canonical kernel (o, c/g, *k) with its bias re-centred.

        0 where the outputs do not vary and the kernel keeps them so; inf where it makes them vary.
        """
        parts = kernel.reshape(self.site.group, -1, self.site.fan_in)
        return ratio(
            sum(each.error(part) for each, part in zip(self.losses, parts, strict=True)),
            sum(each.power for each in self.losses),
        )

    def expected(self, kernel: Weights) -> float:
        """The error with the ridge: nearer to that on unseen inputs than `error`, and comparable between forms."""
        parts = kernel.reshape(self.site.group, -1, self.site.fan_in)
        return self.relative(sum(each.loss(part) for each, part in zip(self.losses, parts, strict=True)))

    def relative(self, loss: float) -> float:
        """A loss, summed over the blocks, as a share of the outputs' power, ridge included."""
        return ratio(max(0.0, loss), sum(each.total for each in self.losses))

    def quick(self) -> Moments:
        """The same moments and caches, for fits that stop at their start."""
        twin = copy.copy(self)
        twin.losses = [replace(each, refine=False) if isinstance(each, Block) else each for each in self.losses]
        return twin

    def shift(self, kernel: Weights) -> Floats:
        """(W - K) mean(x), (o,): what the bias must gain so that the mean output stays."""
        kernels = kernel.reshape(self.site.group, -1, self.site.fan_in)
        found = np.empty(kernels.shape[:2])
        for own, loss, other, mean in zip(found, self.losses, kernels, self.mean, strict=True):
            for part in slabs(other.shape):
                own[part] = np.subtract(loss.matrix[part], other[part], dtype=np.float64) @ mean
        return found.reshape(-1)


def too_wide(site: Site) -> str:
    """Why no form is fitted to a layer: its normal equations would have too many unknowns; "" when they have not."""
    if site.fan_in <= MOST_UNKNOWNS:
        return ""
    return f"its patches have {site.fan_in:,} entries; moments of more than {MOST_UNKNOWNS:,} are not formed"


def inexact(site: Site | Probe) -> str:
    """What to say where moments of a layer or probe are factored, and a fit needs them whole."""
    return f"it needs exact moments of {site.fan_in:,} inputs, which the memory allowance has no room for; allow more"


def ratio(error: float, power: float) -> float:
    """error / power, with 0/0 = 0 (a constant output kept constant)."""
    if power > 0:
        return error / power
    return 0.0 if error <= 0 else math.inf


def refit(block: Block, features: Floats) -> Floats:
    """The pointwise stage A (o, m) of least output error over features F (m, D): A = W R F^T (F R F^T)^-1."""
    return solve(features @ block.moments @ features.T, block.cross @ features.T)


__all__ = [
    "SHARED",
    "WIDE",
    "Block",
    "GramLike",
    "Moments",
    "Pooled",
    "inexact",
    "pooled",
    "ratio",
    "refit",
    "too_wide",
]
