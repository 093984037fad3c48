"""The last look: what samples that no fit and no choice saw say of a result, and whether the promise holds."""

from __future__ import annotations

import time
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.calibrate import Reader, split
from lwgraph.executor import Executor, Run, untimed
from lwgraph.measure.evidence import Evidence
from lwgraph.measure.metrics import Metric, evidence, open_metric, sample_rows
from lwgraph.measure.promise import (
    CONFIDENCE,
    Verdict,
    degenerate,
    dependence,
    judge,
    judges_nothing,
    least_dependence,
    unchanged,
)
from lwgraph.measure.score import Score
from lwgraph.optimizer.judge import Judge

CHOSEN_SHARE = 1 / 3  # of the samples for judging, on which candidates are compared
LEAST_SPLIT = 3  # items from which on they are parted
FOLLOWED = 64  # samples on which dependence on the input is looked at
LEAST_JUDGED = 30  # items that judge however short the time: fewer tell nothing of a loss
TRIED_SECONDS = 0.3  # of finding out how long a sample takes, about


def part(reader: Reader | None, seed: int) -> tuple[Reader | None, Reader | None]:
    """The samples on which candidates are compared, and those of the last look; None where none can be kept for it."""
    if reader is None or reader.items < LEAST_SPLIT:
        return reader, None
    choose, last = split(reader, (CHOSEN_SHARE, 1 - CHOSEN_SHARE), seed)
    return choose, last


def affordable(reader: Reader, run: Run, seconds: float, seed: int) -> Reader:
    """The reader, or as many of its items, drawn at random, as one pass of a model takes `seconds` for.

    Args:
        reader: the samples for judging.
        run: the original; a few samples tell how long one takes, reading included.
        seconds: what a pass may take; LEAST_JUDGED items may take more.
        seed: of the choice.
    """
    if reader.items <= LEAST_JUDGED:
        return reader
    taken, start = list[float](), time.perf_counter()
    began = start
    for batch in reader.batches():
        run(batch.feeds)
        now = time.perf_counter()
        taken.append((now - began) / batch.count)
        began = now
        if now - start > min(TRIED_SECONDS, seconds):
            break
    one = float(np.median(taken[1:] or taken))  # the first run is slower than those that follow
    count = max(LEAST_JUDGED, int(seconds / one * reader.items / reader.count))
    if count >= reader.items:
        return reader
    picks = np.random.default_rng(seed).permutation(reader.items)[:count]
    return reader.subset(sorted(int(i) for i in picks))


class LastLook:
    """Judges results on samples of their own.

    Args:
        original: the input model.
        executor: the target.
        choosing: the judge that candidates were compared by, with its metric and its promise.
        reader: the samples; None: those of `choosing` are all there are, and its looks are corrected for.
        confidence: of the verdict.
        seed: of resampling.

    Attributes:
        reader: the samples, or None.
    """

    def __init__(
        self,
        original: ir.Model,
        executor: Executor,
        choosing: Judge,
        reader: Reader | None,
        confidence: float = CONFIDENCE,
        seed: int = 0,
    ) -> None:
        self._executor, self._seed, self._original = untimed(executor), seed, original
        self.choosing, self.reader, self.confidence = choosing, reader, confidence
        self._known: WeakKeyDictionary[ir.Graph, tuple[Score, Evidence]] = WeakKeyDictionary()
        self._metric: Metric = choosing.metric
        if reader is not None:
            self._metric = open_metric(choosing.metric.name, reader, lambda feeds: self._run(feeds), seed=seed)

    @cached_property
    def _run(self) -> Run:
        """Made when the last look is had: a session may hold a copy of all weights."""
        return self._executor.prepare(self._original)

    @cached_property
    def base(self) -> Score:
        """The original's score on the samples."""
        return self.choosing.base if self.reader is None else self._metric(self._run)

    @cached_property
    def reason(self) -> str:
        """Why the samples judge nothing; "" where they do."""
        return "" if self.reader is None else self._degenerate(self.reader)

    @cached_property
    def _outputs(self) -> Array | None:
        return _outputs(self._executor.prepare(self._original), self.reader)

    @property
    def samples(self) -> int:
        """How many there are of its own."""
        return 0 if self.reader is None else self.reader.count

    def evidence(self, model: ir.Model) -> Evidence:
        """What the samples say of a model's loss on inputs to come."""
        return self._found(model)[1]

    def _found(self, model: ir.Model) -> tuple[Score, Evidence]:
        if model.graph not in self._known:  # what stands in the end was among those that the look was had at
            score = self._metric(self._executor.prepare(model))
            self._known[model.graph] = score, evidence(self._metric, self.base, score, self._seed)
        return self._known[model.graph]

    def verdict(self, model: ir.Model, same: bool) -> tuple[Score, Verdict]:
        """The score of a result, and whether the promise holds for it.

        Args:
            model: the result.
            same: whether every rewrite keeps the outputs by its contract.
        """
        if same:
            return self.base, unchanged(self.confidence)
        score, found = self._found(model)
        if self.reason:
            return score, judges_nothing(self.reason, found.estimate, found.samples, self.confidence)
        looks = 1 if self.reader is not None else max(1, self.choosing.looks)
        return score, judge(
            found, self.choosing.max_drop, confidence=self.confidence, looks=looks, unit=self._metric.unit
        )

    def follows(self, model: ir.Model) -> bool:
        """Whether the outputs of a model depend on the input as the original's do, as far as the promise asks."""
        if self._outputs is None:
            return True
        mine = _outputs(self._executor.prepare(model), self.reader)
        if mine is None or mine.shape != self._outputs.shape:
            return True  # no floats of one size for each sample; the metric says what there is to say
        return dependence(self._outputs, mine) >= least_dependence(self.choosing.max_drop, self._metric.unit)

    def _degenerate(self, reader: Reader) -> str:
        if self._outputs is None:
            return ""
        classes = None
        if self._metric.name in ("top1", "agreement"):
            classes = _classes(self._run, reader) if reader.labels is None else reader.labels
        flat = classes is not None and classes.ndim == 1 and classes.dtype.kind in "iu"
        return degenerate(self._outputs, classes if flat else None, self.choosing.max_drop)


def _classes(run: Run, reader: Reader) -> Array | None:
    """The class that a model says of each sample; None where its first output is not (n, classes)."""
    found = []
    for batch in reader.batches():
        value = np.asarray(next(iter(run(batch.feeds).values())))
        if value.ndim != 2 or value.shape[1] < 2:
            return None
        found.append(value[: batch.count].argmax(axis=1))
    return np.concatenate(found)


def _outputs(run: Run, reader: Reader | None) -> Array | None:
    """The first output of up to FOLLOWED samples, (n, values); None where it is no float or differs in size."""
    found: list[Array] = []
    for batch in () if reader is None else reader.batches():
        rows = sample_rows(np.asarray(next(iter(run(batch.feeds).values()))), batch)
        if rows.dtype.kind != "f" or (found and rows.shape[1] != found[0].shape[1]):
            return None
        found.append(rows)
        if sum(map(len, found)) >= FOLLOWED:
            break
    return np.concatenate(found) if found else None


__all__ = ["CHOSEN_SHARE", "LEAST_JUDGED", "LastLook", "affordable", "part"]
