"""Measures the price of a form in a small model, interleaved with the dense layer, and keeps it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lwgraph import ir
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.errors import LwgraphError
from lwgraph.executor import Executor, Feeds, Run, in_calling_thread, settings
from lwgraph.layers.form import Form
from lwgraph.layers.site import Site
from lwgraph.layers.substitute import Build, formed, original
from lwgraph.measure.latency import shortest
from lwgraph.measure.work import count
from lwgraph.plan.precision import DYNAMIC, FLOAT
from lwgraph.plan.price.price_table import PriceCache, processor
from lwgraph.plan.price.regress import FIRST, FLOATS, INTEGERS, NEVER, SWITCH, settle
from lwgraph.plan.price.timed_model import TimedModels

HOPELESS = 1.5  # times what the dense layer takes in floats: a form's time that need not be known well
WORK = 1e-7  # milliseconds per multiply-accumulate, where work stands for time
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
    """Prices forms at sites for one target, in floats and in integers.

    A layer is timed in a small model (see `TimedModels`), and what its neighbours cost is measured by a model without
    the layer and taken off. Dense, forms and the empty models run in turn, so that a busy machine slows all alike;
    the shortest run of each counts. Layers whose sizes differ by less than a few percent share a measurement (their
    ratio; the time is scaled by their work). What lies between integers and floats, conversion and change of
    layout, is priced on its own: `switch`.

    Prices are measured by one process, one after another, and never while calibration or trials run: work side by side
    shares caches, memory bandwidth and the processor's clock, which no choice of clock takes out of a time. `lwgraph
    measure MODEL` fills the cache ahead, on a machine that does nothing else.

    Args:
        executor: the target; its options (threads) are part of the key.
        cache: where prices are kept; None for the user's cache folder.
        budget: seconds per option, the time to load the model not counted.
    """

    measures = True  # whether whole models can be timed on the target, too

    def __init__(self, executor: Executor, cache: PriceCache | None = None, budget: float = 0.03) -> None:
        self.executor, self.budget = executor, budget
        self.cache = PriceCache() if cache is None else cache
        self._target = [
            executor.name,
            *map(str, settings(executor)),
            processor(),
        ]

    @property
    def target(self) -> str:
        """The target for which the prices hold, in words."""
        name, version, _, threads, cpu = self._target
        return " ".join(word for word in (name, version, f"threads={threads}" if threads else "", cpu) if word)

    def prices(self, site: Site, forms: Sequence[Form | None], precision: str = FLOAT) -> list[Price]:
        """The price of each form (None: the dense layer) at `site`, against the dense layer in floats.

        What is not in the cache is measured together.
        """
        shape = _bucket(site)
        keys, scale = self._keys(site, forms, precision)
        missing = [i for i, key in enumerate(keys) if self.cache.get(key) is None]
        if missing:
            timed, wanted = TimedModels(self.executor, site, shape), [(keys[i], forms[i]) for i in missing]
            measure = {FLOAT: self._measure, DYNAMIC: self._measure_dynamic}.get(precision, self._measure_integers)
            measure(timed, wanted)
        found = [self.cache.get(key) for key in keys]
        return [Price(row[0] * scale, row[1] * scale) for row in found if row is not None]

    def switch(self, site: Site) -> float:
        """Milliseconds to bring the site's input from floats into integers and back, layouts included."""
        key, scale = self._switch_key(site)
        if not key:
            return 0.0
        if self.cache.get(key) is None:
            timed = TimedModels(self.executor, site, _bucket(site))
            runs = timed.switch()
            if not runs:
                return 0.0
            self._carry_out(SWITCH, [key], runs, timed)
        row = self.cache.get(key)
        assert row is not None
        return row[1] * scale

    def _switch_key(self, site: Site) -> tuple[str, float]:
        """The key of a switch, "" where nothing switches, and the factor from the kept price to this layer's."""
        shape = _bucket(site)
        scale = math.prod(d or 1 for d in site.input_shape or shape) / math.prod(shape)
        return json.dumps([self._target, "border", shape, str(site.dtype)]) if len(site.kernel) == 2 else "", scale

    def whole(self, models: Mapping[str, ir.Model], feeds: Sequence[Feeds], seconds: float = 2.0) -> list[float]:
        """Milliseconds of one run of each whole model, timed in turn, and remembered by their fingerprints."""
        key = json.dumps([self._target, "whole", *(ir.fingerprint(model) for model in models.values())])
        names = [json.dumps([key, name]) for name in models]
        if any(self.cache.get(name) is None for name in names):
            runs = {name: self.executor.prepare(model) for name, model in models.items()}
            least, rounds = shortest(list(runs.values()), feeds[0], seconds=seconds, clock=self._clock)
            for name, value in zip(names, least, strict=True):
                self.cache.put(name, 1e3 * least[0], 1e3 * value, rounds)
        return [row[1] for name in names if (row := self.cache.get(name)) is not None]

    def against(
        self, reference: ir.Model, reference_ms: float, model: ir.Model, feeds: Sequence[Feeds], seconds: float = 2.0
    ) -> float:
        """Milliseconds of one run of `model` at a moment when `reference` takes `reference_ms`.

        The two are timed in turn: times that were measured one after the other tell more of what else the machine did
        than of the models.
        """
        before, after = self.whole({"reference": reference, "it": model}, feeds, seconds)
        return reference_ms * after / before

    @property
    def _clock(self) -> Callable[[], float]:
        """A target that computes in the calling thread is timed by that thread's own clock, which stands still while
        other processes have the processor."""
        return time.thread_time if in_calling_thread(self.executor) else time.perf_counter

    def _carry_out(self, kind: str, keys: Sequence[str], runs: Sequence[Run], timed: TimedModels) -> None:
        """Time `runs` side by side, and keep the prices that come of it; see `settle`."""
        least, rounds = shortest(
            runs, timed.feeds, seconds=self.budget * len(runs), clock=self._clock, hopeless=HOPELESS
        )
        rows = settle(kind, [1e3 * value for value in least])
        self.cache.put_many([(key, *row, rounds) for key, row in zip(keys, rows, strict=True)])

    def _keys(self, site: Site, forms: Sequence[Form | None], precision: str) -> tuple[list[str], float]:
        """The keys of the prices at `site`, which similar layers share, and the factor from those to this layer's."""
        shape = _bucket(site)
        scale = site.macs() / max(1, _macs_at(site, shape))
        return [self._key(site, shape, form, precision) for form in forms], scale

    def _key(self, site: Site, shape: tuple[int, ...], form: Form | None, precision: str) -> str:
        layer = [*(v for v in site.key() if v != site.input_shape), shape, site.activation]
        words = [] if precision == FLOAT else [precision, *(["first"] if site.first else [])]
        return json.dumps([self._target, layer, "dense" if form is None else str(form), *words], default=str)

    def _measure(self, timed: TimedModels, wanted: Sequence[tuple[str, Form | None]]) -> None:
        dense = timed.floats(original(timed.site))
        runs, kept = [dense, timed.empty()], []
        for key, form in wanted:
            try:
                runs.append(dense if form is None else timed.floats(_build(timed.site, form)))
                kept.append(key)
            except LwgraphError:
                self.cache.put(key, *NEVER, 0)
        self._carry_out(FLOATS, kept, runs, timed)

    def _measure_dynamic(self, timed: TimedModels, wanted: Sequence[tuple[str, Form | None]]) -> None:
        made = [(key, timed.dynamic(_build(timed.site, form))) for key, form in wanted]
        self.cache.put_many([(key, *NEVER, 0) for key, run in made if run is None])
        kept = [(key, run) for key, run in made if run is not None]
        if kept:
            runs = [timed.floats(original(timed.site)), timed.empty(), *(run for _, run in kept)]
            self._carry_out(FLOATS, [key for key, _ in kept], runs, timed)

    def _measure_integers(self, timed: TimedModels, wanted: Sequence[tuple[str, Form | None]]) -> None:
        made = [(key, timed.integers(_build(timed.site, form))) for key, form in wanted]
        relays = timed.relays() if any(run is not None for _, run in made) else []
        kept = [(key, run) for key, run in made if run is not None and relays]
        present = {key for key, _ in kept}
        self.cache.put_many([(key, *NEVER, 0) for key, _ in made if key not in present])
        if not kept:
            return
        runs = [timed.floats(original(timed.site)), timed.empty(), *relays, *(run for _, run in kept)]
        self._carry_out(FIRST if timed.first else INTEGERS, [key for key, _ in kept], runs, timed)


class WorkOracle(Oracle):
    """Prices in proportion to multiply-accumulates: for targets that are not at hand. Nothing is measured."""

    @property
    def target(self) -> str:
        """The name of the target: work stands for time."""
        return "multiply-accumulates"

    def prices(self, site: Site, forms: Sequence[Form | None], precision: str = FLOAT) -> list[Price]:
        """WORK milliseconds per multiply-accumulate, in any precision."""
        taken = [site.macs() if form is None else form.macs(site) for form in forms]
        return [Price(WORK * site.macs(), WORK * macs) for macs in taken]

    def switch(self, site: Site) -> float:
        """0: only layers count as work."""
        return 0.0

    def whole(self, models: Mapping[str, ir.Model], feeds: Sequence[Feeds], seconds: float = 0.0) -> list[float]:
        """The work of the layers on the first of the feeds."""
        macs = [count(model, layer_shapes(model, feeds[0], self.executor)).macs for model in models.values()]
        return [WORK * (found or 0) for found in macs]


def _build(site: Site, form: Form | None) -> Build:
    return original(site) if form is None else formed(form.blank(site))


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


__all__ = ["WORK", "Oracle", "Price", "WorkOracle"]
