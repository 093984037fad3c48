"""Scores candidates on data that no fit has seen, and says whether the promise holds."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.calibrate import Reader
from lwgraph.errors import UsageError, did_you_mean
from lwgraph.executor import Executor, Run, in_stated_types, untimed
from lwgraph.measure import METRICS, Metric, Score, open_metric, suggest
from lwgraph.measure.evidence import Evidence
from lwgraph.measure.kinds import CLASSES, DETECTIONS, METRIC_OF, SYMBOLS, OutputKind, find_kind
from lwgraph.measure.metrics import HIGHEST_DB, Part, evidence
from lwgraph.measure.promise import Verdict, amount, judge
from lwgraph.measure.remembering import remembering
from lwgraph.objects import is_object_name
from lwgraph.optimizer.racing import Raced, open_race
from lwgraph.report import ScoreRecord

ROUNDING = 1e-9
COMPARING = METRICS.keys() - {"top1"}
# Metrics that say what the outputs are.
_KIND_OF = {"top1": CLASSES} | {METRIC_OF[kind]: kind for kind in (CLASSES, DETECTIONS, SYMBOLS)}


def check_metric(spec: Any) -> None:
    """UsageError for a metric that does not exist, before any work is done."""
    if isinstance(spec, str) and not is_object_name(spec) and spec not in METRICS:
        raise UsageError(f"no metric is named '{spec}'{did_you_mean(spec, METRICS)}; or module:function")


def _find_kind(original: ir.Model, reader: Reader, run: Run, spec: Any, stated: str | None) -> OutputKind:
    """The kind that the user states, else the one that the metric is for where outputs can be that, else any."""
    if stated is None and spec in _KIND_OF:
        with suppress(UsageError):
            return find_kind(original, reader, run, _KIND_OF[spec])
    return find_kind(original, reader, run, stated)


class Judge:
    """A metric bound to a runtime and to the original model's score.

    Attributes:
        reader: the samples; None: the metric brings its own.
        spec: of the metric, for `open_metric`.
        kind: of the outputs, which chooses the metric where the user names none; None: the metric brings its own data.
        max_drop: the promise; the user's, else what the metric allows by itself, times `factor` (of the noise, in dB).
        looks: how many candidates were scored.
        race: drops candidates before all samples have judged them.
        seconds: that scoring the original took, of running it once.
    """

    def __init__(
        self,
        original: ir.Model,
        executor: Executor,
        reader: Reader | None,
        spec: Any,
        max_drop: float | None,
        seed: int,
        factor: float = 1.0,
        output_kind: str | None = None,
        part: Part | None = None,
    ) -> None:
        run = untimed(in_stated_types(executor)).prepare(original)  # losses are against the model as it is written
        executor = untimed(executor)
        self.kind: OutputKind | None = None
        if reader is not None:
            if not callable(spec) and not is_object_name(str(spec)):
                self.kind = _find_kind(original, reader, run, spec, output_kind)
                spec = suggest(reader, self.kind) if spec is None else spec
            # Whatever order the samples came in, a race must not know it.
            reader = reader.subset(np.random.default_rng(seed).permutation(reader.items).tolist())
        self._executor, self.reader, self.spec = executor, reader, spec
        if spec in COMPARING:  # with the original's outputs, and its own are no others
            run = remembering(run)
        self.metric: Metric = open_metric(spec, reader, run, seed=seed, kind=self.kind, part=part)
        self.race = open_race(self.metric)
        start = time.perf_counter()
        self.base: Score = self.metric(self.race.original(run))
        self.seconds = time.perf_counter() - start
        self.stated = max_drop is not None
        if max_drop is None:
            max_drop = self.metric.allowed(self.base)
            max_drop = max_drop + 10 * math.log10(factor) if self.near else factor * max_drop
        self.max_drop = max_drop
        self.looks = 0
        self.race.start(self.base, self.floor)

    @property
    def floor(self) -> float:
        """The least score that keeps the promise; a loss of just max_drop does, however it is rounded."""
        return self.base.value - self.max_drop - ROUNDING

    @property
    def near(self) -> bool:
        """Whether the metric is in dB against the original."""
        return self.metric.unit == "dB" and self.base.value >= HIGHEST_DB

    @property
    def told(self) -> str:
        """What is judged, by what, and what is promised of it, in one line."""
        who = "" if self.stated else " by default"
        if self.near:
            promise = f"at least {HIGHEST_DB - self.max_drop:.3g} dB{who}"
        else:
            promise = f"at most {amount(self.max_drop, self.metric.unit)} lost{who}"
        what = "" if self.kind is None else f"{self.kind}; "
        return f"{what}judged by {self.metric.name}, {promise}"

    def elsewhere(self, executor: Executor) -> Judge:
        """A judge of candidates in another runtime, by the same samples, metric and scores of the original."""
        made = copy.copy(self)
        made._executor, made.looks = untimed(executor), 0
        made.race = copy.copy(self.race)
        made.race.dropped = 0
        return made

    def score(self, model: ir.Model) -> Score:
        """The metric of a candidate, in the target runtime."""
        self.looks += 1
        return self.metric(self._executor.prepare(model))

    def raced(self, model: ir.Model) -> Raced:
        """The metric of a candidate, which is dropped as soon as it surely breaks the promise."""
        self.looks += 1
        return self.race.run(self._executor.prepare(model))

    def expected(self, score: Score) -> float:
        """The score on inputs to come, as far as these samples say: what candidates are compared by.

        A classifier's margins tell plans apart on few samples, where counts are 0 for most of them.
        """
        if self.base.margins is None or score.margins is None:
            return score.value
        return self.base.value - self.evidence(score).estimate

    def evidence(self, score: Score) -> Evidence:
        """What these samples say of a candidate's loss."""
        return evidence(self.metric, self.base, score)

    def verdict(self, score: Score, confidence: float) -> Verdict:
        """What these samples say of the promise for a candidate, corrected for all candidates that they have judged."""
        looks = max(1, self.looks)
        return judge(self.evidence(score), self.max_drop, confidence=confidence, looks=looks, unit=self.metric.unit)

    def value(self, model: ir.Model) -> float:
        """As `expected`, of a model, for searching."""
        return self.expected(self.score(model))

    def record(
        self, base: Score, score: Score, verdict: Verdict, beside: Mapping[str, float] | None = None
    ) -> ScoreRecord:
        """What the report says of the original's and the result's scores in the last look.

        Args:
            base, score: of both.
            verdict: on the promise.
            beside: what else was measured of the result.
        """
        low, high = verdict.lower, verdict.bound
        place = "" if self.reader is None or not score.count else f"Judged on {self.reader.place}."
        return ScoreRecord(
            name=self.metric.name,
            unit={"share": "of 1", "dB": "dB"}.get(self.metric.unit, ""),
            samples=score.count or None,
            before=base.value,
            after=score.value,
            drop=round(base.value - score.value, 9),
            max_drop=self.max_drop,
            drop_interval=None if low is None or high is None else (low, high),
            judged_on=place,
            looks=self.looks,
            verdict=verdict.verdict,
            estimate=verdict.estimate,
            bound=high,
            lower=low,
            confidence=verdict.confidence,
            samples_needed=verdict.samples_needed,
            method=verdict.method,
            text=verdict.text,
            output_kind="" if self.kind is None else self.kind.name,
            judged="" if self.kind is None else str(self.kind),
            beside=dict(beside or {}),
        )
