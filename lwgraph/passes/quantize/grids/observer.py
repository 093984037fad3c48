"""Divides calibration samples into those for ranges and those for judging variants, and observes tensors on them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.calibrate.capture import main_values
from lwgraph.calibrate.ranges import SAMPLES, Observed, collect
from lwgraph.calibrate.signature import batched_inputs, signature
from lwgraph.calibrate.subsample import spread
from lwgraph.executor import Executor, Feeds
from lwgraph.rewrite import Context
from lwgraph.rewrite.provenance import PASS_KEY

FEW = 1 << 10  # elements counted per tensor and run where only the extremes choose the range
COUNTED = 1 << 19  # elements counted per tensor over all runs where these are many, and at least FEW in each
FEWEST = 2  # samples on which variants are judged, however many rows each has
LEAST_PARTED = 16  # samples; fewer are both what ranges come from and what variants are judged on


@dataclass
class Observer:
    """The observed values of one model's tensors, over one or several rows of samples.

    Args:
        model: it is not changed.
        total: samples in all, for the progress.
        samples: elements to count of each tensor in each run.
        channels: tensors of which the extremes and squares of the channels, axis 1, are wanted, too.
        prior: what `Context.ranges` does not know is had from there; None: it is observed.
    """

    model: ir.Model
    executor: Executor
    context: Context
    total: int
    samples: int
    channels: Collection[str] = ()
    prior: Callable[[list[str]], dict[str, Observed]] | None = None
    observed: dict[str, Observed] = field(default_factory=dict)
    more: dict[str, Observed] = field(default_factory=dict)
    axes: dict[str, int] = field(default_factory=dict)
    done: int = 0

    def observe(self, data: Sequence[Feeds], names: list[str], axes: dict[str, int]) -> dict[str, Observed]:
        """The named tensors, and those of `channels`, on `data`; what was observed before is not observed again."""
        if not self.observed:
            ranks = {v.name: len(v.shape) for v in main_values(self.model).values() if v.shape is not None}
            # The last axis is the first one, too, where there are two.
            last = {name: 1 for name in self.channels if ranks.get(name) == 2}
            self.axes = {**dict.fromkeys(self.channels, 1), **axes, **last}
        wanted, known = list(dict.fromkeys([*names, *self.channels])), self.context.ranges
        lacking = [n for n in wanted if n not in self.observed or (n in axes and n not in self.axes)]
        self.axes = {**axes, **self.axes}
        if lacking and (known is None or self.channels):
            self.observed |= self._collect(data, lacking, self.channels)
        elif lacking and known is not None:
            forms = {
                v.name or "": node.metadata_props.get(PASS_KEY, "") for node in self.model.graph for v in node.outputs
            }
            observe = self.prior or (lambda names: self._collect(data, names, ()))
            self.observed |= known.observe(lacking, len(data), self.samples, self.axes, observe, forms)
        return {name: self.observed[name] for name in wanted}

    def extended(self, data: Sequence[Feeds], names: Collection[str]) -> dict[str, Observed]:
        """The named tensors, which were observed, on more samples besides."""
        if any(name not in self.more for name in names):  # others will probably be asked for, too
            lacking = {name: seen for name, seen in self.observed.items() if name not in self.more}
            self.more |= self._collect(data, list(lacking), (), copy.deepcopy(lacking))
        return {name: self.more[name] for name in names}

    def _collect(
        self,
        data: Sequence[Feeds],
        names: list[str],
        extremes: Collection[str],
        into: dict[str, Observed] | None = None,
    ) -> dict[str, Observed]:
        before = self.done

        def progress(count: int) -> None:
            self.done = before + count
            self.context.progress("calibrating", self.done, self.total)

        return collect(
            self.model,
            data,
            self.executor,
            names,
            channels={name: axis for name, axis in self.axes.items() if name in names},
            extremes=extremes,
            samples=self.samples,
            seed=self.context.seed,
            progress=progress,
            into=into,
        )


def elements_counted(methods: Sequence[tuple[str, float]], total: int, ranges_only: bool) -> int:
    """Elements to count of each tensor in each of `total` runs.

    Args:
        methods: the calibration methods that will choose ranges, with their percentiles.
        total: runs.
        ranges_only: nothing but ranges is asked of the tensors, so where extremes give these nothing else is counted.
    """
    if all(method in ("minmax", "moving-average") for method, _ in methods):
        return 0 if ranges_only else FEW
    return max(FEW, min(SAMPLES, COUNTED // max(total, 1)))


class SomeSamples(Sequence[Feeds]):
    """Some of the samples, each still read when it is used."""

    def __init__(self, data: Sequence[Feeds], indices: Sequence[int]) -> None:
        self.data, self.indices = data, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        return self.data[self.indices[index]]


def parted(data: Sequence[Feeds]) -> tuple[Sequence[Feeds], Sequence[Feeds]]:
    """The first three quarters of the samples, and the last: samples in a row may be of one scene, so a row it is.

    With fewer than LEAST_PARTED to part: all, and none.
    """
    count = len(data)
    if count < LEAST_PARTED:
        return data, ()
    cut = count - count // 4
    return SomeSamples(data, range(cut)), SomeSamples(data, range(cut, count))


def judged(model: ir.Model, data: Sequence[Feeds], rows: int) -> list[Feeds]:
    """Evenly spread samples with about `rows` rows of a batch together: as many samples where each is one row, fewer
    where each is more, but FEWEST."""
    inputs = batched_inputs(signature(model))
    each = len(np.asarray(data[0][next(iter(inputs))])) if inputs and len(data) else 1
    return spread(data, min(rows, max(FEWEST, -(-rows // max(each, 1)))))


__all__ = [
    "COUNTED",
    "FEW",
    "LEAST_PARTED",
    "Observer",
    "SomeSamples",
    "elements_counted",
    "judged",
    "parted",
    "spread",
]
