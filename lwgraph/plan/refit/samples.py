"""The samples of a sequential refit: which fit and which judge, outputs as rows, the distance of two models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array, Floats
from lwgraph.calibrate.signature import batched_inputs, signature
from lwgraph.executor import Executor, Feeds, Run
from lwgraph.layers.site import Site

HELD_OUT_SHARE = 0.25


def output_error(original: ir.Model, compressed: ir.Model, feeds: Sequence[Feeds], executor: Executor) -> float:
    """||Y - Yhat||^2 / ||Y - mean Y||^2 of the models' float outputs over `feeds`, the mean over the outputs.

    nan where no output can be compared.
    """
    known = {v.name for v in original.graph.outputs}
    names = [v.name or "" for v in compressed.graph.outputs if v.name in known]
    if not names:
        return math.nan
    theirs, ours = executor.prepare(original, names), executor.prepare(compressed, names)
    sums: dict[str, Floats] = {}  # count, sum, sum of squares, squared error
    for feed in feeds:
        a, b = ours(feed), theirs(feed)
        for output in names:
            x, y = np.asarray(a[output]), np.asarray(b[output])
            if y.dtype.kind != "f" or x.shape != y.shape:
                continue
            t = y.astype(np.float64)
            part = np.array([t.size, t.sum(), np.square(t).sum(), np.square(x - t).sum()])
            sums[output] = sums.get(output, np.zeros(4)) + part
    errors = [s[3] / max(s[2] - s[1] ** 2 / max(s[0], 1), 1e-30) for s in sums.values()]
    return float(np.mean(errors)) if errors else math.nan


class Remembering:
    """An executor that keeps what one model gave on each feed, up to a number of bytes.

    Args:
        executor: what runs models.
        model: the one whose outputs are kept; it must not change, nor must the feeds.
        limit: bytes.
    """

    def __init__(self, executor: Executor, model: ir.Model, limit: int) -> None:
        self.name, self.executor, self.model, self.limit = executor.name, executor, model, limit
        self._known: dict[tuple[tuple[str, ...], int], tuple[Feeds, dict[str, Any]]] = {}
        self._bytes = 0

    def prepare(self, model: ir.Model, outputs: Sequence[str] | None = None) -> Run:
        """Prepare a model, as any executor does."""
        run = self.executor.prepare(model, outputs)
        if model is not self.model:
            return run

        def remembered(feed: Feeds) -> dict[str, Any]:
            key = tuple(outputs or ()), id(feed)  # the feed is kept beside, so that its id stays its own
            if key in self._known:
                return self._known[key][1]
            found = run(feed)
            size = sum(np.asarray(value).nbytes for value in found.values())
            if self._bytes + size <= self.limit:
                self._known[key] = feed, found
                self._bytes += size
            return found

        return remembered


def output_rows(value: Array, site: Site) -> Array:
    """(N, o): one row per position."""
    last = value if not site.kernel else np.moveaxis(value, 1, -1)
    return last.reshape(-1, last.shape[-1])


def chosen_feeds(data: Sequence[Feeds], model: ir.Model, samples: int, seed: int) -> tuple[list[Feeds], set[int]]:
    """Feeds of at most `samples` rows together, and the numbers of those that are held out.

    A single feed is cut into its rows where the batch is open.
    """
    inputs = signature(model)
    batched = batched_inputs(inputs)
    lead = next((i.shape[0] for n, i in inputs.items() if n in batched and i.shape), None)
    feeds: list[Feeds] = list(data)
    if len(feeds) == 1 and batched and not isinstance(lead, int):
        rows = len(feeds[0][next(iter(batched))])
        feeds = [{n: a[i : i + 1] if n in batched else a for n, a in feeds[0].items()} for i in range(rows)]
    rng = np.random.default_rng(seed)
    sizes = [len(feed[next(iter(batched))]) if batched else 1 for feed in feeds]
    chosen: list[Feeds] = []
    total = 0
    for index in rng.permutation(len(feeds)):
        if chosen and total + sizes[index] > samples:
            continue
        chosen.append(feeds[index])
        total += sizes[index]
    held = min(len(chosen), max(1, round(HELD_OUT_SHARE * len(chosen))))
    return chosen, set(range(held))


__all__ = ["HELD_OUT_SHARE", "Remembering", "chosen_feeds", "output_error", "output_rows"]
