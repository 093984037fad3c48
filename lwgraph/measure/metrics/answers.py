"""Metrics of answers, one value for each sample: the class, the objects, or the text that a model gives."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from lwgraph.arrays import Array, Floats
from lwgraph.errors import DataError, UsageError
from lwgraph.measure import detections, symbols
from lwgraph.measure.kinds import axis_of_classes
from lwgraph.measure.margins import margins
from lwgraph.measure.metrics.base import PerSample, mean_per_sample
from lwgraph.measure.score import Values

if TYPE_CHECKING:
    from lwgraph.calibrate.readers import Batch
    from lwgraph.executor import Run


class Top1(PerSample):
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
        predicted = np.atleast_1d(predicted)[:count]
        if predicted.shape != labels.shape:
            if predicted.size != labels.size:
                raise DataError(
                    f"output '{name}' has shape {list(value.shape)}; top1 needs one class per label, whose "
                    f"shape is {list(labels.shape)}; use agreement, or --metric module:function"
                )
            predicted = predicted.reshape(labels.shape)
        right: Floats = (predicted == labels).reshape(count, -1).mean(axis=1)
        return right


class Agreement(PerSample):
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
                shares.append(mean_per_sample(mine[name] == theirs, batch))
            one = len(shares) == 1 and not batch.whole
            apart = _margins(outputs[name], batch, np.atleast_1d(theirs)[: batch.count]) if one else None
            yield Values(np.min(shares, axis=0), apart)

    def _classes(self, outputs: dict[str, Array]) -> dict[str, Array]:
        counted = self._counting or tuple(outputs)[:1]
        return {
            name: value.argmax(class_axis(value, name)) if value.dtype.kind == "f" else value
            for name, value in outputs.items()
            if name in counted
        }


class Detections(PerSample):
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


class Symbols(PerSample):
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


__all__ = ["Agreement", "Detections", "Symbols", "Top1", "class_axis"]
