"""Task metrics, higher is better: top-1 with labels, likeness to the original by the kind of output, or a function."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lwgraph.arrays import Array, Floats, Index
from lwgraph.calibrate.store import Store
from lwgraph.errors import DataError, LwgraphError, UsageError, did_you_mean
from lwgraph.measure import detections, symbols
from lwgraph.measure.evidence import Evidence, OneNumber, Resampled, paired
from lwgraph.measure.flat import flat
from lwgraph.measure.kinds import CLASSES, METRIC_OF, OutputKind, axis_of_classes
from lwgraph.measure.margins import margins
from lwgraph.measure.neighbours import LEAST_NEIGHBOURS, neighbours
from lwgraph.measure.score import Score, Values, bootstrap, mean_score, score_of
from lwgraph.objects import is_object_name, load_object

if TYPE_CHECKING:
    from lwgraph.calibrate.readers import Batch, Reader
    from lwgraph.executor import Run

SHARE_DROP = 0.01  # the loss allowed where the user states none: one point
EMBEDDING_DROP = 0.02  # of what sets embeddings apart: about 86 % of nearest neighbours stay, see docs/promises.md
RETRIEVAL_DROP = 0.14  # the same, as the share of nearest neighbours that go
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


def open_metric(
    spec: str | Callable[..., Any],
    reader: Reader | None = None,
    original: Run | None = None,
    *,
    output: str | None = None,
    seed: int = 0,
    kind: OutputKind | None = None,
    part: Part | None = None,
) -> Metric:
    """A metric by name.

    Args:
        spec: "top1" (needs labels), "agreement", "cosine", "detections", "psnr", "retrieval", "sqnr", "symbols",
            "variance" (need the original), `module:function` or a function: function(run) -> float, higher is better,
            where run(feeds: dict) -> dict executes the model.
        reader: the samples; not needed by a function.
        original: runs the original model. psnr compares with the labels instead where these are images.
        output: which output counts; None: those of `kind` where the metric is that kind's, else the first for top1
            and agreement, the worst for the distances.
        seed: of the bootstrap.
        kind: of the outputs; `detections` and `symbols` cannot be decoded without.
        part: which of the samples of a function count, where it tells them apart; None: all.

    Raises:
        UsageError: no such metric, or it needs what is missing.
        DataError: importing the user's module failed.
    """
    if callable(spec):
        return FunctionMetric(spec, getattr(spec, "__name__", "metric"), part)
    if is_object_name(spec):
        function = load_object(spec, "--metric")
        if not callable(function):
            raise UsageError(f"--metric '{spec}' is a {type(function).__name__}; it must be a function(run) -> float")
        return FunctionMetric(function, spec, part)
    if spec not in METRICS:
        raise UsageError(f"no metric is named '{spec}'{did_you_mean(spec, METRICS)}; or module:function")
    if reader is None:
        raise UsageError(f"metric '{spec}' needs samples; give --eval-data or --data")
    chosen = METRICS[spec]
    if chosen is Top1 and reader.labels is None:
        raise UsageError(
            f"metric 'top1' needs labels, {reader.place} has none (class subfolders or a 'labels' array); "
            "'agreement' needs none"
        )
    if chosen is not Top1 and original is None:
        raise UsageError(f"metric '{spec}' compares with the original model, which is missing")
    return chosen(reader, original, output, seed, kind)


def suggest(reader: Reader, kind: OutputKind) -> str:
    """The metric that suits the outputs and the data: top1 where the labels are classes, else that of the kind."""
    labels = reader.labels
    listed = labels is not None and labels.dtype.kind in "iu" and labels.ndim == 1
    if kind.name == CLASSES and labels is not None and listed and 0 <= labels.min() <= labels.max() < kind.width:
        return "top1"
    return METRIC_OF[kind.name]


class _Sampled(Metric):
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


class _PerSample(_Sampled):
    """A metric with one value for each sample."""

    per_sample = True

    def __call__(self, run: Run) -> Score:
        """The mean of the values."""
        return score_of(list(self.values(run)), self._seed)


class Top1(_PerSample):
    """The share of samples (pixels, for label maps) whose highest class is the label."""

    name = "top1"
    unit = "share"
    span = 1.0

    def values(self, run: Run) -> Iterator[Values]:
        """One correct or wrong per sample."""
        self._original = None  # labels are compared with, and a session may hold a copy of all weights
        for _, batch, outputs in self._outputs(run):
            name, value = next(iter(outputs.items()))
            assert batch.labels is not None
            yield Values(self._correct(name, value, batch.labels, batch.count), _margins(value, batch, batch.labels))

    def _correct(self, name: str, value: Array, labels: Array, count: int) -> Floats:
        if value.dtype.kind in "iu":  # the model ends in ArgMax
            predicted = value
        else:
            axis = class_axis(value, name)
            if labels.shape == value[:count].shape:  # one-hot
                labels = labels.argmax(axis)
            outside = (labels < 0) | (labels >= value.shape[axis])
            if outside.any():
                raise DataError(
                    f"label {labels[outside].flat[0]} is not one of the {value.shape[axis]} classes of "
                    f"output '{name}' (0 to {value.shape[axis] - 1})"
                )
            predicted = value.argmax(axis)
        predicted = predicted[:count]
        if predicted.shape != labels.shape:
            if predicted.size != labels.size:
                raise DataError(
                    f"output '{name}' has shape {list(value.shape)}; top1 needs one class per label, whose "
                    f"shape is {list(labels.shape)}; use agreement, or --metric module:function"
                )
            predicted = predicted.reshape(labels.shape)
        right: Floats = (predicted == labels).reshape(count, -1).mean(axis=1)
        return right


class Agreement(_PerSample):
    """The share of positions (one per sample, for a classifier) whose highest class is the original's. No labels.

    Integer, bool and string outputs are compared as they are.
    """

    name = "agreement"
    unit = "share"
    span = 1.0
    to_original = True

    def values(self, run: Run) -> Iterator[Values]:
        """One share of equal positions per sample; of several outputs that are classes, the least."""
        originals = self._kept(self._classes)
        for (_, batch, outputs), original in zip(self._outputs(run), originals, strict=True):
            mine, shares = self._classes(outputs), []
            for name, theirs in original.items():
                if mine[name].shape != theirs.shape:
                    raise DataError(
                        f"output '{name}' gives classes of shape {list(mine[name].shape)}, the original's "
                        f"{list(theirs.shape)}"
                    )
                shares.append(_per_sample(mine[name] == theirs, batch))
            one = len(shares) == 1 and not batch.whole
            apart = _margins(outputs[name], batch, theirs[: batch.count]) if one else None
            yield Values(np.min(shares, axis=0), apart)

    def _classes(self, outputs: dict[str, Array]) -> dict[str, Array]:
        counted = self._counting or tuple(outputs)[:1]
        return {
            name: value.argmax(class_axis(value, name)) if value.dtype.kind == "f" else value
            for name, value in outputs.items()
            if name in counted
        }


class Detections(_PerSample):
    """The share of detections that original and model have in common; see `lwgraph.measure.detections.likeness`."""

    name = "detections"
    unit = "share"
    span = 1.0
    to_original = True

    def values(self, run: Run) -> Iterator[Values]:
        """One share per sample; 1 where neither finds anything."""
        originals = self._kept(lambda outputs: outputs)
        for (_, batch, outputs), original in zip(self._outputs(run), originals, strict=True):
            mine, theirs = self._decoded(outputs, batch), self._decoded(original, batch)
            yield Values(np.array([detections.likeness(a, b) for a, b in zip(theirs, mine, strict=True)]))

    def _decoded(self, outputs: dict[str, Array], batch: Batch) -> list[detections.Found]:
        kind = self._kind
        if kind is None or kind.layout is None:
            raise UsageError("metric 'detections' needs outputs with boxes and scores; none were found in this model")
        rows = next((len(a) for a in batch.feeds.values() if a.ndim), 1)
        least = detections.LEAST_SCORE / 2
        return detections.decode(outputs, kind.layout, kind.size, rows, least)[: batch.count]


class Symbols(_PerSample):
    """How alike the decoded sequences of symbols are: 1 less the edit distance over the longer one's length."""

    name = "symbols"
    unit = "share"
    span = 1.0
    to_original = True

    def values(self, run: Run) -> Iterator[Values]:
        """One likeness per sample."""
        originals = self._kept(self._leading)
        for (_, batch, outputs), original in zip(self._outputs(run), originals, strict=True):
            mine, theirs = (next(iter(each.values())) for each in (self._leading(outputs), original))
            alike = [symbols.likeness(self._text(a), self._text(b)) for a, b in zip(theirs, mine, strict=True)]
            yield Values(np.array(alike[: batch.count]))

    def _leading(self, outputs: dict[str, Array]) -> dict[str, Array]:
        """The leading symbol of each step, (samples, steps)."""
        name, value = next(iter(outputs.items()))
        if value.ndim != (3 if value.dtype.kind == "f" else 2):
            raise DataError(
                f"output '{name}' has shape {list(value.shape)}: no sequence of symbols; use another --output-kind"
            )
        steps_first = self._kind is not None and self._kind.steps_first
        return {name: symbols.by_sample(value, steps_first).argmax(-1) if value.dtype.kind == "f" else value}

    def _text(self, leading: Array) -> Array:
        return symbols.decode(leading, self._kind.blank if self._kind else None)


