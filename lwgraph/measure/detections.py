"""Detections: which outputs hold boxes and scores, how they are decoded, and how far those of two models agree."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lwgraph.arrays import Array, Floats, Ints

LEAST_SCORE = 0.25  # of a detection that counts, as detectors' own tools have it
OVERLAP = 0.5  # of two boxes that show the same, intersection over union
SUPPRESS = 0.65  # the overlap from which on the weaker of two boxes of one class is left out
MOST = 300  # boxes of one sample that are looked at, the best
STRIDES = (8, 16, 32)
_SCORES = "score|conf|prob|logit|class"
_SLOT = 1e6  # how far apart boxes lie that can only be compared with those in the same place of the output


@dataclass(frozen=True)
class Layout:
    """Where boxes and scores are in the outputs of a detector.

    Attributes:
        kind: "rows": one output of rows that begin with a box; "pair": boxes and scores, in outputs of their own;
            "final": rows of box, score, class, as suppression leaves them; "grids": outputs of several sizes, of
            anchors that nobody knows here.
        names: of the outputs: of rows; of boxes, scores and, where there is one, classes.
        channels_first: rows are columns.
        objectness: the fifth value of a row is the score that there is anything.
        corners: boxes are two corners, else centre and size.
        strides: of the cells whose own coordinates boxes are in; (): boxes are in one system. Boxes in a system
            that is not known are compared with those in the same place only, see `slots`.
        slots: boxes are offsets from something that the model does not hold.
        background: the class that stands for nothing; None: there is none.
        squash: "sigmoid", "softmax" or "": what turns scores into probabilities.
        offset: of the box in a row: 1 where the number of the sample comes first.
    """

    kind: str
    names: tuple[str, ...]
    channels_first: bool = False
    objectness: bool = False
    corners: bool = True
    strides: tuple[int, ...] = ()
    slots: bool = False
    background: int | None = None
    squash: str = ""
    offset: int = 0

    @property
    def words(self) -> str:
        """What it is, for people."""
        shown = ", ".join(f"'{name}'" for name in self.names)
        return {
            "rows": f"a box and scores in each row of {shown}",
            "pair": f"boxes and scores in {shown}",
            "final": f"a box, a score and a class in each row of {shown}",
            "grids": f"boxes and scores on grids of several sizes in {shown}",
        }[self.kind]


@dataclass(frozen=True)
class Found:
    """The detections of one sample, best first: boxes (k, 4) as corners, scores (k,), classes (k,)."""

    boxes: Floats
    scores: Floats
    classes: Ints


# ------------------------------------------------------------ recognizing


def find_layout(outputs: Mapping[str, Array], size: tuple[int, int] | None, suppressed: bool) -> Layout | None:
    """Where boxes and scores are, from shapes, names and values; None where there are none.

    Args:
        outputs: of the original, of one batch.
        size: height and width of the input image; None: no input is an image.
        suppressed: whether the graph leaves out overlapping boxes itself.
    """
    floats = {name: value for name, value in outputs.items() if value.dtype.kind == "f" and value.size}
    found = _pair(floats, outputs, suppressed, size is not None)
    if found is None:
        for name, value in floats.items():
            found = _final(name, value, suppressed) or (None if size is None else _rows(name, value, size))
            if found is not None:
                break
    return found or (None if size is None else _grids(floats, size))


def _pair(floats: Mapping[str, Array], outputs: Mapping[str, Array], suppressed: bool, image: bool) -> Layout | None:
    for name, boxes in floats.items():
        if boxes.ndim not in (2, 3) or boxes.shape[-1] != 4:
            continue
        named = "box" in name.lower() or "loc" in re.split(r"[^a-z]+", name.lower())
        counted = boxes.shape[:-1]
        if not named and (not (suppressed or (image and boxes.ndim == 3)) or re.search(_SCORES, name.lower())):
            continue
        rest = {n: v for n, v in outputs.items() if n != name and v.ndim >= 1}
        scores = [
            n
            for n, v in rest.items()
            if v.dtype.kind == "f" and (v.shape == counted or (v.ndim == len(counted) + 1 and v.shape[:-1] == counted))
        ]
        # Another four numbers for each place may be anything; scores are named, or of another width.
        scores = [n for n in scores if floats[n].shape != boxes.shape or re.search(_SCORES, n.lower())]
        if not scores:
            continue
        classes = [n for n, v in rest.items() if v.dtype.kind in "iu" and v.shape == counted]
        scores.sort(key=lambda n: re.search(_SCORES, n.lower()) is None)
        # Rows of one sample each are a regression beside a classification, as in cascades of small networks.
        if boxes.ndim == 2 and not (suppressed or classes or named):
            continue
        return _scored(Layout("pair", (name, scores[0], *classes[:1])), floats[scores[0]], boxes)
    return None


def _scored(layout: Layout, scores: Array, boxes: Array) -> Layout:
    """The layout with what turns its scores into probabilities, the class that is none, and what its boxes are."""
    background, squash = None, ""
    flat = boxes.reshape(-1, 4).astype(np.float64)
    if scores.ndim == boxes.ndim and scores.shape[-1] >= 2:
        table = scores.reshape(-1, scores.shape[-1]).astype(np.float64)
        squash = "" if table.min() >= 0 and table.max() <= 1 + 1e-3 else "softmax"
        share = np.bincount(table.argmax(1), minlength=table.shape[1]) / len(table)
        # Nearly all places show nothing: where one class says so, scores are shares of one.
        alone = bool(np.allclose(table.sum(1), 1, atol=1e-2)) if not squash else float(share.max()) > 0.8
        if alone:
            background = int(share.argmax())
        elif squash:
            squash = "sigmoid"
    elif scores.min() < 0 or scores.max() > 1 + 1e-3:
        squash = "sigmoid"
    corners = bool(np.mean((flat[:, 2] >= flat[:, 0]) & (flat[:, 3] >= flat[:, 1])) > 0.95)
    sized = bool((flat[:, 2:] >= 0).mean() > 0.95)
    return Layout(
        layout.kind,
        layout.names,
        corners=corners,
        slots=not corners and not sized,
        background=background,
        squash=squash,
    )


def _final(name: str, value: Array, suppressed: bool) -> Layout | None:
    """Rows of box, score and class: (n, k, 6), (k, 6), or (k, 7) with the number of the sample first."""
    if value.shape[-1] not in (6, 7) or value.ndim not in (2, 3):
        return None
    offset = value.shape[-1] - 6
    rows = value.reshape(-1, value.shape[-1])[:, offset:].astype(np.float64)
    for score, kind in ((4, 5), (5, 4)):  # the class comes last, or, in some, before the score
        whole = bool((rows[:, kind] == np.round(rows[:, kind])).all()) and bool((rows[:, kind] >= -1).all())
        shares = bool((rows[:, score] >= 0).all() and (rows[:, score] <= 1).all())
        corners = bool(((rows[:, 2] >= rows[:, 0]) & (rows[:, 3] >= rows[:, 1])).all())
        if whole and shares and corners and (suppressed or (value.ndim == 3 and len(rows) > 1)) and score == 4:
            return Layout("final", (name,), offset=offset)
    return None


def _cells(count: int, size: tuple[int, int]) -> tuple[int, ...]:
    """The strides of grids whose cells, some to each place, are `count` together; () where none are."""
    for strides in ((*STRIDES, 64), STRIDES, (16, 32), (8, 16), (16,), (32,)):
        cells = sum(math.ceil(size[0] / s) * math.ceil(size[1] / s) for s in strides)
        if count % cells == 0 and count // cells in (1, 2, 3, 4, 5, 6, 9):
            return strides
    return ()


def _rows(name: str, value: Array, size: tuple[int, int]) -> Layout | None:
    """Rows of box, perhaps objectness, and a score for each class, one for each cell of grids over the image."""
    if value.ndim != 3:
        return None
    for first in (False, True):
        count, width = (value.shape[2], value.shape[1]) if first else value.shape[1:]
        strides = _cells(count, size)
        if not strides or width < 5 or count < 64:
            continue
        rows = (np.moveaxis(value, 1, 2) if first else value).reshape(-1, width).astype(np.float64)
        scores, boxes = rows[:, 4:], rows[:, :4]
        squash = "" if scores.min() >= -1e-3 and scores.max() <= 1 + 1e-3 else "sigmoid"
        ordered = bool(np.mean((boxes[:, 2] >= boxes[:, 0]) & (boxes[:, 3] >= boxes[:, 1])) > 0.98)
        sized = bool((boxes[:, 2:] >= 0).mean() > 0.98)
        one = count == len(_grid(strides, size))
        placed = one and _follows_grid(boxes[:count], strides, size)
        layout = Layout("rows", (name,), first, objectness=not first, corners=ordered, squash=squash)
        if placed or (sized and not one) or (ordered and not one):
            return layout
        # In cells: as YOLOX leaves it to the decoding, which is known where each cell has one box.
        return Layout("rows", (name,), first, not first, False, strides if one else (), not one, squash=squash)
    return None


def _grid(strides: Sequence[int], size: tuple[int, int]) -> Floats:
    """Column, row and stride of each cell, finest grid first, row by row."""
    parts = []
    for s in strides:
        rows, columns = np.mgrid[0 : math.ceil(size[0] / s), 0 : math.ceil(size[1] / s)]
        parts.append(np.stack([columns.ravel(), rows.ravel(), np.full(rows.size, s)], axis=1))
    return np.concatenate(parts).astype(np.float64)


def _follows_grid(boxes: Floats, strides: Sequence[int], size: tuple[int, int]) -> bool:
    """Whether boxes lie where their cells lie, in the coordinates of one image."""
    grid = _grid(strides, size)
    for axis in (0, 1):
        place = grid[:, axis] * grid[:, 2]
        if np.ptp(place) == 0 or np.ptp(boxes[:, axis]) == 0 or np.corrcoef(place, boxes[:, axis])[0, 1] < 0.8:
            return False
    return True


def _grids(floats: Mapping[str, Array], size: tuple[int, int]) -> Layout | None:
    """Two or more outputs (n, m (5 + c), h, w) or (n, m, h, w, 5 + c), each half as fine as the one before."""
    names = []
    for name, value in floats.items():
        plane = _plane(value)
        if plane is None:
            continue
        height, width, channels = plane
        stride = size[0] / height
        if stride in (8, 16, 32, 64) and size[1] / width == stride and channels >= 5:
            names.append((stride, channels, name))
    names.sort()
    if (
        len(names) < 2
        or len({channels for _, channels, _ in names}) != 1
        or len({s for s, _, _ in names}) != len(names)
    ):
        return None
    if floats[names[0][2]].ndim == 4 and names[0][1] % 3:
        return None
    if not names[0][1] >= 15 and floats[names[0][2]].ndim == 4:
        return None
    return Layout("grids", tuple(name for _, _, name in names), objectness=True, slots=True, squash="sigmoid")


def _plane(value: Array) -> tuple[int, int, int] | None:
    if value.ndim == 4:
        return value.shape[2], value.shape[3], value.shape[1]
    if value.ndim == 5 and value.shape[1] <= 9:
        return value.shape[2], value.shape[3], value.shape[4]
    return None


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
        grid = _grid(layout.strides, size)
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


__all__ = ["LEAST_SCORE", "Found", "Layout", "decode", "find_layout", "likeness", "overlap"]
