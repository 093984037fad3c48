"""What kind of thing a model puts out: classes, embeddings, detections, images, symbols, or other numbers.

Kinds are recognized by what the graph and the samples show, each with its reason in words; the user may state another.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array, Floats
from lwgraph.calibrate.readers import Batch, Reader
from lwgraph.errors import UsageError
from lwgraph.executor import Run
from lwgraph.flat import flat
from lwgraph.measure.layout import Layout, find_layout
from lwgraph.measure.symbols import by_sample, find_blank

CLASSES, EMBEDDINGS, DETECTIONS = "classes", "embeddings", "detections"
IMAGES, SYMBOLS, OTHER = "images", "symbols", "other"
METRIC_OF = {  # what is judged by where the user names no metric
    CLASSES: "agreement",
    EMBEDDINGS: "cosine",
    DETECTIONS: "detections",
    IMAGES: "psnr",
    SYMBOLS: "symbols",
    OTHER: "variance",
}
OUTPUT_KINDS = tuple(METRIC_OF)
LOOKED_AT = 16  # samples
LEAST_WIDTH = 16  # values of an embedding
STANDS_OUT = 2.0  # times what the highest of independent values is over the next one

_MOVES = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Transpose", "Dropout"})
_CLASSIFIERS = frozenset({"ArgMax", "LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier", "ZipMap"})
_SUPPRESSES = re.compile("NonMaxSuppression|EfficientNMS|BatchedNMS")
_CLASS_NAMES = re.compile(r"logit|prob|softmax|label|class|(^|[^a-z])cls([^a-z]|$)", re.I)
_EMBEDDING_NAMES = re.compile(r"embed|feature|pool|hidden|sentence|(^|[^a-z])(emb|feat)([^a-z]|$)", re.I)


@dataclass(frozen=True)
class OutputKind:
    """What a model puts out.

    Attributes:
        name: one of OUTPUT_KINDS.
        outputs: those that count; several where each of them does.
        why: what showed it.
        layout: of detections.
        blank: of symbols: the one that stands for nothing; None: there is none.
        steps_first: of symbols: whether scores are (steps, samples, symbols), and not (samples, steps, symbols).
        size: height and width of the input image, for detections.
        width: of classes: how many there are, of the first output; 0 where it is one whole number.
    """

    name: str
    outputs: tuple[str, ...]
    why: str
    layout: Layout | None = None
    blank: int | None = None
    steps_first: bool = False
    size: tuple[int, int] | None = None
    width: int = 0

    def __str__(self) -> str:
        shown = ", ".join(f"'{name}'" for name in self.outputs)
        what = "values of no kind that lwgraph recognizes" if self.name == OTHER else self.name
        return f"output{'s' * (len(self.outputs) > 1)} {shown}: {what} ({self.why})"


def find_kind(model: ir.Model, reader: Reader, original: Run, stated: str | None = None) -> OutputKind:
    """The kind of what a model puts out.

    Args:
        model: the original.
        reader: samples, of which LOOKED_AT are looked at; its labels tell of classes.
        original: runs the model.
        stated: the kind that the user says it is, one of OUTPUT_KINDS; what else is to be known of it is found out.

    Raises:
        UsageError: the outputs cannot be of the stated kind.
    """
    return _Look(model, reader, original).kind(stated)


class _Look:
    """A look at the graph and a few samples."""

    def __init__(self, model: ir.Model, reader: Reader, original: Run) -> None:
        self.model, self.labels = model, reader.labels
        self.batches: list[tuple[Batch, dict[str, Array]]] = []
        seen = 0
        for batch in reader.batches():
            self.batches.append((batch, flat(original(batch.feeds))))
            seen += batch.count
            if seen >= LOOKED_AT:
                break
        passed = {
            value.name for value in model.graph.outputs if self._head(value.name or "")[0] in ("input", "constant")
        }
        first = self.batches[0][1]
        self.outputs = {name: value for name, value in first.items() if name not in passed} or first
        self.rows = next((len(a) for a in self.batches[0][0].feeds.values() if a.ndim), 1)
        self.size = self._image_size()

    # ------------------------------------------------------------ which kind

    def kind(self, stated: str | None) -> OutputKind:
        found = self._kind(stated)
        if not found.outputs:
            return found
        value = self.outputs[found.outputs[0]]
        if found.name == CLASSES and value.dtype.kind == "f":
            return replace(found, width=value.shape[axis_of_classes(value)])
        return replace(found, steps_first=found.name == SYMBOLS and self._steps_first(value))

    def _kind(self, stated: str | None) -> OutputKind:
        if not self.outputs:
            return OutputKind(OTHER, (), "there is nothing to compare")
        if stated is not None:
            return self._stated(stated)
        detections = self._detections()
        if detections is not None:
            return detections
        found = {name: self._one(name, value) for name, value in self.outputs.items()}
        known = [kind for kind in found.values() if kind is not None]
        if not known:
            floats = tuple(name for name, value in self.outputs.items() if value.dtype.kind == "f")
            if floats:
                return OutputKind(OTHER, floats, "nothing shows what they are")
            return OutputKind(CLASSES, tuple(self.outputs), "none is of floats, so values are equal or not")
        main = known[0]
        if main.name in (CLASSES, EMBEDDINGS, IMAGES):  # each head counts
            heads = [kind.outputs[0] for kind in known if kind.name == main.name]
            return replace(main, outputs=tuple(heads))
        return main

    def _one(self, name: str, value: Array) -> OutputKind | None:
        """The kind of one output; None where nothing says what it is."""
        for find in (self._symbols, self._classes, self._image, self._embedding):
            found = find(name, value)
            if found is not None:
                return found
        return None

    def _stated(self, stated: str) -> OutputKind:
        why = "as stated"
        if stated == DETECTIONS:
            found = self._detections()
            if found is None:
                shapes = ", ".join(f"'{name}' {list(value.shape)}" for name, value in self.outputs.items())
                raise UsageError(
                    f"--output-kind is 'detections', but no boxes and scores are known in {shapes}; "
                    "state another kind, or give --metric module:function"
                )
            return found
        names = tuple(name for name, value in self.outputs.items() if _can_be(stated, value))
        if not names:
            shapes = ", ".join(f"'{name}' {list(value.shape)}" for name, value in self.outputs.items())
            raise UsageError(f"--output-kind is '{stated}', which no output can be: {shapes}; state another kind")
        if stated == SYMBOLS:
            return OutputKind(SYMBOLS, names[:1], why, blank=self._blank(names[0]))
        if stated != OTHER:  # the outputs that show it, else the first that can be
            find = {CLASSES: self._classes, EMBEDDINGS: self._embedding, IMAGES: self._image}[stated]
            names = tuple(name for name in names if find(name, self.outputs[name])) or names[:1]
        return OutputKind(stated, names, why)

    # ------------------------------------------------------------ detections

    def _detections(self) -> OutputKind | None:
        suppressed = any(_SUPPRESSES.search(node.op_type) for scope in ir.scopes(self.model) for node in scope)
        layout = find_layout(self.outputs, self.size, suppressed)
        if layout is None:
            return None
        return OutputKind(DETECTIONS, layout.names[:2], layout.words, layout, size=self.size)

    def _image_size(self) -> tuple[int, int] | None:
        for value in self.batches[0][0].feeds.values():
            if value.ndim == 4:
                channels_last = value.shape[-1] in (1, 3, 4) and value.shape[1] not in (1, 3, 4)
                height, width = value.shape[1:3] if channels_last else value.shape[2:]
                if height >= 8 and width >= 8:
                    return int(height), int(width)
        return None

    # ------------------------------------------------------------ symbols

    def _symbols(self, name: str, value: Array) -> OutputKind | None:
        """Scores of symbols at each step, or the symbols themselves."""
        if value.dtype.kind in "iuOUS":
            if value.ndim == 2 and value.shape[1] > 1 and value.dtype.kind in "iu" and len(value) == self.rows:
                return OutputKind(SYMBOLS, (name,), "a row of integers for each sample")
            return None
        if value.ndim != 3 or value.dtype.kind != "f":
            return None
        scores = by_sample(value, self._steps_first(value))
        if scores.shape[1] < 2 or scores.shape[2] < 3:
            return None
        blank = self._blank(name)
        if blank is not None and scores.shape[2] >= 10:
            return OutputKind(
                SYMBOLS, (name,), f"scores of symbols at each step, of which {blank} is the blank", blank=blank
            )
        if self._softmax(name, axis=2) or _sums_to_one(scores.reshape(-1, scores.shape[2])):
            return OutputKind(SYMBOLS, (name,), "shares of symbols at each step")
        if _CLASS_NAMES.search(name):
            return OutputKind(SYMBOLS, (name,), "scores of symbols at each step, by its name")
        dense = self._head(name)[0] != "LayerNormalization"
        if dense and self._steps(scores.shape[1]) and not _EMBEDDING_NAMES.search(name):
            rows = np.concatenate([out[name].reshape(-1, value.shape[2]) for _, out in self.batches])
            if stands_out(rows):
                return OutputKind(SYMBOLS, (name,), "at each step of the input the highest value stands out")
        return None

    def _steps(self, length: int) -> bool:
        """Whether inputs are symbols, so many for each sample."""
        feeds = self.batches[0][0].feeds.values()
        return any(v.dtype.kind in "iu" and v.ndim >= 2 and v.shape[1] == length for v in feeds)

    def _blank(self, name: str) -> int | None:
        """The blank; None where inputs are symbols themselves: each step answers to one of them then."""
        batch, outputs = self.batches[0]
        if any(value.dtype.kind in "iu" and value.ndim >= 2 for value in batch.feeds.values()):
            return None
        if outputs[name].ndim != 3 or outputs[name].dtype.kind != "f":
            return None
        best = [out[name].argmax(-1).ravel() for _, out in self.batches]
        return find_blank(np.concatenate(best), outputs[name].shape[-1])

    def _steps_first(self, value: Array) -> bool:
        """Both axes may have the size of the batch: the first one is that of the samples then."""
        return value.ndim == 3 and value.shape[0] != self.rows and value.shape[1] == self.rows

    # ------------------------------------------------------------ classes

    def _classes(self, name: str, value: Array) -> OutputKind | None:
        head, _ = self._head(name)
        single = value.ndim == 1 or math.prod(value.shape[1:]) == 1
        if value.dtype.kind in "iuOUSb":
            if head in _CLASSIFIERS or (_CLASS_NAMES.search(name) and value.dtype.kind != "b"):
                what = f"{head} at the end" if head in _CLASSIFIERS else "by its name"
                return OutputKind(CLASSES, (name,), what)
            return OutputKind(CLASSES, (name,), "whole numbers") if single else None
        if value.dtype.kind != "f" or value.ndim < 2 or value.shape[axis_of_classes(value)] < 2:
            return None
        axis = axis_of_classes(value)
        if self._softmax(name, axis):
            return OutputKind(CLASSES, (name,), f"{self._head(name)[0]} at the end")
        if math.prod(value.shape) != value.shape[0] * value.shape[axis]:
            return None  # maps: only a Softmax says that their channels are classes
        rows = np.concatenate([out[name].reshape(len(out[name]), -1)[: b.count] for b, out in self.batches])
        if head in _CLASSIFIERS or _sums_to_one(rows):
            return OutputKind(CLASSES, (name,), "values that sum to one")
        if _CLASS_NAMES.search(name):
            return OutputKind(CLASSES, (name,), "by its name")
        if self._labelled(value.shape[axis]):
            return OutputKind(CLASSES, (name,), "the data's labels are classes")
        if head in ("Gemm", "MatMul", "Conv", "GlobalAveragePool", "ReduceMean") and stands_out(rows):
            return OutputKind(CLASSES, (name,), "the highest value stands out from the others")
        return None

    def _labelled(self, classes: int) -> bool:
        labels = self.labels
        if labels is None or labels.dtype.kind not in "iu" or labels.ndim != 1:
            return False
        return bool(labels.min() >= 0 and labels.max() < classes)

    # ------------------------------------------------------------ images

    def _image(self, name: str, value: Array) -> OutputKind | None:
        """Planes of the input's size, or some times that."""
        if value.dtype.kind != "f" or value.ndim not in (3, 4) or self.size is None:
            return None
        planes = [value.shape[-2:], *([value.shape[1:3]] if value.ndim == 4 and value.shape[-1] <= 4 else [])]
        for height, width in planes:
            times = height / self.size[0]
            if times in (1, 2, 3, 4, 8) and width == times * self.size[1]:
                what = "the input's size" if times == 1 else f"{times:g} times the input's size"
                return OutputKind(IMAGES, (name,), f"planes of {what}")
        return None

    # ------------------------------------------------------------ embeddings

    def _embedding(self, name: str, value: Array) -> OutputKind | None:
        if value.dtype.kind != "f" or value.ndim not in (2, 3, 4) or value.shape[0] != self.rows:
            return None
        if value.ndim == 4 and math.prod(value.shape[2:]) != 1:
            return None
        width = value.shape[1] if value.ndim == 4 else value.shape[-1]
        if width < LEAST_WIDTH:
            return None
        head, _ = self._head(name)
        rows = np.concatenate([out[name].reshape(-1, width) for _, out in self.batches]).astype(np.float64)
        lengths = np.linalg.norm(rows, axis=1)
        if head == "LpNormalization" or (
            len(rows) > 1 and np.ptp(lengths) <= 1e-3 * lengths.max() and lengths.max() > 0
        ):
            return OutputKind(EMBEDDINGS, (name,), "vectors of equal length")
        if _EMBEDDING_NAMES.search(name):
            return OutputKind(EMBEDDINGS, (name,), "by its name")
        if value.ndim == 3:
            if head == "LayerNormalization":
                return OutputKind(EMBEDDINGS, (name,), "a vector for each step, LayerNormalization at the end")
            return None
        if self._steps(width):
            return None  # a number for each symbol of the input
        return OutputKind(EMBEDDINGS, (name,), f"vectors of {width} values, with no sign that these are classes")

    # ------------------------------------------------------------ the end of the graph

    def _head(self, name: str) -> tuple[str, ir.Node | None]:
        """The operator that makes an output, through those that only move values and through an added bias.

        "input" where it is an input passed through, "constant" where nothing computes it.
        """
        value = next((v for v in self.model.graph.outputs if v.name == name), None)
        inputs = {id(v) for v in self.model.graph.inputs}
        while value is not None:
            node = value.producer()
            if node is None:
                return ("input" if id(value) in inputs else "constant"), None
            operator = ir.operator(node)
            source = next((v for v in node.inputs if v is not None and not ir.is_constant(v)), None)
            biased = operator == "Add" and sum(v is not None and ir.is_constant(v) for v in node.inputs) == 1
            if (operator in _MOVES or biased) and source is not None:
                value = source
                continue
            return node.op_type, node
        return "", None

    def _softmax(self, name: str, axis: int) -> bool:
        """Whether the output is a Softmax over what holds its classes."""
        head, node = self._head(name)
        if node is None or head not in ("Softmax", "LogSoftmax"):
            return False
        stated = node.attributes.get("axis")
        along = -1 if stated is None else int(stated.as_int())
        outputs = [out[name] for _, out in self.batches if out[name].dtype.kind == "f"]
        value = outputs[0]
        if value.ndim <= 2 or along in (axis, axis - value.ndim):
            return True
        return _sums_to_one(
            np.moveaxis(value if head == "Softmax" else np.exp(value), axis, -1).reshape(-1, value.shape[axis])
        )