class _Nearness(_Sampled):
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


class Sqnr(_Nearness):
    """Signal to quantization noise over all samples: 10 log10(sum original^2 / sum difference^2), at most 100 dB."""

    name = "sqnr"
    unit = "dB"

    def __call__(self, run: Run) -> Score:
        """The energies of all samples in one ratio."""
        energies: dict[str, list[Floats]] = {}
        for batch, pairs in self._pairs(run):
            for name, (theirs, mine) in pairs.items():
                signal, noise = (_sum_per_sample(v, batch) for v in (np.square(theirs), np.square(theirs - mine)))
                energies.setdefault(name, []).append(np.stack([signal, noise], axis=1))
        joined = {name: np.concatenate(parts) for name, parts in energies.items()}
        worst = min(joined.values(), key=lambda e: float(_decibels(e.sum(0)[0], e.sum(0)[1])))
        value = float(_decibels(worst.sum(0)[0], worst.sum(0)[1]))
        low, high = bootstrap(lambda e: _decibels(e[..., 0].sum(-1), e[..., 1].sum(-1)), worst, self._seed)

        def subset(at: Index) -> float:
            return float(_decibels(worst[at, 0].sum(), worst[at, 1].sum()))

        return Score(value, low, high, len(worst), subset=subset)


class Variance(_Nearness):
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
                signal, noise = (_sum_per_sample(np.square(v), batch) for v in (theirs - means[name], theirs - mine))
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


