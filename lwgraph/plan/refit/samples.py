"""The samples of a sequential refit: which fit and which judge, outputs as rows, the distance of two models."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array, Floats
from lwgraph.calibrate.signature import batched_inputs, signature
from lwgraph.contract import Contract
from lwgraph.errors import LwgraphError
from lwgraph.executor import Executor, Feeds, Run
from lwgraph.flat import flat
from lwgraph.layers.site import Site
from lwgraph.measure.compare import compare

HELD_OUT_SHARE = 0.25
ROWS, BYTES = 16, 1 << 18  # of inputs that are run together, at most


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
            size = sum(value.nbytes for value in flat(found).values())
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


def together(
    feeds: Sequence[Feeds], held: Collection[int], models: Sequence[ir.Model], executor: Executor
) -> tuple[list[Feeds], set[int]]:
    """The feeds with several small ones in one, and the numbers of those that are held out.

    A network is run piece by piece, and of small inputs a piece takes less than the call of it. Feeds of different
    shapes stay as they are, and so do all of models whose outputs for several samples are not those of each.

    Args:
        feeds: of the models.
        held: the numbers of those that are held out: they are only put together with each other.
        models: all that are run on them.
        executor: what runs them.
    """
    inputs = signature(models[0])
    batched = batched_inputs(inputs)
    open_ = all(n in batched and not isinstance(i.shape[0], int) for n, i in inputs.items() if i.shape is not None)
    shapes = {tuple((n, np.asarray(a).shape[1:]) for n, a in feed.items()) for feed in feeds}
    if len(feeds) < 3 or not batched or not open_ or len(shapes) > 1 or set(feeds[0]) != set(batched):
        return list(feeds), set(held)
    size = max(max(len(a) for a in feed.values()) for feed in feeds)
    nbytes = max(sum(np.asarray(a).nbytes for a in feed.values()) for feed in feeds)
    count = min(ROWS // max(size, 1), BYTES // max(nbytes, 1))
    if count < 2 or any(not _alike(model, feeds[:count], executor) for model in models):
        return list(feeds), set(held)
    parts = [i for i in range(len(feeds)) if i in held], [i for i in range(len(feeds)) if i not in held]
    groups = [  # of about the same size: as many positions are looked at in each
        group.tolist() for part in parts if part for group in np.array_split(part, math.ceil(len(part) / count))
    ]
    numbers = {number for number, group in enumerate(groups) if group[0] in held}
    return [_joined([feeds[i] for i in group]) for group in groups], numbers


def _joined(feeds: Sequence[Feeds]) -> Feeds:
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def _alike(model: ir.Model, feeds: Sequence[Feeds], executor: Executor) -> bool:
    """Whether a model gives for several feeds in one what it gives for each."""
    run = executor.prepare(model)
    try:
        apart, one = [run(feed) for feed in feeds], run(_joined(feeds))
        wanted = {name: np.concatenate([np.asarray(each[name]) for each in apart]) for name in one}
    except (LwgraphError, ValueError):  # a shape that is fixed inside, or outputs without an axis of samples
        return False
    return compare(wanted, one, Contract.ROUNDING).ok


__all__ = ["HELD_OUT_SHARE", "Remembering", "chosen_feeds", "output_error", "output_rows", "together"]
