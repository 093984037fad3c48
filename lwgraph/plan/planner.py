"""Chooses a form for each site: items, options with an error and a time, and a search for the fastest that is good.

The first solver: per item the fastest option whose weighted error is under one threshold for the whole network, and
bisection on the threshold against the judged metric.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lwgraph import ir, registry
from lwgraph.plan.apply import Record, moments_of, observable
from lwgraph.plan.fit import Moments
from lwgraph.plan.form import Fitted, Form
from lwgraph.plan.plan import Choice, Plan, apply_plan
from lwgraph.plan.price import Oracle, Price
from lwgraph.plan.site import Site, find_sites
from lwgraph.rewrite.base import Context

FASTER = 0.97  # an option must take less than this share of the dense layer's time
LOWEST, HIGHEST, STEPS = 1e-5, 0.5, 8  # thresholds of relative output error, and bisections of their logarithm
Judge = Callable[[ir.Model], float]


@dataclass(eq=False)
class Option:
    """One form at one item. `error` is None until the option was fitted."""

    form: Form
    price: Price
    error: float | None = None


@dataclass(eq=False)
class Item:
    """Sites that are decided together (they share a weight; mostly one site) and their options, fastest first.

    `weight` says how much the item's relative output error matters at the network's output.
    """

    sites: tuple[Site, ...]
    options: list[Option]
    weight: float = 1.0

    @property
    def name(self) -> str:
        """The first site's name."""
        return self.sites[0].name


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
    """Plans one model.

    Args:
        model: the cleaned model; it is not changed.
        context: `statistics` for the errors (None: weights alone), `reference`, `seed`, `progress`.
        oracle: prices.
        shapes: measured sizes by value name (see `layer_shapes`); without them times are relative only.
        forms: names of the forms to consider; None: all that are registered.
        weights: by site name, how much its error matters; 1 where not given.
    """

    def __init__(
        self,
        model: ir.Model,
        context: Context,
        oracle: Oracle,
        *,
        shapes: Mapping[str, Sequence[int | None]] | None = None,
        forms: Sequence[str] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.model, self.context, self.oracle, self.shapes = model, context, oracle, shapes
        self._forms = [registry.form_class(name) for name in (registry.names("forms") if forms is None else forms)]
        self._weights = weights or {}
        self._fits: dict[tuple[str, str], Fitted] = {}
        self._last: tuple[str, Moments] | None = None
        self.items = self._find_items()

    def _find_items(self) -> list[Item]:
        sites = find_sites(self.model, self.shapes, refused=lambda place, why: self.context.skip("plan", place, why))
        taken: set[str] = set()
        items: list[Item] = []
        for index, site in enumerate(sites):
            self.context.progress("measuring forms", index, len(sites))
            if site.name in taken:
                continue
            family = (site, *(other for other in sites if other.name in site.shared))
            taken.update(member.name for member in family)
            options = self._options(family)
            if options:
                items.append(Item(family, options, max(self._weights.get(s.name, 1.0) for s in family)))
        self.context.progress("measuring forms", len(sites), len(sites))
        if self.context.statistics is not None:
            self.context.statistics.prefetch([s for item in items for s in item.sites if observable(s)])
        if self.oracle.cache.warning:
            self.context.warn(self.oracle.cache.warning)
        return items

    def _options(self, family: tuple[Site, ...]) -> list[Option]:
        """The forms that are measured faster, fastest first; of a family, the times are summed."""
        site = family[0]
        menu: dict[str, Form] = {}
        for form in self._forms:
            reason = form.refusal(site)
            if reason:
                self.context.skip(form.name, site.name, reason)
                continue
            menu.update({str(size): size for size in form.menu(site)})
        sizes = list(menu.values())
        if not sizes:
            return []
        table = [self.oracle.prices(member, sizes) for member in family]
        columns = zip(*table, strict=True)
        prices = [Price(sum(p.dense_ms for p in column), sum(p.ms for p in column)) for column in columns]
        options = [Option(form, price) for form, price in zip(sizes, prices, strict=True) if price.ratio < FASTER]
        if not options:
            best = min(price.ratio for price in prices)
            self.context.skip("plan", site.name, f"no form is measured faster (the best takes {best:.2f} of the time)")
        return sorted(options, key=lambda option: option.price.ms)

    def error(self, item: Item, option: Option) -> float:
        """The option's predicted relative error; fits it when that was not done yet."""
        if option.error is None:
            option.error = self.fitted(item, option).error
        return option.error

    def fitted(self, item: Item, option: Option) -> Fitted:
        """The option's fit, remembered."""
        key = (item.name, str(option.form))
        if key not in self._fits:
            if self._last is None or self._last[0] != item.name:
                self._last = (item.name, moments_of(item.sites, self.context))
            self._fits[key] = option.form.at(item.sites[0]).fit(item.sites[0], self._last[1])
        return self._fits[key]

    def at(self, threshold: float) -> dict[str, Option]:
        """Per item the fastest option whose weighted error is at most `threshold`; items without one are left out."""
        chosen = {}
        for index, item in enumerate(self.items):
            self.context.progress("fitting forms", index, len(self.items))
            for option in item.options:
                if item.weight * self.error(item, option) <= threshold:
                    chosen[item.name] = option
                    break
        self.context.progress("fitting forms", len(self.items), len(self.items))
        return chosen

    def plan(self, chosen: Mapping[str, Option]) -> Plan:
        """The plan of one choice per item."""
        sites: dict[str, Choice] = {}
        for item in self.items:
            option = chosen.get(item.name)
            if option is None:
                continue
            fitted = self.fitted(item, option)
            share = 1 / len(item.sites)
            ms = (option.price.dense_ms * share, option.price.ms * share)
            for site in item.sites:
                sites[site.name] = Choice(str(fitted.form), fitted.error, ms)
        return Plan(sites, self.oracle.target)

    def apply(self, chosen: Mapping[str, Option]) -> tuple[ir.Model, list[Record]]:
        """A copy of the model with the chosen options in place, and what became of each."""
        model = ir.clone(self.model)
        fitted = {item.name: self.fitted(item, chosen[item.name]) for item in self.items if item.name in chosen}
        records = apply_plan(model, self.plan(chosen), self.context, shapes=self.shapes, fitted=fitted)
        return model, records

    def search(self, judge: Judge, floor: float) -> Found:
        """The fastest plan, by predicted time, whose model `judge` scores at least `floor`.

        Bisection on the logarithm of the threshold, STEPS judgements at most; a plan that was judged is not judged
        again. The empty plan is taken to be good and is what comes back when no other is.
        """
        best = Found(Plan({}, self.oracle.target), self.model, [])
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


__all__ = ["Found", "Item", "Judge", "Option", "Planner", "Trial"]