class Cosine(_Nearness):
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
                product, a, b = (_sum_per_sample(v, batch) for v in (theirs * mine, theirs * theirs, mine * mine))
                length = np.sqrt(a * b)
                cosines = np.where(length > 0, product / np.where(length > 0, length, 1), (a == b).astype(float))
                found.setdefault(name, []).append(np.clip(cosines, -1, 1))
        joined = {name: np.concatenate(parts) for name, parts in found.items()}
        return mean_score(min(joined.values(), key=lambda v: float(v.mean())), self._seed)


class Retrieval(_Nearness):
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


class Psnr(_Nearness):
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
                errors.setdefault(name, []).append(_per_sample(np.square(theirs - mine), batch))
        scores = [
            _decibels((ranges[name][1] - ranges[name][0]) ** 2, np.concatenate(parts)) for name, parts in errors.items()
        ]
        return mean_score(min(scores, key=lambda v: float(v.mean())), self._seed)

    def _against_labels(self, run: Run, peak: float) -> Score:
        found = []
        for _, batch, outputs in self._outputs(run):
            name, value = next(iter(outputs.items()))
            assert batch.labels is not None
            if value[: batch.count].shape != batch.labels.shape:
                raise DataError(f"output '{name}' has shape {list(value.shape)}, its labels {list(batch.labels.shape)}")
            clipped = np.clip(value[: batch.count].astype(np.float64), 0, peak)
            found.append(_decibels(peak**2, _per_sample(np.square(clipped - batch.labels), batch)))
        return mean_score(np.concatenate(found), self._seed)


