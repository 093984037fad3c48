"""The last look: what samples that no fit and no choice saw say of a result, and whether the promise holds."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array, Index
from lwgraph.calibrate import Reader, split
from lwgraph.calibrate.readers import Batch
from lwgraph.executor import Executor, Feeds, Run, in_stated_types, untimed
from lwgraph.flat import flat
from lwgraph.measure.evidence import Evidence
from lwgraph.measure.kinds import CLASSES, DETECTIONS, EMBEDDINGS
from lwgraph.measure.metrics import Metric, Part, evidence, open_metric, sample_rows
from lwgraph.measure.neighbours import LEAST_NEIGHBOURS, neighbours
from lwgraph.measure.promise import (
    BROKEN,
    CONFIDENCE,
    KEPT,
    LEAST_SPREAD,
    Verdict,
    degenerate,
    dependence,
    judge,
    judges_nothing,
    least_dependence,
    spread,
    unchanged,
)
from lwgraph.measure.remembering import remembering
from lwgraph.measure.score import Score
from lwgraph.optimizer.judge import Judge

CHOSEN_SHARE = 1 / 3  # of the samples for judging, on which candidates are compared
LOOK_RUNS = 3  # of models on all samples in one last look: the original for its score and for what judges, the result
LEAST_SAMPLES = 8  # for comparing and the last look together; of fewer, nearly every plan seems to lose nothing
LEAST_SPLIT = 3  # items from which on they are parted
FOLLOWED = 64  # samples on which dependence on the input is looked at
LEAST_JUDGED = 30  # items that judge however short the time: fewer tell nothing of a loss
TRIED_SECONDS = 0.3  # of finding out how long a sample takes, about

Compare = Callable[[Array, Array], float]


def part(reader: Reader | None, seed: int) -> tuple[Reader | None, Reader | None]:
    """The samples on which candidates are compared, and those of the last look; None where none can be kept for it."""
    if reader is None or reader.items < LEAST_SPLIT:
        return reader, None
    choose, last = split(reader, (CHOSEN_SHARE, 1 - CHOSEN_SHARE), seed)
    return choose, last


def positions(seed: int, *, last: bool) -> Part:
    """As `part`, of the samples of a function: those on which candidates are compared, or those of the last look."""

    def counted(count: int) -> Index:
        if count < LEAST_SPLIT:
            return np.arange(count)
        order, chosen = np.random.default_rng(seed).permutation(count), round(CHOSEN_SHARE * count)
        return np.sort(order[chosen:] if last else order[:chosen])

    return counted


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
    return drawn(reader, max(LEAST_JUDGED, int(seconds / one * reader.items / reader.count)), seed)


def drawn(reader: Reader, items: int, seed: int) -> Reader:
    """So many items of the reader, drawn at random; the reader itself where it has no more."""
    if items >= reader.items:
        return reader
    picks = np.random.default_rng(seed).permutation(reader.items)[:items]
    return reader.subset(sorted(int(i) for i in picks))


class LastLook:
    """Judges results on samples of their own.

    Args:
        original: the input model.
        executor: the target.
        choosing: the judge that candidates were compared by, with its metric and its promise.
        reader: the samples; None: those of the metric of `choosing`, which is a function, that its looks left out.
            Where there are none, its looks are corrected for.
        confidence: of the verdict.
        seed: of resampling.
        generated: inputs that are nothing like the samples; results must not be constant on them.

    Attributes:
        reader: the samples, or None.
        tested: plans of which one was chosen for what these samples said of it.
    """

    def __init__(
        self,
        original: ir.Model,
        executor: Executor,
        choosing: Judge,
        reader: Reader | None,
        confidence: float = CONFIDENCE,
        seed: int = 0,
        generated: Sequence[Feeds] = (),
    ) -> None:
        self._executor, self._seed, self._original = untimed(executor), seed, original
        self._plain = untimed(in_stated_types(executor))
        self.generated = [Batch(dict(feeds), _count(feeds)) for feeds in generated]
        self.choosing, self.reader, self.confidence, self.tested = choosing, reader, confidence, 1
        self._known: WeakKeyDictionary[ir.Graph, tuple[Score, Evidence]] = WeakKeyDictionary()
        self._first: LastLook | None = None
        self._metric: Metric = choosing.metric
        if reader is not None:
            self._metric = open_metric(
                choosing.metric.name, reader, lambda feeds: self._run(feeds), seed=seed, kind=choosing.kind
            )
        elif self.own:
            self._metric = open_metric(choosing.spec, part=positions(seed, last=True))

    def elsewhere(self, executor: Executor, choosing: Judge) -> LastLook:
        """A last look at results in another runtime; what is known of the original stays known.

        Args:
            executor: the runtime.
            choosing: the judge that candidates were compared by there.
        """
        made = copy.copy(self)
        made._executor, made.choosing, made._known, made.tested = untimed(executor), choosing, WeakKeyDictionary(), 1
        made._first = self._origin
        return made

    @property
    def _origin(self) -> LastLook:
        """The one that finds out what is asked of the original: once for all runtimes."""
        return self._first or self

    @cached_property
    def _run(self) -> Run:
        """Made when the last look is had: a session may hold a copy of all weights. Once for each sample: whether they
        judge anything, the score and what candidates are compared with are asked of the same outputs."""
        return remembering(self._plain.prepare(self._original))

    @property
    def own(self) -> bool:
        """Whether there are samples that no choice saw."""
        return self.reader is not None or self.choosing.metric.left_out > 0

    @property
    def base(self) -> Score:
        """The original's score on the samples."""
        return self._origin._base if self.own else self.choosing.base

    @cached_property
    def _base(self) -> Score:
        return self._metric(self._run)

    @property
    def reason(self) -> str:
        """Why the samples judge nothing; "" where they do."""
        return self._origin._reason

    @cached_property
    def _reason(self) -> str:
        if 0 < self.judged < LEAST_SAMPLES:
            return f"at least {LEAST_SAMPLES} are needed"
        reader = self.reader or self.choosing.reader
        return "" if reader is None else self._degenerate(reader)

    @property
    def judged(self) -> int:
        """All samples that judge, those by which candidates are compared, too; 0 where that is not known."""
        return self.samples + self.choosing.base.count

    @property
    def samples(self) -> int:
        """How many there are of its own."""
        if self.reader is not None:
            return self.reader.count
        return self.base.count if self.own else 0

    def evidence(self, model: ir.Model) -> Evidence:
        """What the samples say of a model's loss on inputs to come."""
        return self._found(model)[1]

    def _found(self, model: ir.Model) -> tuple[Score, Evidence]:
        if model.graph not in self._known:  # what stands in the end was among those that the look was had at
            score = self._metric(self._executor.prepare(model))
            self._known[model.graph] = score, evidence(self._metric, self.base, score, self._seed)
        return self._known[model.graph]

    def known(self, model: ir.Model | None) -> Verdict | None:
        """The verdict on a model that the look was had at; None where it was not."""
        if model is None or not self.own or model.graph not in self._known:
            return None
        return self._verdict(self._known[model.graph][1])

    def misses(self, model: ir.Model) -> bool:
        """Whether a model is known to break the promise, or the estimate says so."""
        found = self._verdict(self.evidence(model))
        return found.verdict == BROKEN or (found.verdict != KEPT and found.estimate > self.choosing.max_drop)

    def verdict(self, model: ir.Model, same: bool) -> tuple[Score, Verdict]:
        """The score of a result, and whether the promise holds for it.

        Args:
            model: the result.
            same: whether every rewrite keeps the outputs by its contract.
        """
        if same:
            return self.base, unchanged(self.confidence)
        score, found = self._found(model)
        return score, self._verdict(found)

    def _verdict(self, found: Evidence) -> Verdict:
        if self.reason:
            return judges_nothing(self.reason, found.estimate, self.judged, self.confidence)
        looks = self.tested if self.own else max(1, self.choosing.looks)
        return judge(found, self.choosing.max_drop, confidence=self.confidence, looks=looks, unit=self._metric.unit)

    # ------------------------------------------------------------ dependence on the input

    def follows(self, model: ir.Model) -> bool:
        """Whether the outputs of a model depend on the input as the original's do, as far as the promise asks.

        Each output of floats must follow the original's on samples, and vary on generated inputs, which are nothing
        like them: few samples, all of one kind, do not show that a model has become a constant.
        """
        run = self._executor.prepare(model)
        least = least_dependence(self.choosing.max_drop, self._metric.unit)
        followed = _alike(self._origin._on_samples, _rows(run, self._samples()), dependence, least)
        return followed and _alike(self._origin._on_generated, _rows(run, self.generated), spread, LEAST_SPREAD)

    def beside(self, model: ir.Model) -> dict[str, float]:
        """What else is told of a result: how its outputs correlate with the original's over samples, of 1, and of
        embeddings the share of nearest neighbours that stay."""
        mine, found = _rows(self._executor.prepare(model), self._samples()), {}
        theirs = self._origin._on_samples
        pairs = [(v, mine[n]) for n, v in theirs.items() if n in mine and mine[n].shape == v.shape]
        pairs = [(a, b) for a, b in pairs if len(a) > 1]
        if pairs:
            found["correlation"] = min(dependence(a, b) for a, b in pairs)
        kind = self.choosing.kind
        if kind is not None and kind.name == EMBEDDINGS:
            kept = [(theirs[n], mine[n]) for n in kind.outputs if n in theirs and n in mine]
            shares = [
                float(neighbours(a, b).mean()) for a, b in kept if a.shape == b.shape and len(a) >= LEAST_NEIGHBOURS
            ]
            if shares:
                found["neighbours"] = min(shares)
        return found

    def _samples(self) -> Iterator[Batch]:
        reader = self.reader or self.choosing.reader
        return iter(()) if reader is None else reader.batches()

    @cached_property
    def _on_samples(self) -> dict[str, Array]:
        return _rows(self._run, self._samples())

    @cached_property
    def _on_generated(self) -> dict[str, Array]:
        return _rows(self._run, self.generated)

    def _degenerate(self, reader: Reader) -> str:
        kind, found = self.choosing.kind, list[Array]()
        counted, constant = () if kind is None else kind.outputs, _Constant(self._run)
        for batch in reader.batches():
            outputs = flat(self._run(batch.feeds))
            constant.see(outputs, _count(batch.feeds))
            name = next((n for n in counted if n in outputs), next(iter(outputs), ""))
            found.append(sample_rows(outputs[name], batch) if name else np.zeros((batch.count, 0)))
        if len({rows.shape[1] for rows in found}) == 1:
            rows = np.concatenate(found)
            reason = degenerate(rows, self._classes(reader, rows), self.choosing.max_drop)
            if reason:
                return reason
        # What answers the same whatever comes in keeps the promise on samples that judge nothing.
        if self.base.value - self._metric(constant).value <= self.choosing.max_drop:
            what = (
                "always finds the same, or nothing,"
                if kind and kind.name == DETECTIONS
                else "always gives the same answer"
            )
            return f"a model that {what} would keep the promise on them"
        return ""

    def _classes(self, reader: Reader, rows: Array) -> Array | None:
        """The class of each sample, by its label or by the original; None where outputs are no classes."""
        kind = self.choosing.kind
        if kind is None or kind.name != CLASSES or self._metric.name not in ("top1", "agreement"):
            return None
        if reader.labels is not None and reader.labels.ndim == 1 and reader.labels.dtype.kind in "iu":
            return reader.labels
        if rows.dtype.kind == "f":
            return np.asarray(rows.argmax(axis=1)) if rows.shape[1] == kind.width else None
        return rows.ravel() if rows.shape[1] == 1 else None


