"""How much each thing that may be left out matters at the network's output: measured, one at a time, and remembered."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lwgraph import ir
from lwgraph.arrays import Array, Floats
from lwgraph.cache import Rows, cache_path, facts_of
from lwgraph.calibrate.partial_runs import ROOM, PartialRuns
from lwgraph.errors import LwgraphError
from lwgraph.executor import Executor, Feeds, Run, untimed
from lwgraph.plan.roles import Removal, Removes
from lwgraph.rewrite.base import Context

VERSION = 1  # part of the file name: raise it when the meaning of a loss changes
TINY, LARGEST = 1e-12, 1e6  # of a predicted loss; of a measured one, that of a model that gives no numbers
Outputs = Mapping[str, Array]


@dataclass(frozen=True)
class Sensitivity:
    """What one removal does to the network's output.

    Attributes:
        removal: what is left out.
        loss: see `Reference.loss`.
    """

    removal: Removal
    loss: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data; an infinite loss (the model does not run, or gives no numbers) becomes None."""
        return {**asdict(self.removal), "loss": self.loss if math.isfinite(self.loss) else None}


class Reference:
    """A model's outputs on some feeds, to which those of changed copies are compared. Held in memory.

    Args:
        model: the model.
        feeds: what to run it on.
        executor: what runs it.
    """

    def __init__(self, model: ir.Model, feeds: Sequence[Feeds], executor: Executor) -> None:
        self.feeds, self.executor = feeds, untimed(executor)
        run = self.executor.prepare(model)
        self._outputs: list[Outputs] = [dict(run(feed)) for feed in feeds]
        self._power = {name: self._spread(name) for name in (self._outputs[0] if self._outputs else {})}

    def _spread(self, name: str) -> float:
        """||Y - mean Y||^2, the mean over samples; ||Y||^2 where samples do not differ; elements, of integers."""
        arrays = [np.asarray(each[name]) for each in self._outputs]
        if arrays[0].dtype.kind != "f":
            return float(sum(array.size for array in arrays))
        mean: Any = 0.0
        if arrays[0].ndim and len({array.shape[1:] for array in arrays}) == 1:
            rows = sum(len(array) for array in arrays)
            mean = np.sum([array.sum(0, dtype=np.float64) for array in arrays], axis=0) / max(1, rows)
        found = [float(sum(np.square(array - m, dtype=np.float64).sum() for array in arrays)) for m in (mean, 0.0)]
        return found[0] if found[0] > 1e-12 * found[1] else found[1]

    def loss(self, model: ir.Model, behind: Callable[[ir.Model], Run] | None = None) -> float:
        """||Y - Yhat||^2 / ||Y - mean Y||^2, the mean of all outputs; of integers the share that differs.

        inf when the model does not run, or gives other shapes or no numbers.

        Args:
            model: the changed copy.
            behind: makes it ready to run on `feeds`, the very objects, in another way; see `PartialRuns`.
        """
        gaps = dict.fromkeys(self._power, 0.0)
        try:
            run = (behind or self.executor.prepare)(model)
            for feed, expected in zip(self.feeds, self._outputs, strict=True):
                found = run(feed)
                for name, wanted in expected.items():
                    gaps[name] += _gap(np.asarray(wanted), np.asarray(found[name]))
        except LwgraphError:
            return math.inf
        shares = [
            gap / self._power[name] if self._power[name] > 0 else (math.inf if gap else 0.0)
            for name, gap in gaps.items()
        ]
        return float(np.mean(shares)) if shares else 0.0


def _gap(wanted: Array, found: Array) -> float:
    if wanted.shape != found.shape:
        return math.inf
    if wanted.dtype.kind != "f":
        return float(np.count_nonzero(wanted != found))
    gap = float(np.square(wanted.astype(np.float64) - found).sum())
    return gap if math.isfinite(gap) else math.inf


