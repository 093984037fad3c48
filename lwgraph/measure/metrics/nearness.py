"""Metrics of how near outputs are to the original's: errors of all numbers, directions, neighbours."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from lwgraph.arrays import Array, Floats, Index
from lwgraph.errors import DataError
from lwgraph.measure.metrics.base import Sampled, decibels, mean_per_sample, sample_rows, sum_per_sample
from lwgraph.measure.neighbours import LEAST_NEIGHBOURS, neighbours
from lwgraph.measure.score import Score, bootstrap, mean_score

if TYPE_CHECKING:
    from lwgraph.calibrate.readers import Batch
    from lwgraph.executor import Run

EMBEDDING_DROP = 0.02  # of what sets embeddings apart: about 86 % of nearest neighbours stay, see docs/promises.md
RETRIEVAL_DROP = 0.14  # the same, as the share of nearest neighbours that go


class Nearness(Sampled):
    """A metric of how near outputs are to the original's; the worst output counts."""

    def _pairs(self, run: Run) -> Iterator[tuple[Batch, dict[str, tuple[Array, Array]]]]:
        originals = self._kept(lambda outputs: outputs)
        for (_, batch, outputs), original in zip(self._outputs(run), originals, strict=True):
            pairs = {}
            for name, theirs in original.items():
                if theirs.dtype.kind != "f":
                    continue
                if name not in outputs or outputs[name].shape != theirs.shape:
                    shape = list(outputs[name].shape) if name in outputs else "nothing"
                    raise DataError(f"output '{name}' is {shape}, the original's {list(theirs.shape)}")
                pairs[name] = (theirs.astype(np.float64), outputs[name].astype(np.float64))
            if not pairs:
                raise DataError(f"metric '{self.name}' needs a floating-point output, there is none; use agreement")
            yield batch, pairs


class Sqnr(Nearness):
    """Signal to quantization noise over all samples: 10 log10(sum original^2 / sum difference^2), at most 100 dB."""

    name = "sqnr"
    unit = "dB"

    def __call__(self, run: Run) -> Score:
        """The energies of all samples in one ratio."""
        energies: dict[str, list[Floats]] = {}
        for batch, pairs in self._pairs(run):
            for name, (theirs, mine) in pairs.items():
                signal, noise = (sum_per_sample(v, batch) for v in (np.square(theirs), np.square(theirs - mine)))
                energies.setdefault(name, []).append(np.stack([signal, noise], axis=1))
        joined = {name: np.concatenate(parts) for name, parts in energies.items()}
        worst = min(joined.values(), key=lambda e: float(decibels(e.sum(0)[0], e.sum(0)[1])))
        value = float(decibels(worst.sum(0)[0], worst.sum(0)[1]))
        low, high = bootstrap(lambda e: decibels(e[..., 0].sum(-1), e[..., 1].sum(-1)), worst, self._seed)

        def subset(at: Index) -> float:
            return float(decibels(worst[at, 0].sum(), worst[at, 1].sum()))

        return Score(value, low, high, len(worst), subset=subset)


class Variance(Nearness):
    """The share of the outputs' variance over the samples that is kept: 1 - sum difference^2 / sum deviation^2.

    The deviation of an element is that from its mean over the samples; from the mean of all elements where there is one
    sample, or samples differ in shape.
    """

    name = "variance"
    unit = "share"

    def __call__(self, run: Run) -> Score:
        """The energies of all samples in one ratio; what does not vary at all is kept where it stays the same."""
        means = self._means()
        energies: dict[str, list[Floats]] = {}
        for batch, pairs in self._pairs(run):
            for name, (theirs, mine) in pairs.items():
                signal, noise = (sum_per_sample(np.square(v), batch) for v in (theirs - means[name], theirs - mine))
                energies.setdefault(name, []).append(np.stack([signal, noise], axis=1))
        joined = {name: np.concatenate(parts) for name, parts in energies.items()}

        def kept(table: Floats) -> Floats:
            signal, noise = table[..., 0].sum(-1), table[..., 1].sum(-1)
            share = 1 - noise / np.where(signal > 0, signal, 1)
            found: Floats = np.maximum(np.where(signal > 0, share, np.where(noise == 0, 1.0, -1.0)), -1.0)
            return found

        worst = min(joined.values(), key=lambda table: float(kept(table)))
        low, high = bootstrap(kept, worst, self._seed)
        return Score(
            float(kept(worst)), low, high, len(worst), subset=lambda at: float(kept(np.asarray(worst[at], np.float64)))
        )

    def _means(self) -> dict[str, Floats]:
        sums: dict[str, Floats] = {}
        rows: dict[str, int] = {}
        alike: dict[str, bool] = {}
        for outputs in self._kept(lambda outputs: outputs):
            for name, value in outputs.items():
                if value.dtype.kind != "f":
                    continue
                total = value.sum(axis=0, dtype=np.float64) if value.ndim else np.float64(value)
                alike[name] = alike.get(name, True) and (name not in sums or sums[name].shape == total.shape)
                sums[name] = sums.get(name, 0.0) + total if alike[name] else np.asarray(0.0)
                rows[name] = rows.get(name, 0) + (len(value) if value.ndim else 1)
        for name in sums:
            if not alike[name] or rows[name] < 2:
                values = [o[name].ravel() for o in self._kept(lambda outputs: outputs) if name in o]
                sums[name], rows[name] = np.asarray(np.concatenate(values).mean(dtype=np.float64)), 1
        return {name: np.asarray(total / rows[name]) for name, total in sums.items()}


