"""How much each layer's error matters at the network's output, measured by replacing one layer at a time."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from lwgraph import ir, registry
from lwgraph.arrays import Floats, Weights, slabs
from lwgraph.calibrate.partial_runs import MEMORY_BYTES, PartialRuns
from lwgraph.calibrate.subsample import spread
from lwgraph.executor import Executor, Feeds, Run, settings, untimed
from lwgraph.failures import Failures
from lwgraph.layers.emit import Emitter
from lwgraph.layers.form import Fitted, Form
from lwgraph.layers.moments import Moments
from lwgraph.layers.site import Site, find_sites
from lwgraph.layers.substitute import substitute
from lwgraph.measure.distance import RunLoss
from lwgraph.plan.search.items import Item
from lwgraph.progress import Progress, silent
from lwgraph.tasks.pool import Pool, finished

PROBE = 0.02  # relative output error of the replacement that is tried, about
MOST_MEASURED = 128  # layers: each takes a session of the whole model, so that all of a long one took the square of it
LEAST = 1e-3  # a layer matters at least this share of the median: a few samples may not show what it does


@dataclass(frozen=True)
class _Dense(Form):
    """A layer of the same kind with another kernel."""

    name: ClassVar[str] = "dense"

    @classmethod
    def refusal(cls, site: Site) -> str:
        return ""

    @classmethod
    def menu(cls, site: Site) -> Sequence[Form]:
        return [cls()]

    @classmethod
    def full(cls, site: Site) -> Form:
        return cls()

    def fit(self, site: Site, moments: Moments) -> Fitted:
        return self.fitted(site, moments, {}, site.weight)

    def emit(self, op: Emitter, x: ir.Value, fitted: Fitted) -> ir.Value:
        return op.stage(x, fitted.kernel, "dense", bias=fitted.bias, group=fitted.site.group)

    def macs(self, site: Site) -> int:
        return site.macs()


def measure(
    model: ir.Model,
    items: Sequence[Item],
    loss: RunLoss,
    executor: Executor,
    progress: Progress = silent,
    *,
    feeds: Sequence[Feeds] = (),
    memory_bytes: int = MEMORY_BYTES,
    pool: Pool | None = None,
    failures: Failures | None = None,
) -> dict[str, float]:
    """By item name: the loss at the network's output per relative error of the item's own output.

    One layer at a time gets the dense equivalent of a form whose error is near PROBE, fitted to its start only, and
    the network runs with it. Layers without forms get their own weight, rounded to give such an error. Costs one
    session and one evaluation of `loss` per item, of what is behind the layer where `feeds` are given.

    Args:
        model: the float model that the items are of; it is not changed.
        items: with moments and options.
        loss: of a network, ready to run; 0 for the original.
        executor: what runs it.
        progress: called with (what, done, total).
        feeds: all that `loss` runs, the very objects.
        memory_bytes: for what the network gives before the layers on them.
        pool: runs the networks side by side, with the same results; the kernels are fitted here.
        failures: told of a layer whose network cannot be run; the layer counts as the median does.
    """
    failures, asked = failures or Failures(), dict[str, tuple[float, Callable[[], float]]]()
    picked = spread(items, MOST_MEASURED)
    threads = int(settings(executor).threads or 1)
    setting = Setting(
        ir.to_proto(model).SerializeToString() if pool is not None else b"",
        executor.name,
        threads,
        loss,
        list(feeds),
        starts(model, picked),
        memory_bytes,
    )
    if pool is None:
        setting.use(model, executor)
    started = _here(setting) if pool is None else _beside(setting, pool)
    for index, item in enumerate(picked):
        progress("measuring sensitivities", index, len(picked))
        with failures.guard(f"forms: the sensitivity of layer '{item.name}'"):
            kernel, error = _probe(item)
            if kernel is not None:
                asked[item.name] = error, started(_replacement(item, kernel))
    found = dict[str, float]()
    for name, (error, measured) in asked.items():
        with failures.guard(f"forms: the sensitivity of layer '{name}'"):
            found[name] = measured() / error
    progress("measuring sensitivities", len(picked), len(picked))
    positive = sorted(value for value in found.values() if value > 0)
    middle = positive[len(positive) // 2] if positive else 1.0
    known = [max(found.get(item.name, middle), LEAST * middle) for item in picked]
    return _between([item.name for item in items], [item.name for item in picked], known)


def _between(names: Sequence[str], picked: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """The values of some names, and those of the others between them, by the logarithm and the place in the row."""
    if not picked:
        return {}
    at = {name: index for index, name in enumerate(names)}
    found = np.exp(np.interp(np.arange(len(names)), [at[name] for name in picked], np.log(values)))
    return {name: float(value) for name, value in zip(names, found, strict=True)} | dict(
        zip(picked, values, strict=True)
    )


@dataclass(frozen=True, eq=False)
class Replacement:
    """Another canonical kernel for some layers, means kept by their biases."""

    names: frozenset[str]
    kernel: Weights
    shift: Floats

    def within(self, model: ir.Model) -> ir.Model:
        """A copy of the model with it."""
        copy, shared = ir.clone(model), dict[str, ir.Value]()
        for site in find_sites(copy):
            if site.name in self.names:
                substitute(Fitted(_Dense(), site, {}, self.kernel, self.shift, 0.0, False), shared)
        return copy


@dataclass
class Setting:
    """What all replacements in one network have in common; sent to each worker once.

    Attributes:
        model: serialized.
        executor, threads: what runs it.
        loss: of a network that is ready to run.
        feeds: all that it runs; none: networks are run as a whole.
        starts: numbers of the nodes from which on networks are run.
        memory_bytes: for what is live there.
    """

    model: bytes
    executor: str
    threads: int
    loss: RunLoss
    feeds: Sequence[Feeds]
    starts: Sequence[int]
    memory_bytes: int
    _loaded: tuple[ir.Model, Callable[[ir.Model], Run]] | None = field(default=None, repr=False)

    def use(self, model: ir.Model, executor: Executor) -> None:
        """Let this be the network, and what runs it."""
        quick = untimed(executor)
        if self.feeds:
            partial = PartialRuns(model, self.feeds, quick, self.starts, self.memory_bytes)
            self._loaded = model, partial.behind
        else:
            self._loaded = model, quick.prepare

    def measure(self, replacement: Replacement) -> float:
        """The loss of the network with a replacement."""
        if self._loaded is None:
            self.use(ir.load(self.model), registry.executor(self.executor, threads=self.threads))
        assert self._loaded is not None
        model, prepare = self._loaded
        return self.loss(prepare(replacement.within(model)))


def starts(model: ir.Model, items: Sequence[Item]) -> list[int]:
    """Numbers of the first nodes of the items' layers in the main graph; 0 for layers in bodies."""
    numbers = {node: index for index, node in enumerate(model.graph)}
    return [min(numbers.get(site.nodes[0], 0) for site in item.sites) for item in items]