def measure_sensitivity(
    model: ir.Model,
    remover: Removes,
    context: Context,
    feeds: Sequence[Feeds],
    *,
    options: Sequence[Removal] | None = None,
    folder: Path | None = None,
) -> list[Sensitivity]:
    """Leave out one thing at a time, at each size, and measure what becomes of the network's output.

    Results are written to the cache folder after each measurement, so a run that was stopped goes on where it was.
    They are found again for the same model, feeds, remover (its options too), calibration and executor.

    Args:
        model: the model; it is not changed.
        remover: a pass that removes; its spelling is part of what the results are found again by.
        context: statistics to fit with, the executor, progress.
        feeds: what to measure on; samples that the statistics have not seen give the honest figure.
        options: what to try; None: all that the remover offers.
        folder: the cache's; None for the user's.

    Returns:
        one for each option that could be measured, in order. One run over `feeds` for each that is not known yet.

    Raises:
        LwgraphError: no feeds, or the model itself cannot run.
    """
    if not feeds:
        raise LwgraphError("sensitivities are measured on samples; there are none")
    executor = context.executor or context.evaluator()
    listed = remover.options(model, context) if options is None else list(options)
    facts = (ir.fingerprint(model), remover, *facts_of(executor), context.seed)
    fit = context.data or [] if context.statistics is not None else []
    kept = Rows(cache_path(f"sensitivity-{VERSION}", facts, feeds, fit, folder=folder), "sensitivities are")
    reference: Reference | None = None
    partial: PartialRuns | None = None
    numbers = {node.name: index for index, node in enumerate(model.graph) if node.name}
    starts = [min((numbers.get(name, 0) for name in option.nodes), default=0) for option in listed]
    found = []
    for done, option in enumerate(listed):
        context.progress("measuring sensitivities", done, len(listed))
        name = f"{option.item}={option.kept}"
        loss = kept.get(name)
        if loss is None:
            reference = reference or Reference(model, feeds, executor)
            partial = partial or PartialRuns(model, feeds, executor, starts, context.bytes_of(ROOM))
            with context.failures.guard(f"{remover.name}: sensitivity of '{option.item}'"):
                copy = ir.clone(model)
                remover.apply(copy, {option.item: option.kept}, context)
                loss = reference.loss(copy, partial.behind)
                kept.put(name, loss)
        if loss is None:
            continue
        found.append(Sensitivity(option, loss))
    context.progress("measuring sensitivities", len(listed), len(listed))
    if kept.warning:
        context.warn(kept.warning)
    return found


def to_measured(gone: npt.ArrayLike, predicted: npt.ArrayLike, points: Sequence[tuple[int, float]]) -> Floats:
    """Predicted losses of taking so much away, scaled to what was measured at the network's outputs of some of them.

    Between the points the factor from predicted to measured is interpolated, so that the prediction gives the shape and
    the measurement the size.

    Args:
        gone: (n,) how much goes, ascending.
        predicted: (n,) the losses.
        points: how much went and the loss that was measured, at least one; each is among `gone`.

    Returns:
        (n,), never falling.
    """
    amounts, losses = np.asarray(gone, np.float64), np.asarray(predicted, np.float64)
    at, found = (np.array(side, np.float64) for side in zip(*sorted(points), strict=True))
    there = np.maximum(losses[np.searchsorted(amounts, at)], TINY)
    factor = np.interp(amounts, at, np.minimum(found, LARGEST) / there)
    return np.asarray(np.maximum.accumulate(losses * factor))


def split_feeds(feeds: Sequence[Feeds]) -> tuple[list[Feeds], list[Feeds]]:
    """Three quarters to fit with, every fourth to measure on; a single feed serves for both."""
    if len(feeds) < 2:
        return list(feeds), list(feeds)
    every = min(4, len(feeds))
    held = list(feeds[every - 1 :: every])
    return [feed for index, feed in enumerate(feeds) if index % every != every - 1], held


__all__ = ["Reference", "Sensitivity", "measure_sensitivity", "split_feeds", "to_measured"]
