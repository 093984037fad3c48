"""NonMaxSuppression, Hardmax and OneHot: which of many."""

from __future__ import annotations

import numpy as np

from lwgraph.arrays import Array, Floats
from lwgraph.runtime.ops.base import Function, Spec, floating, normalized, operator


@operator("Hardmax")
def hardmax(spec: Spec) -> Function:
    """Hardmax: 1 at the first highest value, 0 elsewhere; before version 13 all axes from `axis` on are one."""
    old = spec.version < 13
    axis = spec.get("axis", 1 if old else -1)

    def run(x: Array) -> Array:
        floating(x)
        at = normalized(axis, x.ndim)
        rows = x.reshape(*x.shape[:at], -1) if old else x
        y = np.zeros_like(rows)
        if rows.size:
            np.put_along_axis(y, np.expand_dims(rows.argmax(at), at), 1, at)
        return y.reshape(x.shape)

    return run


@operator("OneHot")
def one_hot(spec: Spec) -> Function:
    """OneHot-9, 11: the second value at an index, the first elsewhere; indices beyond the depth are nowhere."""
    axis = spec.get("axis", -1)

    def run(indices: Array, depth: Array, values: Array) -> Array:
        count = int(np.asarray(depth).ravel()[0])
        at = normalized(axis, indices.ndim + 1)
        places = np.expand_dims(np.where(indices < 0, indices + count, indices), at)
        steps = np.arange(count).reshape([-1 if k == at else 1 for k in range(indices.ndim + 1)])
        y: Array = np.where(places == steps, values[1], values[0])
        return y.astype(values.dtype, copy=False)

    return run


def _corners(boxes: Floats, centred: bool) -> Floats:
    """(..., 4) as lower and upper corners; which two corners are given, and in which order, is open."""
    if centred:
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        return np.concatenate([centre - half, centre + half], axis=-1)
    one, other = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([np.minimum(one, other), np.maximum(one, other)], axis=-1)


def _overlap(box: Floats, others: Floats) -> Floats:
    """Intersection over union of one box with others; 0 with one that has no area."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = np.clip(sides, 0, None).prod(axis=1)
    area, areas = (box[2:] - box[:2]).prod(), (others[:, 2:] - others[:, :2]).prod(axis=1)
    union = area + areas - common
    return np.where((area > 0) & (areas > 0) & (union > 0), common / np.where(union > 0, union, 1), 0)


@operator("NonMaxSuppression")
def non_max_suppression(spec: Spec) -> Function:
    """NonMaxSuppression-10, 11: (selected, 3) of batch, class and box, the best of each class first."""
    centred = bool(spec.get("center_point_box", 0))

    def run(
        boxes: Array,
        scores: Array,
        most: Array | None = None,
        overlap: Array | None = None,
        least: Array | None = None,
    ) -> Array:
        limit = 0 if most is None else int(most.ravel()[0])
        allowed = 0.0 if overlap is None else float(overlap.ravel()[0])
        places = _corners(boxes, centred)
        selected: list[tuple[int, int, int]] = []
        for batch, of_class in np.ndindex(scores.shape[:2]):
            found = scores[batch, of_class]
            left = np.argsort(-found, kind="stable")
            if least is not None:
                left = left[found[left] > least.ravel()[0]]
            kept = 0
            while left.size and kept < limit:
                best, left, kept = int(left[0]), left[1:], kept + 1
                selected.append((batch, of_class, best))
                left = left[_overlap(places[batch, best], places[batch, left]) <= allowed]
        return np.array(selected, np.int64).reshape(-1, 3)

    return run
