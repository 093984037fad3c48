"""Detections: how boxes and scores are decoded, and how far those of two models agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lwgraph.arrays import Array, Floats, Ints
from lwgraph.measure.layout import Layout, grid_cells

LEAST_SCORE = 0.25  # of a detection that counts, as detectors' own tools have it
OVERLAP = 0.5  # of two boxes that show the same, intersection over union
SUPPRESS = 0.65  # the overlap from which on the weaker of two boxes of one class is left out
MOST = 300  # boxes of one sample that are looked at, the best
_SLOT = 1e6  # how far apart boxes lie that can only be compared with those in the same place of the output


@dataclass(frozen=True)
class Found:
    """The detections of one sample, best first: boxes (k, 4) as corners, scores (k,), classes (k,)."""

    boxes: Floats
    scores: Floats
    classes: Ints


# ------------------------------------------------------------ decoding


def decode(
    outputs: Mapping[str, Array], layout: Layout, size: tuple[int, int] | None, rows: int, least: float
) -> list[Found]:
    """The detections of each sample of a batch, overlapping ones of a class left out.

    Outputs without an axis of samples are those of one.

    Args:
        outputs: of one batch.
        layout: see `find_layout`.
        size: height and width of the input image.
        rows: samples of the batch.
        least: the score under which nothing is looked at.
    """
    if layout.kind == "final":
        return _decode_final(outputs[layout.names[0]], layout.offset, rows, least)
    if layout.kind == "pair":
        boxes, scores = outputs[layout.names[0]], outputs[layout.names[1]]
        labels = outputs[layout.names[2]] if len(layout.names) > 2 else None
        if boxes.ndim == 2:
            boxes, scores = boxes[None], scores[None]
            labels = None if labels is None else labels[None]
    else:
        table = _as_rows(outputs, layout)
        boxes, scores, labels = table[..., :4], table[..., 4:], None
    boxes = _corners(boxes.astype(np.float64), layout, size)
    best, classes = _best(scores.astype(np.float64), layout)
    if labels is not None:
        classes = labels.astype(np.int64)
    return [_suppress(b, s, c, least) for b, s, c in zip(boxes, best, classes, strict=True)]


def _as_rows(outputs: Mapping[str, Array], layout: Layout) -> Array:
    if layout.kind == "rows":
        value = outputs[layout.names[0]]
        return np.moveaxis(value, 1, 2) if layout.channels_first else value
    parts = []
    for name in layout.names:
        value = outputs[name]
        if value.ndim == 4:  # (n, 3 (5 + c), h, w)
            n, channels, h, w = value.shape
            value = np.moveaxis(value.reshape(n, 3, channels // 3, h, w), 2, -1)
        parts.append(value.reshape(len(value), -1, value.shape[-1]))
    return np.concatenate(parts, axis=1)


def _best(scores: Floats, layout: Layout) -> tuple[Floats, Ints]:
    """The score (n, k) and the class (n, k) of each box."""
    if layout.squash == "sigmoid":
        scores = 1 / (1 + np.exp(-np.clip(scores, -60, 60)))
    elif layout.squash == "softmax":
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
    if scores.ndim == 2:
        return scores, np.zeros(scores.shape, np.int64)
    if layout.objectness:
        scores = scores[..., :1] * (scores[..., 1:] if scores.shape[-1] > 1 else 1.0)
    if layout.background is not None:
        scores = scores.copy()
        scores[..., layout.background] = -1.0
    return scores.max(axis=-1), scores.argmax(axis=-1)


def _corners(boxes: Floats, layout: Layout, size: tuple[int, int] | None) -> Floats:
    """Boxes (n, k, 4) as corners."""
    if layout.strides:
        assert size is not None
        grid = grid_cells(layout.strides, size)
        centre = (boxes[..., :2] + grid[:, :2]) * grid[:, 2:]
        extent = np.exp(np.clip(boxes[..., 2:], -20, 20)) * grid[:, 2:]
    elif layout.slots:
        # Offsets from anchors, in units of their size: (0.1, 0.1, 0.2, 0.2) are the variances of SSD.
        centre = 0.1 * boxes[..., :2] + _SLOT * np.arange(1, boxes.shape[1] + 1)[:, None]
        extent = np.exp(np.clip(0.2 * boxes[..., 2:], -20, 20))
    elif layout.corners:
        return boxes
    else:
        centre, extent = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([centre - extent / 2, centre + extent / 2], axis=-1)


def _decode_final(value: Array, offset: int, samples: int, least: float) -> list[Found]:
    rows = value.astype(np.float64)
    if rows.ndim == 2:
        parts = [rows[rows[:, 0] == number] for number in range(samples)] if offset else [rows]
    else:
        parts = list(rows)
    return [
        _suppress(p[:, offset : offset + 4], p[:, offset + 4], p[:, offset + 5].astype(np.int64), least) for p in parts
    ]


def _suppress(boxes: Floats, scores: Floats, classes: Ints, least: float) -> Found:
    """The best boxes of each class without those that overlap a better one."""
    kept = np.flatnonzero((scores >= least) & np.isfinite(boxes).all(axis=1))
    kept = kept[np.argsort(-scores[kept], kind="stable")][:MOST]
    boxes, scores, classes = boxes[kept], scores[kept], classes[kept]
    overlaps = overlap(boxes, boxes)
    alive = np.ones(len(kept), bool)
    for at in range(len(kept)):
        if alive[at]:
            alive[at + 1 :] &= (overlaps[at, at + 1 :] <= SUPPRESS) | (classes[at + 1 :] != classes[at])
    return Found(boxes[alive], scores[alive], classes[alive])


def overlap(a: Floats, b: Floats) -> Floats:
    """Intersection over union of boxes (n, 4) and (m, 4), as corners: (n, m)."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    sizes = [np.prod(np.clip(v[:, 2:] - v[:, :2], 0, None), axis=-1) for v in (a, b)]
    union = sizes[0][:, None] + sizes[1][None] - shared
    found: Floats = np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0)
    return found


# ------------------------------------------------------------ agreement


def likeness(a: Found, b: Found, least: float = LEAST_SCORE) -> float:
    """The share of detections of two models that have a partner in the other: 0..1, 1 where neither finds anything.

    A detection counts from a score of `least` on; its partner has the same class, overlaps by half, and needs half of
    that score: what crosses the threshold by a hair is no disagreement.
    """
    strong = [int((found.scores >= least).sum()) for found in (a, b)]
    if not sum(strong):
        return 1.0
    known = [_over(found, least / 2) for found in (a, b)]
    return (_partners(a, known[1], strong[0]) + _partners(b, known[0], strong[1])) / sum(strong)


def _over(found: Found, least: float) -> Found:
    kept = found.scores >= least
    return Found(found.boxes[kept], found.scores[kept], found.classes[kept])


def _partners(a: Found, b: Found, strong: int) -> int:
    """How many of the best detections of a have one in b, each of which is taken once."""
    overlaps = overlap(a.boxes[:strong], b.boxes)
    overlaps[a.classes[:strong, None] != b.classes[None]] = 0
    count = 0
    for row in range(strong):
        if overlaps.shape[1] and overlaps[row].max() >= OVERLAP:
            overlaps[:, overlaps[row].argmax()] = 0
            count += 1
    return count


__all__ = ["LEAST_SCORE", "Found", "decode", "likeness", "overlap"]
