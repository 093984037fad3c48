"""Trials of plans as tasks: workers stitch plans and measure their losses, ahead of the search that asks for them."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any

from lwgraph import ir, registry
from lwgraph.alarm import OutOfTime
from lwgraph.arrays import Floats, Shapes, Weights
from lwgraph.calibrate.known_ranges import KnownRanges
from lwgraph.calibrate.subsample import spread
from lwgraph.errors import CheckError
from lwgraph.executor import Executor, Feeds, settings
from lwgraph.failures import say
from lwgraph.layers.form import Fitted, parse_form
from lwgraph.layers.site import Site, find_sites
from lwgraph.measure.distance import Loss
from lwgraph.plan.carry_out import carry_out
from lwgraph.plan.plan import KEEP, Plan
from lwgraph.plan.search.form_ranges import observe_forms
from lwgraph.plan.search.planner import Planner
from lwgraph.rewrite.base import Context
from lwgraph.tasks.pool import Pool, Shared, finished

LINGER = 30.0  # seconds that a trial at work is waited for that nobody asked for


@dataclass
class Setting:
    """What all trials of a search have in common; sent to each worker once.

    Attributes:
        model: the cleaned model, serialized.
        executor, threads: the target's.
        samples: that integer ranges are taken from.
        loss: of a stitched network that is ready to run.
        shapes: measured sizes by value name.
        seed: of the context.
        ranges: known of the model's values.
    """

    model: bytes
    executor: str
    threads: int
    samples: list[Feeds]
    loss: Loss
    shapes: Shapes | None
    seed: int
    ranges: KnownRanges | None = None
    _context: Context | None = field(default=None, repr=False)
    _base: ir.Model | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Without what each worker makes for itself."""
        return {**vars(self), "_context": None, "_base": None}

    def measure(self, plan: Plan, fits: Mapping[str, FitData]) -> float:
        """The loss of one plan, as `Search` measures it."""
        if self._base is None or self._context is None:
            self._base = ir.load(self.model)
            executor = registry.executor(self.executor, threads=self.threads)
            self._context = Context(executor, registry.executor("reference"), data=self.samples, seed=self.seed)
            self._context = self._context.beside(ranges=self.ranges)
        context = self._context
        sites = {site.name: site for site in find_sites(self._base, self.shapes)}
        fitted = {name: data.at(sites[name]) for name, data in fits.items()}
        observe_forms(self._base, plan, context, fitted, shapes=self.shapes)
        model = carry_out(self._base, plan, context, shapes=self.shapes, fitted=fitted).model
        assert context.executor is not None
        return float(self.loss(context.executor.prepare(model)))


@dataclass(frozen=True, eq=False)
class FitData:
    """A fit without its layer; see `Fitted`."""

    form: str
    arrays: dict[str, Floats]
    kernel: Weights
    shift: Floats
    error: float
    measured: bool

    @classmethod
    def of(cls, fitted: Fitted) -> FitData:
        """What a worker needs of a fit."""
        return cls(str(fitted.form), fitted.arrays, fitted.kernel, fitted.shift, fitted.error, fitted.measured)

    def at(self, site: Site) -> Fitted:
        """The fit at the layer in its model."""
        return Fitted(parse_form(self.form), site, self.arrays, self.kernel, self.shift, self.error, self.measured)


def run_trial(setting: Setting, plan: Plan, names: tuple[str, ...], *fits: FitData) -> tuple[float, float, str]:
    """(loss, seconds, what went wrong); the loss is inf when something did."""
    start = time.perf_counter()
    try:
        loss, reason = setting.measure(plan, dict(zip(names, fits, strict=True))), ""
    except (KeyboardInterrupt, OutOfTime):
        raise
    except BaseException as error:
        loss, reason = math.inf, say(error)
    return loss, time.perf_counter() - start, reason


class Trials:
    """Trials under way. What they give is what the search would measure itself, so they change nothing but the time.

    Args:
        planner: of the search; fits are made here, once each, and shared.
        loss: of the search.
        executor: the target, of one that the registry knows by its name.
        pool: does the work.
    """

    def __init__(self, planner: Planner, loss: Loss, executor: Executor, pool: Pool) -> None:
        self.planner, self.pool = planner, pool
        context = planner.context
        setting = Setting(
            ir.to_proto(planner.model).SerializeToString(),
            executor.name,
            int(settings(executor).threads or 1),
            spread(context.data or [], planner.quantizing.samples),
            loss,
            planner.shapes,
            context.seed,
            planner.quantizing.known,
        )
        self._setting: Any = pool.share(setting)
        self._fits: dict[tuple[str, str], Shared] = {}
        self._running: dict[tuple[int, ...], Future[tuple[float, float, str]]] = {}

    @property
    def ahead(self) -> int:
        """How many trials should be under way."""
        return 2 * self.pool.workers

    @property
    def room(self) -> int:
        """How many more should be started."""
        return self.ahead - sum(not future.done() for future in self._running.values())

    def start(self, choice: tuple[int, ...]) -> None:
        """Begin a trial, unless that was done or it must be done here."""
        if choice in self._running:
            return
        planner = self.planner
        chosen = planner.chosen(choice)
        names: list[str] = []
        fits: list[Any] = []
        for item in planner.items:
            option = chosen.get(item.name)
            if option is None or option.form is None:
                continue
            if len(item.sites) > 1:  # fitted together, on statistics that the workers do not have
                return
            key = (item.name, str(option.form))
            if key not in self._fits:
                self._fits[key] = self.pool.share(FitData.of(planner.fitted(item, option)))
            names.append(item.name)
            fits.append(self._fits[key])
        plan = dataclasses.replace(planner.plan(chosen, quick=True), groups={}, blocks={})  # cut already
        assert all(plan.sites[name].form != KEEP for name in names)
        self._running[choice] = self.pool.submit(run_trial, self._setting, plan, tuple(names), *fits)

    def take(self, choice: tuple[int, ...]) -> tuple[float, float] | None:
        """(loss, seconds) of a trial that was begun, waiting for it; None when it was not."""
        future = self._running.get(choice)
        if future is None:
            return None
        loss, seconds = math.inf, 0.0
        with self.planner.context.failures.guard("search: a plan"):  # it may have killed the workers that tried it
            loss, seconds, reason = finished(future)
            if reason:
                raise CheckError(reason)
        return loss, seconds

    def stop(self) -> None:
        """Forget the trials that nobody asked for, and wait for those at work: what is timed next must run alone.

        Not for ever: one that hangs is given up.
        """
        wait([future for future in self._running.values() if not future.cancel()], LINGER)


__all__ = ["FitData", "Setting", "Trials", "run_trial"]