class FunctionMetric(Metric):
    """The user's function(run) -> float, or one value for each of its samples, of which the mean counts.

    Of a function of another kind nothing is known but a number, unless it takes `samples=` (positions, which may come
    several times) and tells how many it has as its attribute `count`: it is then called for resampled sets, with the
    outputs of the model remembered.
    """

    unit = ""

    def __init__(self, function: Callable[..., Any], name: str, part: Part | None = None) -> None:
        self._function, self.name, self._part = function, name, part

    def __call__(self, run: Run) -> Score:
        """Call the function; any exception becomes a one-line error."""
        count = getattr(self._function, "count", None)
        if isinstance(count, int) and count > 0:
            counted, remembered = self._counted(count), _remembering(run)

            def subset(at: Index) -> float:
                return float(self._value(remembered, samples=counted[at]))

            everything = self.left_out == 0
            number = float(self._value(remembered)) if everything else subset(np.arange(len(counted)))
            return Score(number, count=len(counted), subset=subset)
        value = self._value(run)
        return mean_score(value[self._counted(len(value))]) if value.ndim else Score(float(value))

    def _counted(self, count: int) -> Index:
        """The positions that count, of so many."""
        counted = np.arange(count) if self._part is None else self._part(count)
        self.left_out = count - len(counted)
        return counted

    def _value(self, run: Run, **samples: Any) -> Floats:
        """The number, of no dimension, or one for each sample."""
        try:
            found = self._function(run, **samples)
            many = isinstance(found, (np.ndarray, list, tuple)) and np.ndim(found) == 1 and len(found) > 1
            value: Floats = np.asarray(found if many else float(found), np.float64)
        except LwgraphError:
            raise
        except Exception as error:
            text = " ".join(str(error).split())
            raise DataError(f"metric '{self.name}' raised {type(error).__name__}: {text}") from error
        if np.isnan(value).any():
            raise DataError(f"metric '{self.name}' returned NaN")
        return value


def _remembering(run: Run) -> Run:
    """The run, which computes the outputs of the same inputs only once."""
    known: dict[bytes, dict[str, Array]] = {}

    def remembered(feeds: Mapping[str, Any]) -> dict[str, Array]:
        digest = hashlib.blake2b(digest_size=16)
        for name, value in feeds.items():
            array = np.ascontiguousarray(value)
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
        key = digest.digest()
        if key not in known:
            known[key] = run(feeds)
        return known[key]

    return remembered


def evidence(metric: Metric, base: Score, new: Score, seed: int = 0) -> Evidence:
    """What the scores of the original and of a candidate, on the same samples, say of the loss on inputs to come."""
    if base.samples is not None and new.samples is not None and len(base.samples) == len(new.samples):
        apart = None if base.margins is None or new.margins is None else (base.margins, new.margins)
        return paired(base.samples, new.samples, metric.span, original=metric.to_original, apart=apart)
    before, after = base.subset, new.subset
    if before is not None and after is not None and base.count == new.count:
        return Resampled.of(lambda at: before(at) - after(at), new.count, seed)
    return OneNumber(base.value - new.value, new.count)


METRICS: dict[str, type[_Sampled]] = {
    "agreement": Agreement,
    "cosine": Cosine,
    "detections": Detections,
    "psnr": Psnr,
    "retrieval": Retrieval,
    "sqnr": Sqnr,
    "symbols": Symbols,
    "top1": Top1,
    "variance": Variance,
}


def class_axis(value: Array, name: str) -> int:
    """Which axis holds the classes: the last of (n, c) and of sequences (t, n, c); 1 of (n, c, 1, 1) and maps.

    Raises:
        DataError: there is none, or it has a single class.
    """
    if value.ndim < 2:
        raise DataError(f"output '{name}' has shape {list(value.shape)}: no axis of classes")
    axis = axis_of_classes(value)
    if value.shape[axis] < 2:
        raise DataError(f"output '{name}' has shape {list(value.shape)}: a single class on axis {axis}")
    return axis


def _margins(value: Array, batch: Batch, classes: Array) -> Floats | None:
    """How far each sample's answer is from another; None unless there is one class of known scores for each."""
    if value.dtype.kind != "f" or value.ndim < 2 or value.shape[1] < 2 or math.prod(value.shape[2:]) != 1:
        return None
    found = classes.reshape(-1)
    if found.dtype.kind not in "iu" or len(found) != batch.count:
        return None
    return margins(value[: batch.count].reshape(batch.count, -1), found)


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


def _per_sample(value: Array, batch: Batch) -> Floats:
    mean: Floats = sample_rows(value, batch).mean(axis=1, dtype=np.float64)
    return mean


def _sum_per_sample(value: Array, batch: Batch) -> Floats:
    total: Floats = sample_rows(value, batch).sum(axis=1, dtype=np.float64)
    return total


def _decibels(signal: Any, noise: Any) -> Floats:
    """10 log10(signal / noise) within +-HIGHEST_DB; equal where there is no noise."""
    signal, noise = np.asarray(signal, np.float64), np.asarray(noise, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = 10 * np.log10(signal / noise)
    found = np.where(noise == 0, HIGHEST_DB, found)
    decibels: Floats = np.clip(found, -HIGHEST_DB, HIGHEST_DB)
    return decibels