def _can_be(kind: str, value: Array) -> bool:
    """Whether an output of this type and shape can be of a kind at all."""
    if kind == CLASSES:
        return value.dtype.kind != "f" or (value.ndim >= 2 and value.shape[axis_of_classes(value)] > 1)
    if kind == SYMBOLS:
        return value.ndim == 3 if value.dtype.kind == "f" else value.ndim >= 2
    return value.dtype.kind == "f" and value.ndim >= {EMBEDDINGS: 2, IMAGES: 3, OTHER: 0}[kind]


def axis_of_classes(value: Array) -> int:
    """The axis that would hold classes: the last of (n, c) and of sequences (t, n, c); 1 of (n, c, 1, 1) and maps."""
    return 1 if value.ndim != 3 or (value.shape[2] == 1 and value.shape[1] > 1) else 2


def _sums_to_one(rows: Array) -> bool:
    """Whether rows (n, c) are shares, or logarithms of shares."""
    if rows.shape[1] < 2:
        return False
    values = rows.astype(np.float64)
    if values.max() <= 0:
        values = np.exp(values)
    return bool(values.min() >= 0 and np.allclose(values.sum(axis=1), 1, atol=1e-2) and np.ptp(values) > 0)


def stands_out(rows: Array) -> bool:
    """Whether the highest of each row's values is over the next one by more than chance would have it.

    A classifier is trained for that; the elements of an embedding are as good as independent. Both are in units of the
    spread of the row, so it does not depend on the scale. Trained classifiers of 10 and 1,000 classes have 4.5 and 3.4
    times what independent values have, sentence embeddings 1.2.

    Args:
        rows: (n, c), 4 values at least in each: of fewer, the spread itself is little but the difference.
    """
    if rows.shape[1] < 4:
        return False
    return _gap(rows.astype(np.float64)) > STANDS_OUT * _gap(np.random.default_rng(0).normal(size=(256, rows.shape[1])))


def _gap(rows: Floats) -> float:
    top = np.partition(rows, rows.shape[1] - 2, axis=1)[:, -2:]
    spread = rows.std(axis=1)
    return float(np.mean((top[:, 1] - top[:, 0])[spread > 0] / spread[spread > 0])) if (spread > 0).any() else 0.0


__all__ = [
    "CLASSES",
    "DETECTIONS",
    "EMBEDDINGS",
    "IMAGES",
    "METRIC_OF",
    "OTHER",
    "OUTPUT_KINDS",
    "SYMBOLS",
    "OutputKind",
    "axis_of_classes",
    "find_kind",
    "stands_out",
]
