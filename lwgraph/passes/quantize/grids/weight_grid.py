"""Grids for weights: symmetric, per output channel or per tensor, with the scale that loses least."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from lwgraph.arrays import Array, slabs
from lwgraph.passes.quantize.grids.grid import Grid, weight_limits

_FREE = 0.4  # the least share of the full scale that is tried
_BLOCK = 1 << 15  # weights that are rounded at once
_PARTS = 12  # steps that the smallest weight of a row may be, at most
_SAMPLE, _EVEN = 32, 1e-5  # weights of a row that are looked at first; what counts as a multiple, in steps
_MIDDLE = {"uint8": 128, "uint4": 8}  # the middle of an unsigned type
_MOST_KNOWN = 4096  # grids that are remembered
_searched: dict[tuple[object, ...], Grid] = {}


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

    Complexity: O(candidates * weights). A search is remembered: plans that are compared differ in few weights.
    """
    if not search or importance is not None:
        return _grid(weight, axis, type, reduced, search, importance, least)
    lower = np.asarray(least)
    facts = weight.shape, weight.dtype.str, axis, type, reduced, lower.shape, lower.dtype.str, lower.tobytes()
    digest = hashlib.blake2b()
    for part in slabs(weight.shape):
        digest.update(np.ascontiguousarray(weight[part]).reshape(-1).view(np.uint8).data)
    key = (*facts, digest.digest())
    if key not in _searched:
        if len(_searched) >= _MOST_KNOWN:
            _searched.clear()
        _searched[key] = _grid(weight, axis, type, reduced, search, importance, least)
    return _searched[key]


def _grid(
    weight: Array,
    axis: int | None,
    type: str,
    reduced: bool,
    search: bool,
    importance: Array | None,
    least: Array | float,
) -> Grid:
    high = weight_limits(type, reduced)[1] - _MIDDLE.get(type, 0)
    low = -high
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1) if axis is not None else weight.reshape(1, -1)
    weights: Array | None = None
    if importance is not None:
        spread = np.broadcast_to(importance, weight.shape)
        weights = np.moveaxis(spread, axis, 0).reshape(rows.shape) if axis is not None else spread.reshape(1, -1)
    reach = np.maximum(rows.max(axis=1, initial=0.0), -rows.min(axis=1, initial=0.0)).astype(np.float64)
    full = np.maximum(np.where(reach > 0, reach / high, 1.0), np.maximum(least, 1e-30))
    floor = np.broadcast_to(np.maximum(least, 1e-30), full.shape)
    best = full
    if search:
        step = max(1, _BLOCK // max(rows.shape[1], 1))
        best = full.copy()
        for part in (np.s_[start : start + step] for start in range(0, len(rows), step)):  # temporaries stay in cache
            some = None if weights is None else weights[part]
            few = rows[part]
            if few.shape[1] <= _BLOCK:
                few = few.astype(np.float64)
            lost = _error(few, full[part], low, high, some)
            for share in np.linspace(0.98, _FREE if high < 32 else 0.8, 30 if high < 32 else 10):
                scale = np.maximum(full[part] * share, floor[part])
                error = _error(few, scale, low, high, some)
                best[part], lost = np.where(error < lost, scale, best[part]), np.minimum(error, lost)
    best = _on_grid_already(rows, best, reach, floor, high)
    scale = best.astype(np.float32)
    zero = np.full(scale.shape, _MIDDLE.get(type, 0), np.int64)
    if axis is None:
        return Grid(type, scale.reshape(()), zero.reshape(()))
    return Grid(type, scale, zero, axis)


def _on_grid_already(rows: Array, scale: Array, reach: Array, floor: Array, high: int) -> Array:
    """(o,) the scale of rows that are small multiples of one number, such as powers of two; of others the given one.

    `reach` has the largest magnitude of each row. Nothing as large as the weight is made on the way.
    """
    found, least = scale.astype(np.float64), _least(rows)
    for part in range(1, _PARTS + 1):
        unit = least / part
        some = np.flatnonzero((reach > 0) & (reach <= unit * (high + 0.5)) & (unit >= floor) & (found == scale))
        if len(some):
            some = some[_even(rows[some, :_SAMPLE], unit[some, None])]
        for row in some:
            if all(_even(values[None], unit[row])[0] for values in _parts(rows[row])):
                found[row] = unit[row]
    return found


def _least(rows: Array) -> Array:
    """(o,) the least magnitude of each row but zero; inf where there is none."""
    least, step = np.full(len(rows), np.inf), max(1, _BLOCK // max(rows.shape[1], 1))
    for some in (np.s_[start : start + step] for start in range(0, len(rows), step)):
        for start in range(0, rows.shape[1], _BLOCK):
            size = np.abs(rows[some, start : start + _BLOCK])
            least[some] = np.minimum(least[some], size.min(axis=1, initial=np.inf, where=size > 0))
    return least


def _even(rows: Array, unit: Array | float) -> Array:
    """(o,) whether all of a row are multiples of its unit."""
    ratio = rows / unit
    even: Array = np.abs(ratio - np.rint(ratio)).max(axis=1, initial=0.0) <= _EVEN
    return even


def _parts(values: Array) -> Iterator[Array]:
    for start in range(0, len(values), _BLOCK):
        yield values[start : start + _BLOCK]


def _error(rows: Array, scale: Array, low: int, high: int, weights: Array | None) -> Array:
    column, total = scale[:, None], np.zeros(len(rows))
    for part in (np.s_[:, start : start + _BLOCK] for start in range(0, rows.shape[1], _BLOCK)):
        difference = np.clip(np.rint(rows[part] / column), low, high)
        difference *= column
        difference -= rows[part]
        difference *= difference
        if weights is not None:
            difference *= weights[part]
        total += difference.sum(axis=1)
    return total


class RoundedWeights:
    """The weights of one model on their grids, each rounded once for all variants whose biases leave the scale free.

    Args:
        type, reduced, search: see `weight_grid`.
    """

    def __init__(self, type: str, reduced: bool, search: bool) -> None:
        self.type, self.reduced, self.search = type, reduced, search
        self._known: dict[str, tuple[Grid, Array]] = {}

    def of(self, name: str, weight: Array, axis: int | None, least: Array | float) -> tuple[Grid, Array]:
        """Grid and integers of the weight of the layer `name`; arguments as for `weight_grid`."""
        if name not in self._known:
            self._known[name] = self._rounded(weight, axis, 0.0)
        grid, integers = self._known[name]
        if grid.axis == axis and np.all(least <= _FREE * grid.scale):
            return grid, integers
        return self._rounded(weight, axis, least)

    def know(self, name: str, grid: Grid, integers: Array) -> None:
        """Let a layer have this grid and these integers wherever its bias leaves the scale free."""
        self._known[name] = grid, integers

    def copy(self) -> RoundedWeights:
        """A copy of what is known so far; later additions to either stay apart."""
        made = RoundedWeights(self.type, self.reduced, self.search)
        made._known = dict(self._known)
        return made

    def _rounded(self, weight: Array, axis: int | None, least: Array | float) -> tuple[Grid, Array]:
        grid = weight_grid(weight, axis, self.type, reduced=self.reduced, search=self.search, least=least)
        return grid, grid.encode(weight, weight_limits(self.type, self.reduced))


__all__ = ["RoundedWeights", "weight_grid"]
