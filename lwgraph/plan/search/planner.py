"""Plans one model: from choices at items to plans, models, predicted times and losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from lwgraph import ir, registry
from lwgraph.calibrate.known_ranges import KnownRanges
from lwgraph.layers.apply import moments_of
from lwgraph.layers.form import Fitted, find_form
from lwgraph.plan.carry_out import Carried, Samples, carry_out
from lwgraph.plan.plan import Choice, Plan, Precision
from lwgraph.plan.precision import DYNAMIC, FLOAT, INT8, available, spelling
from lwgraph.plan.price.oracle import Oracle
from lwgraph.plan.search.form_ranges import observe_forms
from lwgraph.plan.search.items import Item, Option, find_items
from lwgraph.plan.search.solver import Menu, total
from lwgraph.plan.search.time_model import TimeModel
from lwgraph.rewrite.base import Context

LATENCY, BYTES, MACS = "latency", "bytes", "macs"  # what a network takes of the machine
QUICK_SAMPLES = 16  # that integer ranges are taken from when plans are only compared, at least
FASTEST = 1e-3  # share of a network's time that any plan takes at least
IN_EARNEST = Samples.in_earnest()
NOTHING = Plan()
NO_INTEGERS: Mapping[str, float] = {}
Chosen = Mapping[str, Option]


@dataclass(frozen=True)
class Quantizing:
    """How plans are put into integers, as a plan spells it.

    Attributes:
        quick: for plans that are only compared.
        earnest: for plans that may be delivered.
        samples: that ranges are taken from in the first case.
        known: ranges of the model's values in the first case.
        dynamic: all that can be in DYNAMIC, and what else that leaves in floats; None: nothing can.
        spared: names of nodes beside the items, such as recurrent layers, that stay in floats.
    """

    quick: str = ""
    earnest: str = ""
    samples: int = QUICK_SAMPLES
    known: KnownRanges | None = None
    dynamic: Precision | None = None
    spared: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Planner:
    """The items of one model, and what choices among their options mean; see `open_planner`.

    Each method that takes in what was measured returns another planner.

    Attributes:
        model: the cleaned model; it is not changed.
        context: `statistics` for the errors (None: weights alone), `reference`, `seed`, `progress`.
        oracle: prices.
        shapes: measured sizes by value name (see `layer_shapes`); without them times are relative only.
        structure: the groups and blocks that were cut to get the model; every plan says so, too.
        items: the decisions.
        times: from prices to milliseconds of the network.
        rest: what the network takes of each resource outside all items.
        whole_ms: measured, of the whole network; None before it was.
        quantizing: how plans are put into integers.
        samples: that a plan is carried out with in earnest.
    """

    model: ir.Model
    context: Context
    oracle: Oracle
    shapes: Mapping[str, Sequence[int | None]] | None
    structure: Plan
    items: tuple[Item, ...]
    times: TimeModel
    rest: Mapping[str, float] = field(default_factory=dict)
    whole_ms: float | None = None
    quantizing: Quantizing = Quantizing()
    samples: Samples = IN_EARNEST
    _fits: dict[tuple[str, str], Fitted] = field(default_factory=dict, repr=False)
    _failed: set[tuple[str, str]] = field(default_factory=set, repr=False)  # fits

    # ------------------------------------------------------------ taking in what was measured

    def anchored(
        self, float_ms: float, integer_ms: Mapping[str, float] = NO_INTEGERS, size: int = 0, macs: int = 0
    ) -> Planner:
        """The planner whose totals agree with measured ones: the whole network in floats, and all of it in integers.

        Args:
            float_ms: measured milliseconds of one run.
            integer_ms: the same by precision, INT8 or DYNAMIC, where there are integers.
            size, macs: bytes and multiply-accumulates of the float network.
        """
        bare = dataclasses.replace(self, rest={}, whole_ms=None)
        everything = self.uniform(FLOAT)
        known = {BYTES: float(size), MACS: float(macs)}
        rest = {resource: amount - bare.predicted(everything, resource) for resource, amount in known.items()}
        times = self.times.anchored_floats(float_ms)
        if times is None:
            return dataclasses.replace(bare, rest={**rest, LATENCY: float_ms})
        for precision, milliseconds in integer_ms.items():
            times = times.anchored_integers(milliseconds, self.uniform(precision), precision)
        return dataclasses.replace(bare, rest=rest, times=times, whole_ms=float_ms)

    def timed(self, plans: Sequence[tuple[Sequence[int], float]]) -> Planner:
        """The planner whose times agree with what plans of forms were measured to take; see `TimeModel.fitted`."""
        return dataclasses.replace(self, times=self.times.fitted(plans))

    def weighed(self, weights: Mapping[str, float]) -> Planner:
        """The planner in which each item's error matters so much at the outputs, by item name."""
        return self._with(
            tuple(dataclasses.replace(item, weight=weights.get(item.name, item.weight)) for item in self.items)
        )

    def with_integers_scaled(self, factor: float, precision: str = INT8) -> Planner:
        """The planner in which integers add `factor` times the errors."""
        return self._with(
            tuple(item.with_integer_error(item.added(precision) * factor, precision) for item in self.items)
        )

    def with_damages(self, damages: Mapping[str, float]) -> Planner:
        """The planner in which integers cost at the outputs what was measured of them, by item name.

        Args:
            damages: of weighed items; those without a weight stay as they are.
        """
        return self._with(
            tuple(
                item.with_integer_error(damages[item.name] / item.weight)
                if item.name in damages and item.weight > 0
                else item
                for item in self.items
            )
        )

    def without(self, precision: str) -> Planner:
        """The planner without this precision among the options; items that have no other are left out."""
        items = (
            dataclasses.replace(item, options=tuple(o for o in item.options if o.precision != precision))
            for item in self.items
        )
        return self._with(tuple(item for item in items if len(item.options) > 1))

    def quantized(self, quantizing: Quantizing) -> Planner:
        """The planner that puts plans into integers in another way."""
        return dataclasses.replace(self, quantizing=quantizing)

    def within(self, context: Context) -> Planner:
        """The planner in another context."""
        return dataclasses.replace(self, context=context)

    def _with(self, items: tuple[Item, ...]) -> Planner:
        return dataclasses.replace(self, items=items, times=dataclasses.replace(self.times, items=items))

    # ------------------------------------------------------------ prediction

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
            way = self.times.switch_ms(item)
            edge = np.array([[0.0, way], [way, 0.0]]) if objective == LATENCY else None
            found.append(Menu.of(cost, loss, state, edge))
        return found

    def _amount(self, index: int, option: Option, resource: str) -> float:
        """What one option takes of a resource: milliseconds, bytes or multiply-accumulates."""
        if resource == BYTES:
            return float(option.bytes)
        if resource == MACS:
            return float(option.macs)
        return self.times.ms(index, option)

    def predicted(self, choice: Sequence[int], resource: str) -> float:
        """What the whole network takes of a resource; the layers alone before it is anchored. Times are over 0."""
        raw = self.rest.get(resource, 0.0) + total(self.menus(objective=resource), choice).cost
        if resource != LATENCY or self.whole_ms is None:
            return raw
        return max(raw, FASTEST * self.whole_ms)

    def predicted_loss(self, choice: Sequence[int]) -> float:
        """The loss at the network's outputs."""
        return sum(item.loss(item.options[o]) for item, o in zip(self.items, choice, strict=True))

    def chosen(self, choice: Sequence[int]) -> dict[str, Option]:
        """The options by item name, dense float layers left out, and options whose fit fails."""
        chosen = {item: item.options[o] for item, o in zip(self.items, choice, strict=True) if o}
        return {
            item.name: option for item, option in chosen.items() if option.form is None or self._fits_well(item, option)
        }

    # ------------------------------------------------------------ plans

    def fitted(self, item: Item, option: Option) -> Fitted:
        """The fit of an option with a form, remembered."""
        assert option.form is not None
        key = (item.name, str(option.form))
        if key not in self._fits:
            site = item.sites[0]
            moments = item.moments() if item.moments else moments_of(item.sites, self.context)
            self._fits[key] = option.form.at(site).fit(site, moments)
        return self._fits[key]

    def _fits_well(self, item: Item, option: Option) -> bool:
        """Whether the fit can be made; one that fails is tried once."""
        key = (item.name, str(option.form))
        if key not in self._failed:
            with self.context.failures.guard(f"forms: the fit of {option.form} at layer '{item.name}'"):
                self.fitted(item, option)
                return True
            self._failed.add(key)
        return False

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
        taken = {item.name: chosen[item.name].precision if item.name in chosen else FLOAT for item in self.items}
        if all(precision == FLOAT for precision in taken.values()):
            return Precision()
        names = {
            precision: tuple(site.name for item in self.items if taken[item.name] == precision for site in item.sites)
            for precision in (FLOAT, DYNAMIC)
        }
        dense = [o.price for o in chosen.values() if o.form is None]
        ms = (sum(price.dense_ms for price in dense), sum(price.ms for price in dense))
        added = sum(item.weight * item.added(taken[item.name]) for item in self.items)
        how, there = self.quantizing, {node.name for node in self.model.graph}
        running = how.dynamic if INT8 not in taken.values() else None
        beside = how.spared if running is None else (*running.keep_float, *how.spared)
        more = (name for name in dict.fromkeys(beside) if name in there and name not in names[FLOAT])
        kept = (*more, *names[FLOAT])
        if running is not None:
            return Precision(running.passes, kept, added, ms)
        return Precision((how.quick if quick else how.earnest,), kept, added, ms, names[DYNAMIC])

    def apply(self, chosen: Chosen, *, quick: bool = False) -> Carried:
        """A copy of the model with the chosen options in place, and what became of each.

        Args:
            chosen: the options by item name.
            quick: for comparing plans: the fits as they are, and integers with the simplest ranges. Otherwise the
                layers are fitted anew to what they see in the rewritten model before it goes into integers.
        """
        fitted = {
            item.name: self.fitted(item, chosen[item.name])
            for item in self.items
            if item.name in chosen and chosen[item.name].form is not None
        }
        plan = dataclasses.replace(self.plan(chosen, quick=quick), groups={}, blocks={})  # the model is their trunk
        # Nobody reads the details of a trial.
        context = self.context.beside(details=None, ranges=self.quantizing.known) if quick else self.context
        samples = Samples(ranges=self.quantizing.samples) if quick else self.samples
        if quick:
            observe_forms(self.model, plan, context, fitted, shapes=self.shapes, samples=samples)
        return carry_out(self.model, plan, context, shapes=self.shapes, fitted=fitted, samples=samples)


