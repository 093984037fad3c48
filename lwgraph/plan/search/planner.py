"""Plans one model: from choices at items to plans, stitched models, predicted times and losses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lwgraph import ir, registry
from lwgraph.arrays import Shapes
from lwgraph.layers.apply import Record, moments_of
from lwgraph.layers.form import Fitted, find_form
from lwgraph.plan.carry_out import Samples, affordable, carry_out
from lwgraph.plan.plan import Choice, Plan, Precision
from lwgraph.plan.precision import FLOAT, INT8, available, spelling
from lwgraph.plan.price.oracle import Oracle
from lwgraph.plan.search.clock import Clock
from lwgraph.plan.search.items import Item, Option, find_items, undominated
from lwgraph.plan.search.solver import Menu, total
from lwgraph.rewrite.base import Context

LOWEST, HIGHEST, STEPS = 1e-5, 0.5, 8  # thresholds of relative output error, and bisections of their logarithm
LATENCY, BYTES, MACS = "latency", "bytes", "macs"  # what a network takes of the machine
QUICK_SAMPLES = 16  # that integer ranges are taken from when plans are only compared, at least
FASTEST = 1e-3  # share of a network's time that any plan takes at least
NOTHING = Plan()
Judge = Callable[[ir.Model], float]
Chosen = Mapping[str, Option]


@dataclass(frozen=True)
class Trial:
    """One plan that was judged."""

    threshold: float
    score: float
    saved_ms: float
    accepted: bool


@dataclass(frozen=True, eq=False)
class Found:
    """The best plan found, the model it gives, what became of each choice, and all that was tried."""

    plan: Plan
    model: ir.Model
    records: list[Record]
    trials: list[Trial] = field(default_factory=list)


class Planner:
    """The items of one model, and what choices among their options mean.

    Args:
        model: the cleaned model; it is not changed.
        context: `statistics` for the errors (None: weights alone), `reference`, `seed`, `progress`.
        oracle: prices.
        shapes: measured sizes by value name (see `layer_shapes`); without them times are relative only.
        forms: names of the forms to consider; None: all that are registered.
        weights: by site name, how much its error matters; 1 where not given.
        precisions: FLOAT, and INT8 where layers may be computed in integers.
        structure: the groups and blocks that were cut to get the model; every plan says so, too.
    """

    def __init__(
        self,
        model: ir.Model,
        context: Context,
        oracle: Oracle,
        *,
        shapes: Shapes | None = None,
        forms: Sequence[str] | None = None,
        weights: Mapping[str, float] | None = None,
        precisions: Sequence[str] = (FLOAT,),
        structure: Plan = NOTHING,
    ) -> None:
        self.structure = structure
        self.model, self.context, self.oracle, self.shapes = model, context, oracle, shapes
        self._fits: dict[tuple[str, str], Fitted] = {}
        classes = [find_form(name) for name in (registry.names("forms") if forms is None else forms)]
        self.items = find_items(model, context, oracle, classes, shapes=shapes, weights=weights, precisions=precisions)
        self.run_ms: float | None = None  # of one run of the network, about; to do no more with it than takes long
        self._float_ms: float | None = None  # measured, of the whole network
        self.rest: dict[str, float] = {}  # of each resource, outside all items
        self.quick = spelling(quick=True) if available() else ""  # how plans are quantized that are only compared
        self.earnest = spelling() if available() else ""  # how plans of forms are quantized that may be delivered
        self.quick_samples = QUICK_SAMPLES  # that their ranges are taken from
        self.clock = Clock(self.items)

    # ------------------------------------------------------------ prediction

    def anchor(self, float_ms: float, int8_ms: float | None = None, size: int = 0, macs: int = 0) -> None:
        """Let predicted totals agree with measured ones: the whole network in floats, and all of it in integers.

        Args:
            float_ms, int8_ms: measured milliseconds of one run; None where there are no integers.
            size, macs: bytes and multiply-accumulates of the float network.
        """
        self._float_ms, self.rest = None, {}
        everything = self.uniform(FLOAT)
        for resource, known in ((BYTES, float(size)), (MACS, float(macs))):
            self.rest[resource] = known - self.predicted(everything, resource)
        if not self.clock.anchor_floats(float_ms):
            self.rest[LATENCY] = float_ms
            return
        if int8_ms is not None:
            self.clock.anchor_integers(int8_ms, self.uniform(INT8))
        self._float_ms = float_ms

    def fit_times(self, plans: Sequence[tuple[Sequence[int], float]]) -> None:
        """Let predicted times agree with what plans of forms were measured to take; see `Clock.fit`."""
        self.clock.fit(plans)

    def scale_integers(self, factor: float) -> None:
        """Multiply the errors that integers add, when a measurement says that they are larger or smaller."""
        for item in self.items:
            item.set_integer_error(item.integer_error * factor)

    def set_damages(self, damages: Mapping[str, float]) -> None:
        """Let integers cost at the network's outputs what was measured of them, by item name; weights must be set."""
        for item in self.items:
            if item.name in damages and item.weight > 0:
                item.set_integer_error(damages[item.name] / item.weight)

    def uniform(self, precision: str) -> tuple[int, ...]:
        """Every layer dense, in one precision where it has the option."""
        return tuple(
            next((i for i, o in enumerate(item.options) if o.form is None and o.precision == precision), 0)
            for item in self.items
        )

    def menus(
        self,
        coefficients: Sequence[float] | None = None,
        objective: str = LATENCY,
        prices: Mapping[str, float] | None = None,
    ) -> list[Menu]:
        """The items as the solver wants them.

        Args:
            coefficients: factors of the items' losses.
            objective: which resource the budget is of; edges have a price in milliseconds only.
            prices: of other resources, per unit: what an option takes of them is added to its loss.
        """
        found = []
        for index, item in enumerate(self.items):
            factor = 1.0 if coefficients is None else coefficients[index]
            loss = [
                factor * item.loss(o) + sum(p * self._amount(index, o, name) for name, p in (prices or {}).items())
                for o in item.options
            ]
            cost = [self._amount(index, o, objective) for o in item.options]
            state = [int(o.precision == INT8) for o in item.options]
            # One way is half of the price; but what one layer reads another reads, too, where a network branches.
            way = self.clock.switch_ms(item)
            edge = np.array([[0.0, way], [way, 0.0]]) if objective == LATENCY else None
            found.append(Menu.of(cost, loss, state, edge))
        return found

    def _amount(self, index: int, option: Option, resource: str) -> float:
        """What one option takes of a resource: milliseconds, bytes or multiply-accumulates."""
        if resource == BYTES:
            return float(option.bytes)
        if resource == MACS:
            return float(option.macs)
        return self.clock.ms(index, option)

    def predicted(self, choice: Sequence[int], resource: str) -> float:
        """What the whole network takes of a resource; without `anchor` the layers alone. Times are over 0."""
        raw = self.rest.get(resource, 0.0) + total(self.menus(objective=resource), choice).cost
        if resource != LATENCY or self._float_ms is None:
            return raw
        return max(raw, FASTEST * self._float_ms)

    def predicted_loss(self, choice: Sequence[int]) -> float:
        """Of the network's outputs."""
        return sum(item.loss(item.options[o]) for item, o in zip(self.items, choice, strict=True))

    def chosen(self, choice: Sequence[int]) -> dict[str, Option]:
        """The options by item name, dense float layers left out."""
        return {item.name: item.options[o] for item, o in zip(self.items, choice, strict=True) if o}

    # ------------------------------------------------------------ application

    def fitted(self, item: Item, option: Option) -> Fitted:
        """The fit of an option with a form, remembered."""
        assert option.form is not None
        key = (item.name, str(option.form))
        if key not in self._fits:
            site = item.sites[0]
            moments = item.moments or moments_of(item.sites, self.context)
            self._fits[key] = option.form.at(site).fit(site, moments)
        return self._fits[key]

    def plan(self, chosen: Chosen, *, quick: bool = False) -> Plan:
        """The plan of one choice per item; items that are not chosen stay dense and in floats.

        Args:
            chosen: the options by item name.
            quick: integers with the simplest ranges, for comparing plans.
        """
        sites: dict[str, Choice] = {}
        items = [item for item in self.items if item.name in chosen and chosen[item.name].form is not None]
        for index, item in enumerate(items):
            self.context.progress("fitting forms", index, len(items))
            option = chosen[item.name]
            fitted = self.fitted(item, option)
            share = 1 / len(item.sites)
            ms = (option.price.dense_ms * share, option.price.ms * share)
            for site in item.sites:
                sites[site.name] = Choice(str(fitted.form), fitted.error, ms)
        self.context.progress("fitting forms", len(items), len(items))
        return self.planned(self.precision(chosen, quick=quick), sites)

    def planned(self, precision: Precision, sites: Mapping[str, Choice] | None = None) -> Plan:
        """The plan of these layers and this precision, in the planner's structure."""
        target = self.oracle.target
        return dataclasses.replace(self.structure, sites=dict(sites or {}), target=target, precision=precision)

    def precision(self, chosen: Chosen, *, quick: bool = False) -> Precision:
        """What computes in integers; its time is that of the layers that no form stands for."""
        if all(option.precision == FLOAT for option in chosen.values()):
            return Precision()
        kept = [
            site.name
            for item in self.items
            for site in item.sites
            if item.name not in chosen or chosen[item.name].precision == FLOAT
        ]
        dense = [o.price for o in chosen.values() if o.form is None]
        ms = (sum(price.dense_ms for price in dense), sum(price.ms for price in dense))
        added = sum(item.weight * item.integer_error for item in self.items if item.name not in kept)
        return Precision((self.quick if quick else self.earnest,), tuple(kept), added, ms)

    def apply(
        self, chosen: Chosen, *, quick: bool = False, details: dict[str, Any] | None = None
    ) -> tuple[ir.Model, list[Record]]:
        """A copy of the model with the chosen options in place, and what became of each.

        Args:
            chosen: the options by item name.
            quick: for comparing plans: the fits as they are, and integers with the simplest ranges. Otherwise the
                layers are fitted anew to what they see in the rewritten model before it goes into integers.
            details: gets what passes measured, see `Context`.
        """
        fitted = {
            item.name: self.fitted(item, chosen[item.name])
            for item in self.items
            if item.name in chosen and chosen[item.name].form is not None
        }
        return self.carry_out(self.plan(chosen, quick=quick), fitted, quick=quick, details=details)

    def carry_out(
        self,
        plan: Plan,
        fitted: Mapping[str, Fitted] | None = None,
        *,
        quick: bool = False,
        details: dict[str, Any] | None = None,
    ) -> tuple[ir.Model, list[Record]]:
        """A copy of the model with a plan of forms and precisions carried out, and what became of each choice.

        Args:
            plan: of this model; groups and blocks are those that it was left by.
            fitted: fits by site name, where they are known.
            quick, details: see `apply`.
        """
        plan = dataclasses.replace(plan, groups={}, blocks={})  # the model is that which they leave
        samples = Samples(ranges=self.quick_samples) if quick else Samples.in_earnest(self.run_ms)
        context = self.context.beside(details=details)
        made = carry_out(self.model, plan, context, shapes=self.shapes, fitted=fitted, samples=samples)
        return made.model, made.records

    def affordable(self, samples: int, seconds: float) -> int:
        """How many samples to run this planner's network on, see `affordable`."""
        return affordable(samples, seconds, self.run_ms)

    # ------------------------------------------------------------ search by one threshold

    def at(self, threshold: float) -> dict[str, Option]:
        """Per item the fastest option whose loss is at most `threshold`; items that stay as they are are left out."""
        chosen = {}
        for item in self.items:
            best = min((o for o in item.options if item.loss(o) <= threshold), key=lambda o: o.price.ms)
            if best is not item.dense:
                chosen[item.name] = best
        return chosen

    def search(self, judge: Judge, floor: float) -> Found:
        """The fastest plan of one threshold for all items, by predicted time, that `judge` scores at least `floor`.

        Bisection on the logarithm of the threshold, STEPS judgements at most; a plan that was judged is not judged
        again. The empty plan is taken to be good and is what comes back when no other is. For planners of floats.
        """
        best = Found(self.planned(Precision()), self.model, [])
        trials: list[Trial] = []
        judged: dict[str, bool] = {}
        low, high = math.log(LOWEST), math.log(HIGHEST)
        for step in range(STEPS):
            self.context.progress("judging plans", step, STEPS)
            middle = (low + high) / 2
            chosen = self.at(math.exp(middle))
            plan = self.plan(chosen)
            text = plan.to_json()
            if not chosen:
                judged[text] = True
            if text not in judged:
                model, records = self.apply(chosen)
                score = judge(model)
                judged[text] = score >= floor
                trials.append(Trial(math.exp(middle), score, plan.saved_ms, judged[text]))
                if judged[text] and plan.saved_ms > best.plan.saved_ms:
                    best = Found(plan, model, records)
            low, high = (middle, high) if judged[text] else (low, middle)
        self.context.progress("judging plans", STEPS, STEPS)
        return Found(best.plan, best.model, best.records, trials)


__all__ = [
    "BYTES",
    "LATENCY",
    "MACS",
    "Chosen",
    "Found",
    "Item",
    "Judge",
    "Option",
    "Planner",
    "Trial",
    "undominated",
]
