"""Metrics by name, which of them suits a model and its data, and what their scores say of a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lwgraph.errors import UsageError, did_you_mean
from lwgraph.measure.evidence import Evidence, OneNumber, Resampled, paired
from lwgraph.measure.kinds import CLASSES, METRIC_OF, OutputKind
from lwgraph.measure.metrics.answers import Agreement, Detections, Symbols, Top1
from lwgraph.measure.metrics.base import Metric, Part, Sampled
from lwgraph.measure.metrics.function import FunctionMetric
from lwgraph.measure.metrics.nearness import Cosine, Psnr, Retrieval, Sqnr, Variance
from lwgraph.measure.score import Score
from lwgraph.objects import is_object_name, load_object

if TYPE_CHECKING:
    from lwgraph.calibrate.readers import Reader
    from lwgraph.executor import Run

METRICS: dict[str, type[Sampled]] = {
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


def evidence(metric: Metric, base: Score, new: Score, seed: int = 0) -> Evidence:
    """What the scores of the original and of a candidate, on the same samples, say of the loss on inputs to come."""
    if base.samples is not None and new.samples is not None and len(base.samples) == len(new.samples):
        apart = None if base.margins is None or new.margins is None else (base.margins, new.margins)
        return paired(base.samples, new.samples, metric.span, original=metric.to_original, apart=apart)
    before, after = base.subset, new.subset
    if before is not None and after is not None and base.count == new.count:
        return Resampled.of(lambda at: before(at) - after(at), new.count, seed)
    return OneNumber(base.value - new.value, new.count)


__all__ = ["METRICS", "evidence", "open_metric", "suggest"]
