"""What a form costs in milliseconds: measured in a small model, interleaved with the dense layer, and remembered."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lwgraph import ir
from lwgraph.errors import LwgraphError
from lwgraph.executor import Executor, Run
from lwgraph.measure.latency import paired_latency
from lwgraph.plan.cache import PriceCache, processor
from lwgraph.plan.emit import Emitter
from lwgraph.plan.form import Form
from lwgraph.plan.site import Site
from lwgraph.plan.substitute import Build, formed, original, small_model

NOMINAL = 32  # image size assumed where it is unknown


@dataclass(frozen=True)
class Price:
    """Milliseconds of a layer: dense, and in a form. `ms` is inf when the runtime cannot run the form."""

    dense_ms: float
    ms: float

    @property
    def ratio(self) -> float:
        """Form over dense; below 1 is faster."""
        return self.ms / self.dense_ms if self.dense_ms > 0 else math.inf


class Oracle:
    """Prices forms at sites for one target.

    A small model is x -> MaxPool 1x1 -> layer -> its activation -> GlobalMaxPool: the neighbours keep a runtime's
    blocked layout alive as they would in the network, and what they cost is measured by a model without the layer and
    taken off. Dense, forms and the empty model run in turn (`paired_latency`), so that a busy machine slows all alike;
    the least time of each counts. Layers whose sizes differ by less than a few percent share a measurement (their
    ratio; the time is scaled by their work).

    Args:
        executor: the target; its options (threads) are part of the key.
        cache: where prices are kept; None for the user's cache folder.
        budget: seconds per option, the time to load the model not counted.
    """

    def __init__(self, executor: Executor, cache: PriceCache | None = None, budget: float = 0.1) -> None:
        self.executor, self.budget = executor, budget
        self.cache = PriceCache() if cache is None else cache
        self._target = [
            executor.name, str(getattr(executor, "version", "")), str(getattr(executor, "level", "")),
            str(getattr(executor, "threads", "")), processor(),
        ]  # fmt: skip

    @property
    def target(self) -> str:
        """What the prices hold for, for people."""
        name, version, _, threads, cpu = self._target
        return " ".join(word for word in (name, version, f"threads={threads}" if threads else "", cpu) if word)

    def prices(self, site: Site, forms: Sequence[Form]) -> list[Price]:
        """The price of each form at `site`. Forms not in the cache are measured together with the dense layer."""
        shape = _bucket(site)
        keys = [self._key(site, shape, form) for form in forms]
        missing = [i for i, key in enumerate(keys) if self.cache.get(key) is None]
        if missing:
            self._measure(site, shape, [(keys[i], forms[i]) for i in missing])
        scale = site.macs() / max(1, _macs_at(site, shape))
        found = [self.cache.get(key) for key in keys]
        return [Price(row[0] * scale, row[1] * scale) for row in found if row is not None]

    def _key(self, site: Site, shape: tuple[int, ...], form: Form) -> str:
        layer = [*(v for v in site.key() if v != site.input_shape), shape, site.activation]
        return json.dumps([self._target, layer, str(form)], default=str)

    def _measure(self, site: Site, shape: tuple[int, ...], wanted: Sequence[tuple[str, Form]]) -> None:
        opset = ir.opset(site.node)
        feeds = {"x": np.random.default_rng(0).standard_normal(shape).astype(site.dtype)}
        dense = self._prepared(site, original(site), shape, opset)
        empty = self._prepared(site, lambda op, x: x, shape, opset)
        runs, kept = [dense, empty], []
        for key, form in wanted:
            try:
                runs.append(self._prepared(site, formed(form.blank(site)), shape, opset))
                kept.append(key)
            except LwgraphError:
                self.cache.put(key, 1.0, math.inf, 0)
        named = {str(index): run for index, run in enumerate(runs)}
        measured = paired_latency(named, [feeds], seconds=self.budget * len(runs))
        times = [1e3 * timing.minimum for timing in measured.timings]
        # The empty model is an estimate of the neighbours' cost; leave at least a tenth to the layer.
        base = min(times[1], 0.9 * min([times[0], *times[2:]]))
        for key, ms in zip(kept, times[2:], strict=True):
            self.cache.put(key, times[0] - base, ms - base, measured.rounds)

    def _prepared(self, site: Site, build: Build, shape: tuple[int, ...], opset: int) -> Run:
        def within(op: Emitter, x: ir.Value) -> ir.Value:
            pooled = len(site.kernel) in (1, 2, 3)
            x = op.MaxPool(x, kernel_shape=(1,) * len(site.kernel)) if pooled else x
            y = _activated(op, build(op, x), site.activation)
            return op.GlobalMaxPool(y) if pooled else y

        return self.executor.prepare(small_model(site, within, shape, opset))


def _activated(op: Emitter, y: ir.Value, activation: str) -> ir.Value:
    if activation == "Silu":
        return op.Mul(y, op.Sigmoid(y))
    if activation == "Clip":
        low, high = (op.const(np.array(v, op.site.dtype), stem) for v, stem in ((0, "low"), (6, "high")))
        return op.Clip(y, low, high)
    return op.node(activation, [y]) if activation else y


def _bucket(site: Site) -> tuple[int, ...]:
    """The input shape to measure at: the site's, image sizes rounded to one of eight steps per octave."""
    known = site.input_shape
    if not site.kernel:
        rows = [d or 1 for d in known[:-1]] if known is not None else [1]
        return (*(_round(d) for d in rows), site.inputs)
    spatial = [None] * len(site.kernel) if known is None else known[2:]
    batch = 1 if known is None or known[0] is None else known[0]
    sizes = []
    for size, k, d in zip(spatial, site.kernel, site.dilations, strict=True):
        sizes.append(max(_round(NOMINAL if size is None else size), (k - 1) * d + 1))
    return (batch, site.inputs, *sizes)


def _round(size: int) -> int:
    if size <= 16:
        return size
    step = 1 << (size.bit_length() - 4)
    return (size + step // 2) // step * step


def _macs_at(site: Site, shape: tuple[int, ...]) -> int:
    """The layer's work at another input size, in proportion."""
    known = site.input_shape
    if known is None or None in known:
        return site.macs()
    channels = 1 if site.kernel else len(known) - 1
    actual, other = (math.prod(d or 1 for a, d in enumerate(sizes) if a != channels) for sizes in (known, shape))
    return site.macs() * other // max(1, actual)


__all__ = ["Oracle", "Price"]
