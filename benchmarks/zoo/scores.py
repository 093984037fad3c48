"""Scores of detections, text and images, on plain arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lwgraph.arrays import Weights


def overlaps(a: Weights, b: Weights) -> Weights:
    """Intersection over union of boxes (n, 4) and (m, 4) given as x0, y0, x1, y1: (n, m)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    area_a, area_b = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b))
    result: Weights = shared / np.maximum(area_a[:, None] + area_b[None] - shared, 1e-9)
    return result


def suppress(boxes: Weights, scores: Weights, threshold: float = 0.5) -> npt.NDArray[np.intp]:
    """Greedy non-maximum suppression: the indices kept, best first."""
    overlap, kept = overlaps(boxes, boxes), []
    alive = np.ones(len(boxes), bool)
    for i in np.argsort(-scores, kind="stable"):
        if alive[i]:
            kept.append(i)
            alive &= overlap[i] < threshold
    return np.array(kept, np.intp)


def hits(boxes: Weights, truth: Weights, threshold: float = 0.5) -> npt.NDArray[np.bool_]:
    """For each box, best first: whether its best still unclaimed true box overlaps it by the threshold."""
    found = np.zeros(len(boxes), bool)
    free = overlaps(boxes, truth)
    for i in range(len(boxes) if len(truth) else 0):
        best = int(free[i].argmax())
        if free[i, best] >= threshold:
            found[i] = True
            free[:, best] = -1
    return found


def average_precision(scores: Weights, found: npt.NDArray[np.bool_], truths: int) -> float:
    """Area under the precision-recall curve, precision made non-increasing (all points, as PASCAL VOC since 2010)."""
    if not len(scores):
        return 0.0
    right = np.cumsum(found[np.argsort(-scores, kind="stable")])
    precision = np.maximum.accumulate((right / np.arange(1, len(right) + 1))[::-1])[::-1]
    return float(np.sum(np.diff(right / truths, prepend=0.0) * precision))


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's distance: insertions, deletions and substitutions that turn `a` into `b`."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def character_score(pairs: Iterable[tuple[str, str]]) -> float:
    """1 - character error rate over (predicted, true) pairs: 1 is perfect, and it may be negative."""
    known = list(pairs)
    return 1 - sum(edit_distance(a, b) for a, b in known) / sum(len(b) for _, b in known)


def ctc_text(classes: npt.NDArray[np.integer[Any]], alphabet: Sequence[str]) -> str:
    """Best-path decoding of connectionist temporal classification: merge repeats, drop the blank (class 0)."""
    changed = np.diff(classes, prepend=-1) != 0
    return "".join(alphabet[i] for i in classes[changed & (classes != 0)])


def psnr(a: Weights, b: Weights) -> float:
    """Peak signal-to-noise ratio in dB of images in 0..1, at most 100."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float(10 * np.log10(1 / max(error, 1e-10)))