def open_planner(
    model: ir.Model,
    context: Context,
    oracle: Oracle,
    *,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
    forms: Sequence[str] | None = None,
    precisions: Sequence[str] = (FLOAT,),
    structure: Plan = NOTHING,
    samples: Samples = IN_EARNEST,
    only: Collection[str] | None = None,
    dynamic: Precision | None = None,
    spared: tuple[str, ...] = (),
) -> Planner:
    """The planner of a model.

    Args:
        model, context, oracle, shapes, structure, samples: see `Planner`.
        forms: names of the forms to consider; None: all that are registered.
        precisions: FLOAT, and INT8 where layers may be computed in integers.
        only: names of the sites to consider; None: all.
        dynamic, spared: see `Quantizing`; layers that `dynamic` does not leave in floats may be computed in DYNAMIC.
    """
    classes = [find_form(name) for name in (registry.names("forms") if forms is None else forms)]
    static = () if dynamic is None else dynamic.keep_float
    if dynamic is not None:
        precisions = (*precisions, DYNAMIC)
    items = tuple(
        find_items(model, context, oracle, classes, shapes=shapes, precisions=precisions, only=only, static=static)
    )
    quantizing = Quantizing()
    if available():
        quantizing = Quantizing(spelling(quick=True), spelling(), dynamic=dynamic, spared=spared)
    fits = context.memory.setdefault(("fits", context.statistics, ir.fingerprint(model)), {})
    return Planner(
        model,
        context,
        oracle,
        shapes,
        structure,
        items,
        TimeModel(items),
        quantizing=quantizing,
        samples=samples,
        _fits=cast("dict[tuple[str, str], Fitted]", fits),
    )


__all__ = ["BYTES", "LATENCY", "MACS", "QUICK_SAMPLES", "Chosen", "Planner", "Quantizing", "open_planner"]