def _count(feeds: Feeds) -> int:
    """Samples of one feed."""
    return next((len(value) for value in feeds.values() if np.ndim(value)), 1)


class _Constant:
    """A model that answers the same to everything: the mean output, or zeros where outputs differ in shape."""

    def __init__(self, run: Run) -> None:
        self._run, self._sums, self._counts = run, dict[str, Array](), dict[str, int]()
        self._alike = True  # whether each output is floats, of one shape for each sample

    def see(self, outputs: Mapping[str, Array], rows: int) -> None:
        """Learn from outputs of the original on a batch of so many rows."""
        for name, value in outputs.items():
            total = value.sum(axis=0, dtype=np.float64) if value.dtype.kind == "f" and value.ndim else np.zeros(0)
            known = self._sums.setdefault(name, np.zeros_like(total))
            self._alike &= value.dtype.kind == "f" and value.ndim > 0 and len(value) == rows
            if known.shape != total.shape:
                self._alike = False
                continue
            self._sums[name], self._counts[name] = known + total, self._counts.get(name, 0) + rows

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        """The same for every input."""
        if self._alike:
            rows = _count(feeds)
            means = {name: (total / self._counts[name]).astype(np.float32) for name, total in self._sums.items()}
            return {name: np.broadcast_to(mean, (rows, *mean.shape)) for name, mean in means.items()}
        return {
            name: np.full_like(value, "") if value.dtype.kind in "OUS" else np.zeros_like(value)
            for name, value in flat(self._run(feeds)).items()
        }


def _rows(run: Run, batches: Iterable[Batch]) -> dict[str, Array]:
    """The outputs of floats of up to FOLLOWED samples, (n, values); without those that differ in size."""
    found: dict[str, list[Array]] = {}
    seen = 0
    for batch in batches:
        for name, value in flat(run(batch.feeds)).items():
            if value.dtype.kind == "f":
                found.setdefault(name, []).append(sample_rows(value, batch))
        seen += batch.count
        if seen >= FOLLOWED:
            break
    return {name: np.concatenate(rows) for name, rows in found.items() if len({r.shape[1] for r in rows}) == 1}


def _alike(theirs: Mapping[str, Array], mine: Mapping[str, Array], by: Compare, least: float) -> bool:
    """Whether outputs of two or more samples are alike; one of another size is the metric's business."""
    return all(
        by(value, mine[name]) >= least
        for name, value in theirs.items()
        if len(value) > 1 and name in mine and mine[name].shape == value.shape
    )


__all__ = [
    "CHOSEN_SHARE",
    "LEAST_JUDGED",
    "LEAST_SAMPLES",
    "LOOK_RUNS",
    "LastLook",
    "affordable",
    "drawn",
    "part",
    "positions",
]
