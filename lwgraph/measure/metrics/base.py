"""What a metric is, and one over the samples of a reader."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from lwgraph.arrays import Array, Floats, Index
from lwgraph.calibrate.store import Store
from lwgraph.errors import DataError, UsageError, did_you_mean
from lwgraph.flat import flat
from lwgraph.measure.kinds import CLASSES, METRIC_OF, OutputKind
from lwgraph.measure.score import Score, Values, score_of

if TYPE_CHECKING:
    from lwgraph.calibrate.readers import Batch, Reader
    from lwgraph.executor import Run

SHARE_DROP = 0.01  # the loss allowed where the user states none: one point
DB_DROP = 0.1  # the same in dB against labels
DB_FLOOR = 40.0  # the same for PSNR and SQNR against the original: what tolerances call approximate
HIGHEST_DB = 100.0  # equal outputs would be infinitely good; so that differences stay finite
_CACHE_BYTES = 256 << 20  # memory for the original's outputs; the rest goes to temporary files

Part = Callable[[int], Index]  # of so many samples of a function, the positions of those that count


class Metric(ABC):
    """Scores a run. `unit` is "share" (0..1), "dB", or "" for a function of unknown scale."""

    name: str
    unit: str
    span = math.inf  # the width of the range that the value of one sample cannot leave
    to_original = False  # whether a value says how near outputs are to the original's
    left_out = 0  # samples of its own that another look has: see `Part`
    per_sample = False  # whether samples have values of their own, which `values` gives one after the other

    def allowed(self, base: Score) -> float:
        """The loss that is allowed where the user states none.

        Args:
            base: the original's score.
        """
        if self.unit == "dB":
            return HIGHEST_DB - DB_FLOOR if base.value >= HIGHEST_DB else DB_DROP
        return SHARE_DROP

    @abstractmethod
    def __call__(self, run: Run) -> Score:
        """The score of one model.

        Raises:
            DataError: an output is NaN, or does not suit the metric.
        """

    def values(self, run: Run) -> Iterator[Values]:
        """The values of the samples, batch by batch, of a metric that is `per_sample`; their mean is the score.

        Raises:
            DataError: as for a call.
        """
        raise NotImplementedError(f"metric '{self.name}' has no value for a single sample")

    def points(self, base: float, new: float) -> float:
        """A loss in points, which mean the same in every metric: a hundredth of a share, or a tenth of a dB.

        A function of unknown scale counts as a share when its base is in -1.5..1.5, else in its own unit.
        """
        if base == new:
            return 0.0
        scale = 10.0 if self.unit == "dB" else 100.0 if self.unit == "share" or abs(base) <= 1.5 else 1.0
        return scale * (base - new)


class Sampled(Metric):
    """A metric over the samples of a reader."""

    def __init__(
        self,
        reader: Reader,
        original: Run | None,
        output: str | None = None,
        seed: int = 0,
        kind: OutputKind | None = None,
    ) -> None:
        self._reader, self._original, self._seed, self._kind = reader, original, seed, kind
        mine = kind is not None and (METRIC_OF[kind.name] == self.name or (self.name, kind.name) == ("top1", CLASSES))
        self._counting = (output,) if output is not None else kind.outputs if mine and kind is not None else ()
        self._cache = Store(_CACHE_BYTES)
        self._names: list[list[str]] = []  # of the original's outputs, by batch

    def _outputs(self, run: Run) -> Iterator[tuple[int, Batch, dict[str, Array]]]:
        """Each batch with the checked outputs of a run."""
        for index, batch in enumerate(self._reader.batches()):
            outputs = flat(run(batch.feeds))
            if not outputs:
                raise DataError(f"the model puts out nothing on batch {index} of {self._reader.place}")
            if self._counting:
                for name in self._counting:
                    if name not in outputs:
                        raise UsageError(f"the model has no output '{name}'{did_you_mean(name, outputs)}")
                outputs = {name: outputs[name] for name in self._counting}
            for name, value in outputs.items():
                if value.dtype.kind == "f" and np.isnan(value).any():
                    raise DataError(
                        f"output '{name}' has {int(np.isnan(value).sum())} NaN of {value.size} values on "
                        f"batch {index} of {self._reader.place}"
                    )
            yield index, batch, outputs

    def _kept(self, reduce: Callable[[dict[str, Array]], dict[str, Array]]) -> Iterator[dict[str, Array]]:
        """The original's outputs, batch by batch, reduced; made on first use, and gone on with where that stopped."""
        if self._original is not None:
            for index, _, outputs in self._outputs(self._original):
                if index == len(self._names):
                    small = reduce(outputs)
                    self._cache.put(index, tuple(small.values()))
                    self._names.append(list(small))
            self._original = None  # a session may hold a copy of all weights
        for index, names in enumerate(self._names):
            yield dict(zip(names, self._cache.get(index), strict=True))


class PerSample(Sampled):
    """A metric with one value for each sample."""

    per_sample = True

    def __call__(self, run: Run) -> Score:
        """The mean of the values."""
        return score_of(list(self.values(run)), self._seed)


def sample_rows(value: Array, batch: Batch) -> Array:
    """(samples, values) without padding; the sample axis is 0, or 1 where only that has the batch's size."""
    if batch.whole:
        return value.reshape(1, -1)
    rows = next((len(a) for a in batch.feeds.values() if a.ndim), 1)
    if value.ndim >= 2 and value.shape[0] != rows and value.shape[1] == rows:
        value = np.moveaxis(value, 1, 0)
    if value.ndim == 0 or value.shape[0] != rows:  # no sample axis: the whole counts as one
        return value.reshape(1, -1)
    return value[: batch.count].reshape(batch.count, -1)


def mean_per_sample(value: Array, batch: Batch) -> Floats:
    """The mean of the values of each sample, (samples,)."""
    mean: Floats = sample_rows(value, batch).mean(axis=1, dtype=np.float64)
    return mean


def sum_per_sample(value: Array, batch: Batch) -> Floats:
    """Their sum."""
    total: Floats = sample_rows(value, batch).sum(axis=1, dtype=np.float64)
    return total


def decibels(signal: Any, noise: Any) -> Floats:
    """10 log10(signal / noise) within +-HIGHEST_DB; equal where there is no noise."""
    signal, noise = np.asarray(signal, np.float64), np.asarray(noise, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = 10 * np.log10(signal / noise)
    found = np.where(noise == 0, HIGHEST_DB, found)
    decibels: Floats = np.clip(found, -HIGHEST_DB, HIGHEST_DB)
    return decibels


__all__ = [
    "DB_DROP",
    "DB_FLOOR",
    "HIGHEST_DB",
    "SHARE_DROP",
    "Metric",
    "Part",
    "PerSample",
    "Sampled",
    "decibels",
    "mean_per_sample",
    "sample_rows",
    "sum_per_sample",
]
