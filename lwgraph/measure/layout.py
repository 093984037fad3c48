"""Which outputs of a detector hold boxes and scores, and how: found from shapes, names and values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lwgraph.arrays import Array, Floats

STRIDES = (8, 16, 32)
_SCORES = "score|conf|prob|logit|class"


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
    if value.ndim not in (2, 3) or value.shape[-1] not in (6, 7):
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
        one = count == len(grid_cells(strides, size))
        placed = one and _follows_grid(boxes[:count], strides, size)
        layout = Layout("rows", (name,), first, objectness=not first, corners=ordered, squash=squash)
        if placed or (sized and not one) or (ordered and not one):
            return layout
        # In cells: as YOLOX leaves it to the decoding, which is known where each cell has one box.
        return Layout("rows", (name,), first, not first, False, strides if one else (), not one, squash=squash)
    return None


def grid_cells(strides: Sequence[int], size: tuple[int, int]) -> Floats:
    """Column, row and stride of each cell, finest grid first, row by row."""
    parts = []
    for s in strides:
        rows, columns = np.mgrid[0 : math.ceil(size[0] / s), 0 : math.ceil(size[1] / s)]
        parts.append(np.stack([columns.ravel(), rows.ravel(), np.full(rows.size, s)], axis=1))
    return np.concatenate(parts).astype(np.float64)


def _follows_grid(boxes: Floats, strides: Sequence[int], size: tuple[int, int]) -> bool:
    """Whether boxes lie where their cells lie, in the coordinates of one image."""
    grid = grid_cells(strides, size)
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


__all__ = ["Layout", "find_layout", "grid_cells"]