class Cosine(Nearness):
    """The mean over samples of the cosine between output and original."""

    name = "cosine"
    unit = "share"
    span = 2.0
    to_original = True

    def allowed(self, base: Score) -> float:
        """Two points of what sets the original's outputs apart: 1 less the mean cosine between those of two samples.

        Vectors that all lie in a narrow cone are told apart by little, so little may change.
        """
        apart = [1.0]
        for name in self._counting or ("",):
            rows = []
            for outputs in self._kept(lambda outputs: outputs):
                value = outputs.get(name) if name else next((v for v in outputs.values() if v.dtype.kind == "f"), None)
                if value is not None and value.dtype.kind == "f" and value.ndim >= 2:
                    steps = value.reshape(len(value), -1, value.shape[-1]).mean(axis=1, dtype=np.float64)
                    rows.append(steps / np.maximum(np.linalg.norm(steps, axis=1, keepdims=True), 1e-30))
            if sum(map(len, rows)) > 1 and len({r.shape[1] for r in rows}) == 1:
                joined = np.concatenate(rows)
                n = len(joined)
                apart.append(1 - (float(np.sum(joined.sum(axis=0) ** 2)) - n) / (n * (n - 1)))
        return EMBEDDING_DROP * min(1.0, max(0.0, min(apart)))

    def __call__(self, run: Run) -> Score:
        """One cosine per sample; two zero outputs count as equal."""
        found: dict[str, list[Floats]] = {}
        for batch, pairs in self._pairs(run):
            for name, (theirs, mine) in pairs.items():
                product, a, b = (sum_per_sample(v, batch) for v in (theirs * mine, theirs * theirs, mine * mine))
                length = np.sqrt(a * b)
                cosines = np.where(length > 0, product / np.where(length > 0, length, 1), (a == b).astype(float))
                found.setdefault(name, []).append(np.clip(cosines, -1, 1))
        joined = {name: np.concatenate(parts) for name, parts in found.items()}
        return mean_score(min(joined.values(), key=lambda v: float(v.mean())), self._seed)


class Retrieval(Nearness):
    """The share of the ten nearest neighbours of each embedding, among all samples, that are the original's."""

    name = "retrieval"
    unit = "share"
    to_original = True

    def allowed(self, base: Score) -> float:
        """What the floor of cosines stands for: see EMBEDDING_DROP."""
        return RETRIEVAL_DROP

    def __call__(self, run: Run) -> Score:
        """One share per sample; the worst output counts."""
        found: dict[str, list[tuple[Array, Array]]] = {}
        for batch, pairs in self._pairs(run):
            for name, pair in pairs.items():
                theirs, mine = (sample_rows(value, batch) for value in pair)
                found.setdefault(name, []).append((theirs, mine))
        shares = []
        for name, rows in found.items():
            if len({theirs.shape[1] for theirs, _ in rows}) > 1:
                raise DataError(f"metric 'retrieval' compares embeddings; output '{name}' differs in length by sample")
            theirs, mine = (np.concatenate([pair[side] for pair in rows]) for side in (0, 1))
            if len(theirs) < LEAST_NEIGHBOURS:
                raise DataError(
                    f"metric 'retrieval' looks for neighbours among the samples; there are {len(theirs)}, "
                    f"at least {LEAST_NEIGHBOURS} are needed"
                )
            shares.append(neighbours(theirs, mine))
        return mean_score(min(shares, key=lambda v: float(v.mean())), self._seed)


class Psnr(Nearness):
    """The mean over samples of 10 log10(peak^2 / mean squared error), at most 100 dB.

    Against the labels where these are images of the output's shape (peak 1, or 255 when they exceed 1.5), otherwise
    against the original (peak: the range of its output over the samples).
    """

    name = "psnr"
    unit = "dB"

    def __call__(self, run: Run) -> Score:
        """One value per sample."""
        labels = self._reader.labels
        if labels is not None and labels.ndim >= 3:
            return self._against_labels(run, 255.0 if labels.max() > 1.5 else 1.0)
        errors: dict[str, list[Floats]] = {}
        ranges: dict[str, tuple[float, float]] = {}
        for batch, pairs in self._pairs(run):
            for name, (theirs, mine) in pairs.items():
                low, high = ranges.get(name, (math.inf, -math.inf))
                ranges[name] = (min(low, float(theirs.min())), max(high, float(theirs.max())))
                errors.setdefault(name, []).append(mean_per_sample(np.square(theirs - mine), batch))
        scores = [
            decibels((ranges[name][1] - ranges[name][0]) ** 2, np.concatenate(parts)) for name, parts in errors.items()
        ]
        return mean_score(min(scores, key=lambda v: float(v.mean())), self._seed)

    def _against_labels(self, run: Run, peak: float) -> Score:
        found = []
        for _, batch, outputs in self._outputs(run):
            name, value = next(iter(outputs.items()))
            assert batch.labels is not None
            rows = np.atleast_1d(value)[: batch.count]
            if rows.shape != batch.labels.shape:
                raise DataError(f"output '{name}' has shape {list(value.shape)}, its labels {list(batch.labels.shape)}")
            clipped = np.clip(rows.astype(np.float64), 0, peak)
            found.append(decibels(peak**2, mean_per_sample(np.square(clipped - batch.labels), batch)))
        return mean_score(np.concatenate(found), self._seed)


__all__ = ["EMBEDDING_DROP", "RETRIEVAL_DROP", "Cosine", "Psnr", "Retrieval", "Sqnr", "Variance"]