def _here(setting: Setting) -> Callable[[Replacement], Callable[[], float]]:
    def started(replacement: Replacement) -> Callable[[], float]:
        measured = setting.measure(replacement)
        return lambda: measured

    return started


def _beside(setting: Setting, pool: Pool) -> Callable[[Replacement], Callable[[], float]]:
    shared: Any = pool.share(setting)
    return lambda replacement: functools.partial(finished, pool.submit(Setting.measure, shared, replacement))


def _replacement(item: Item, kernel: Weights) -> Replacement:
    assert item.moments is not None
    fit = _Dense().fitted(item.sites[0], item.moments(), {}, kernel)
    return Replacement(frozenset(site.name for site in item.sites), fit.kernel, fit.shift)


def stitched(model: ir.Model, item: Item, kernel: Weights) -> ir.Model:
    """A copy of the model in which the item's layers have another canonical kernel, means kept by their biases."""
    return _replacement(item, kernel).within(model)


def _probe(item: Item) -> tuple[Weights | None, float]:
    """A kernel near the item's own, and its expected relative error; None where nothing can be tried."""
    if item.moments is None:
        return None, 0.0
    moments, site = item.moments(), item.sites[0]
    forms = [o for o in item.options if o.form is not None and 0 < o.error < math.inf]
    if forms:
        nearest = min(forms, key=lambda o: abs(math.log(o.error / PROBE)))
        assert nearest.form is not None
        kernel = nearest.form.at(site).fit(site, moments.quick()).kernel
    else:
        kernel = rounded(site.stored)
    error = moments.expected(kernel)
    return (kernel, error) if 0 < error < math.inf else (None, 0.0)


def rounded(weight: Weights, levels: int = 7) -> Weights:
    """`weight` (o, ...) with every output's entries rounded to `levels` steps up to the largest, in its own type."""
    flat = weight.reshape(len(weight), -1)
    step = np.maximum(flat.max(axis=1, keepdims=True), -flat.min(axis=1, keepdims=True)).astype(np.float64) / levels
    step[step == 0] = 1
    result = np.empty_like(flat, order="C")
    for part in slabs(flat.shape):
        result[part] = np.rint(flat[part] / step[part]) * step[part]
    return result.reshape(weight.shape)


__all__ = ["measure", "rounded", "stitched"]
