"""Grids for weights: symmetric, per output channel or per tensor, with the scale that loses least."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lwgraph.passes.quantize.grid import Grid, weight_limits

Array = npt.NDArray[Any]
_MIDDLE = {"uint8": 128, "uint4": 8}  # the middle of an unsigned type


def weight_grid(
    weight: Array,
    axis: int | None,
    type: str = "int8",
    *,
    reduced: bool = False,
    search: bool = True,
    importance: Array | None = None,
    least: Array | float = 0.0,
) -> Grid:
    """A symmetric grid for `weight`.

    Args:
        axis: the output channels' axis for one scale each; None for one scale.
        search: try scales below max|w| / limit and keep the one with the least squared error; else that one.
        importance: weight of the squared errors, broadcastable to `weight` (the mean square of the inputs).
        least: scales are at least this (per channel): keeps an int32 bias in range.

    Complexity: O(candidates * weights).
    """
    high = weight_limits(type, reduced)[1] - _MIDDLE.get(type, 0)
    low = -high
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1) if axis is not None else weight.reshape(1, -1)
    rows = rows.astype(np.float64)
    weights: Array | None = None
    if importance is not None:
        spread = np.broadcast_to(importance, weight.shape)
        weights = np.moveaxis(spread, axis, 0).reshape(rows.shape) if axis is not None else spread.reshape(1, -1)
    reach = np.abs(rows).max(axis=1, initial=0.0)
    full = np.maximum(np.where(reach > 0, reach / high, 1.0), np.maximum(least, 1e-30))
    best = full
    if search:
        lost = _error(rows, full, low, high, weights)
        for share in np.linspace(0.98, 0.4 if high < 32 else 0.8, 30 if high < 32 else 10):
            scale = np.maximum(full * share, np.maximum(least, 1e-30))
            error = _error(rows, scale, low, high, weights)
            best, lost = np.where(error < lost, scale, best), np.minimum(error, lost)
    scale = best.astype(np.float32)
    zero = np.full(scale.shape, _MIDDLE.get(type, 0), np.int64)
    if axis is None:
        return Grid(type, scale.reshape(()), zero.reshape(()))
    return Grid(type, scale, zero, axis)




def _error(rows: Array, scale: Array, low: int, high: int, weights: Array | None) -> Array:
    column = scale[:, None]
    difference = np.clip(np.rint(rows / column), low, high)
    difference *= column
    difference -= rows
    difference *= difference
    if weights is not None:
        difference *= weights
    total: Array = difference.sum(axis=1)
    return total


__all__ = ["weight_grid"]
