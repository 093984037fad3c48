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
from lwgraph.plan.form import Fitted, Form
from lwgraph.plan.plan import Choice, Plan, apply_plan
from lwgraph.plan.price import Oracle, Price
from lwgraph.plan.site import Site, find_sites
from lwgraph.rewrite.base import Context

FASTER = 0.97  # an option must take less than this share of the dense layer's time
CLEARLY_LESS = 0.75  # an option is not measured when another errs less with at most this share of its work
LOWEST, HIGHEST, STEPS = 1e-5, 0.5, 8  # thresholds of relative output error, and bisections of their logarithm
Judge = Callable[[ir.Model], float]


@dataclass(frozen=True, eq=False)
class Option:
    """One form at one item: its measured time and its estimated relative output error (`Form.estimate`)."""

    form: Form
    price: Price
    error: float


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
        forms: names of the forms to consider; None: all that are registered. Those that another form beats clearly on
            paper (less error with much less work) are not measured.
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
        self.items = self._find_items()

    def _find_items(self) -> list[Item]:
        sites = find_sites(self.model, self.shapes, refused=lambda place, why: self.context.skip("plan", place, why))
        by_name = {site.name: site for site in sites}
        families: list[tuple[Site, ...]] = []
        taken: set[str] = set()
        for site in sites:
            if site.name not in taken:
                families.append((site, *(by_name[name] for name in site.shared)))
                taken.update(member.name for member in families[-1])
        menus = [(family, self._menu(family[0])) for family in families]
        menus = [(family, menu) for family, menu in menus if menu]
        if self.context.statistics is not None:
            self.context.statistics.prefetch([s for family, _ in menus for s in family if observable(s)])
        items = []
        for index, (family, menu) in enumerate(menus):
            self.context.progress("weighing forms", index, len(menus))
            options = self._options(family, menu)
            if options:
                items.append(Item(family, options, max(self._weights.get(s.name, 1.0) for s in family)))
        self.context.progress("weighing forms", len(menus), len(menus))
        if self.oracle.cache.warning:
            self.context.warn(self.oracle.cache.warning)
        return items

    def _menu(self, site: Site) -> list[Form]:
        menu: dict[str, Form] = {}
        for form in self._forms:
            reason = form.refusal(site)
            if reason:
                self.context.skip(form.name, site.name, reason)
            else:
                menu.update({str(size): size for size in form.menu(site)})
        return list(menu.values())

    def _options(self, family: tuple[Site, ...], menu: list[Form]) -> list[Option]:
        """The forms that are measured faster, fastest first; of a family, the times are summed."""
        site = family[0]
        moments = moments_of(family, self.context)
        weighed = [(form.macs(site), form.estimate(site, moments), form) for form in menu]
        sizes = [(form, error) for _, error, form in undominated(weighed)]
        table = [self.oracle.prices(member, [form for form, _ in sizes]) for member in family]
        columns = zip(*table, strict=True)
        prices = [Price(sum(p.dense_ms for p in column), sum(p.ms for p in column)) for column in columns]
        options = [
            Option(form, price, error)
            for (form, error), price in zip(sizes, prices, strict=True)
            if price.ratio < FASTER
        ]
        if not options:
            best = min((price.ratio for price in prices), default=math.inf)
            self.context.skip("plan", site.name, f"no form is measured faster (the best takes {best:.2f} of the time)")
        return sorted(options, key=lambda option: option.price.ms)

    def fitted(self, item: Item, option: Option) -> Fitted:
        """The option's fit, remembered."""
        key = (item.name, str(option.form))
        if key not in self._fits:
            site = item.sites[0]
            self._fits[key] = option.form.at(site).fit(site, moments_of(item.sites, self.context))
        return self._fits[key]

    def at(self, threshold: float) -> dict[str, Option]:
        """Per item the fastest option whose weighted error is at most `threshold`; items without one are left out."""
        chosen = {}
        for item in self.items:
            good = (option for option in item.options if item.weight * option.error <= threshold)
            option = next(good, None)
            if option is not None:
                chosen[item.name] = option
        return chosen

    def plan(self, chosen: Mapping[str, Option]) -> Plan:
        """The plan of one choice per item."""
        sites: dict[str, Choice] = {}
        items = [item for item in self.items if item.name in chosen]
        for index, item in enumerate(items):
            self.context.progress("fitting forms", index, len(items))
            option = chosen[item.name]
            fitted = self.fitted(item, option)
            share = 1 / len(item.sites)
            ms = (option.price.dense_ms * share, option.price.ms * share)
            for site in item.sites:
                sites[site.name] = Choice(str(fitted.form), fitted.error, ms)
        self.context.progress("fitting forms", len(items), len(items))
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


def undominated(weighed: Sequence[tuple[int, float, Form]]) -> list[tuple[int, float, Form]]:
    """Those of (work, error, form) that no other beats with at most CLEARLY_LESS of the work and no more error."""
    return [
        (work, error, form)
        for work, error, form in weighed
        if error < HIGHEST and not any(w <= CLEARLY_LESS * work and e <= error for w, e, _ in weighed)
    ]


__all__ = ["Found", "Item", "Judge", "Option", "Planner", "Trial", "undominated"]
