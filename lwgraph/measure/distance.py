"""The distance of a rewritten model's outputs from the original's, such that no large output hides a small one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from lwgraph.arrays import Array
from lwgraph.errors import DataError
from lwgraph.executor import Feeds, Run

RunLoss = Callable[[Run], float]  # of a prepared model; lower is better
_WIDEST = 1 << 15  # an axis with more indices than this is not looked at index by index
_QUIET = 1e-8  # variance below this share of the loudest index's counts as this share


@dataclass
class _AxisSums:
    """Sums over each index of an axis: count, values, squares and squared differences."""

    count: Array
    first: Array
    second: Array
    lost: Array


class Distance:
    """Relative squared error of a model's outputs, 0 for equal ones and below 1 always.

    For every output, for the whole tensor and for each of its axes (from 1 on, of constant size), the squared error of
    every index is divided by that index's variance over all samples, r, and r / (1 + r) is averaged over the indices.
    The largest of these averages counts, and the outputs are averaged. A detector that returns pixels and
    probabilities in one tensor is thus judged by both.

    A model that returns its input with changes (a denoiser: a float input has the output's shape) is judged by the
    changes: where they are smaller than the outputs' variance, they take its place.

    Args:
        reference: the float model.
        feeds: the samples; kept, as are the reference outputs.
    """

    def __init__(self, reference: Run, feeds: Iterable[Feeds]) -> None:
        self.feeds = list(feeds)
        if not self.feeds:
            raise DataError("there is no sample to compare outputs on")
        self.outputs = [_floats(reference(feed)) for feed in self.feeds]
        self.changes = {name: self._changes(name) for name in self.outputs[0]}
        self._powers: dict[tuple[str, int], dict[int, list[Array]]] = {}

    def _changes(self, name: str) -> float | None:
        """Mean squared difference from the nearest input of the same shape; None where there is none."""
        found: dict[str, list[Array]] = {}
        for feed, outputs in zip(self.feeds, self.outputs, strict=True):
            for key, x in feed.items():
                y = outputs[name]
                if x.shape == y.shape and y.ndim > 2 and np.asarray(x).dtype.kind == "f":
                    found.setdefault(key, []).append(np.square(y - x).mean())
        means = [float(np.mean(v)) for v in found.values() if len(v) == len(self.feeds)]
        return min(means, default=None)

    def __call__(self, run: Run) -> float:
        """The distance of one model. NaN or infinite outputs count as 1."""
        sums: dict[tuple[str, int], _AxisSums] = {}
        broken: set[str] = set()
        for index, (feed, wanted) in enumerate(zip(self.feeds, self.outputs, strict=True)):
            got = run(feed)
            for name, y in wanted.items():
                z = np.asarray(got[name], np.float64)
                if z.shape != y.shape or not np.isfinite(z).all():
                    broken.add(name)
                    continue
                self._add(sums, name, index, y, z)
        found = []
        for name in self.outputs[0]:
            parts = [_relative(s, self.changes[name]) for (n, _), s in sums.items() if n == name]
            found.append(1.0 if name in broken or not parts else max(parts))
        return float(np.mean(found)) if found else 0.0

    def _add(self, sums: dict[tuple[str, int], _AxisSums], name: str, index: int, y: Array, z: Array) -> None:
        square = (z - y) ** 2
        key = name, index
        if key not in self._powers:  # which are the same for each model
            self._powers[key] = {axis: _sums(axis, y, y * y) for axis in _axes(y)}
        for axis, (first, second) in self._powers[key].items():
            size = len(first)
            (lost,) = _sums(axis, square)
            now = _AxisSums(np.full(size, y.size / size), first, second, lost)
            old = sums.get((name, axis))
            if old is None:
                sums[name, axis] = now
            elif len(old.count) == size:
                sums[name, axis] = _AxisSums(
                    old.count + now.count, old.first + now.first, old.second + now.second, old.lost + now.lost
                )
            else:
                old.lost = np.zeros_like(old.lost)  # the axis varies: it has no indices to speak of
                old.count = np.zeros_like(old.count)


def _axes(y: Array) -> list[int]:
    """Those whose indices are looked at; 0 stands for the whole."""
    return [axis for axis in range(max(y.ndim, 1)) if not axis or 1 != y.shape[axis] <= _WIDEST]


def _sums(axis: int, *arrays: Array) -> list[Array]:
    """(n,) of each array, by the index on an axis; 0: of all."""
    others = tuple(i for i in range(arrays[0].ndim) if i != axis) if axis else None
    return [np.atleast_1d(array.sum(axis=others)) for array in arrays]


def _relative(sums: _AxisSums, changes: float | None) -> float:
    if not sums.count.any():
        return 0.0
    variance = np.maximum(sums.second / sums.count - (sums.first / sums.count) ** 2, 0)
    if changes:
        variance = np.minimum(variance, changes)
    scale = np.maximum(variance, _QUIET * max(float(variance.max()), 1e-30))
    ratio = sums.lost / sums.count / scale
    return float(np.mean(ratio / (1 + ratio)))


def _floats(outputs: Mapping[str, Array]) -> dict[str, Array]:
    return {name: np.asarray(y, np.float64) for name, y in outputs.items() if np.asarray(y).dtype.kind == "f"}


class Loss(Distance):
    """The same without its upper bound: d / (1 - d), so that what several layers lose adds up. Broken models: inf."""

    def __call__(self, run: Run) -> float:
        """The loss of one model; 0 for equal outputs."""
        distance = super().__call__(run)
        return distance / (1 - distance) if distance < 1 else np.inf


__all__ = ["Distance", "Loss", "RunLoss"]
