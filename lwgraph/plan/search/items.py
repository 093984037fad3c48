"""The decisions of a plan: at each layer, which forms in which precision, each with a time and an error."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Shapes
from lwgraph.calibrate.statistics import COPIES
from lwgraph.layers.apply import moments_of, observable, unfit, unknown, unseen
from lwgraph.layers.form import Form
from lwgraph.layers.moments import Moments, too_wide
from lwgraph.layers.site import Site, find_sites
from lwgraph.plan.precision import DYNAMIC, FLOAT, INT8
from lwgraph.plan.price.oracle import Oracle, Price
from lwgraph.plan.search.integer_error import integer_error
from lwgraph.rewrite.base import Context

FASTER = 0.97  # a form must take less than this share of the dense layer's time
CLEARLY_LESS = 0.75  # a form is not measured when another errs less with at most this share of its work
HIGHEST = 0.5  # forms of more relative error are not considered
IN_INTEGERS = 10  # forms of one layer that are measured in integers, at most
STAGES = 2  # layers of a form, each of which rounds
WHITE_RANGE = (-4.0, 4.0)  # of unit noise, where nothing was measured


@dataclass(frozen=True, eq=False)
class Option:
    """One form in one precision at one item.

    Attributes:
        form: None: the dense layer.
        price: measured milliseconds of the dense layer in floats, and of this.
        error: estimated relative output error of the item.
        macs, bytes: multiply-accumulates of one run, and what the weights take, about.
        precision: FLOAT, INT8 or DYNAMIC.
    """

    form: Form | None
    price: Price
    error: float
    macs: int = 0
    bytes: int = 0
    precision: str = FLOAT

    @property
    def name(self) -> str:
        """For people: `low-rank{rank=16}`, `dense int8`."""
        form = "dense" if self.form is None else str(self.form)
        return form if self.precision == FLOAT else f"{form} {self.precision}"


@dataclass(frozen=True, eq=False)
class Item:
    """Sites that are decided together (they share a weight; mostly one site), and their options.

    Attributes:
        options: the first is the dense layer in floats; then fastest first.
        weight: how much the item's relative output error matters at the network's output.
        integer_error: the relative output error that 8-bit integers add; part of the options' errors.
        dynamic_error: the same of integers whose grid is taken as the model runs.
        switch_ms: to bring the item's input into integers and back.
        moments: gives those of the input, kept in memory or collected again.
    """

    sites: tuple[Site, ...]
    options: tuple[Option, ...]
    weight: float = 1.0
    integer_error: float = 0.0
    dynamic_error: float = 0.0
    switch_ms: float = 0.0
    moments: Callable[[], Moments] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The first site's name."""
        return self.sites[0].name

    @property
    def dense(self) -> Option:
        """The layer as it is."""
        return self.options[0]

    def added(self, precision: str) -> float:
        """The relative output error that a precision adds."""
        return {INT8: self.integer_error, DYNAMIC: self.dynamic_error}.get(precision, 0.0)

    def with_integer_error(self, error: float, precision: str = INT8) -> Item:
        """The item in which integers add another error; it is part of the errors of all options in that precision."""
        more = error - self.added(precision)
        options = tuple(
            replace(o, error=o.error + more * (1 if o.form is None else STAGES)) if o.precision == precision else o
            for o in self.options
        )
        item = replace(self, options=options)
        return replace(item, dynamic_error=error) if precision == DYNAMIC else replace(item, integer_error=error)

    def loss(self, option: Option) -> float:
        """What an option adds to the network's loss, as predicted."""
        return self.weight * option.error


def find_items(
    model: ir.Model,
    context: Context,
    oracle: Oracle,
    forms: Sequence[type[Form]],
    *,
    shapes: Shapes | None = None,
    precisions: Collection[str] = (FLOAT,),
    only: Collection[str] | None = None,
    static: Collection[str] = (),
) -> list[Item]:
    """The items of a model that have more than one option, in graph order.

    Args:
        model: the cleaned model; it is not changed.
        context: `statistics` for the errors (None: from the weights alone); refusals are recorded in it.
        oracle: prices.
        forms: the forms to consider. Those that another form beats clearly on paper (less error with much less work)
            are not measured.
        shapes: measured sizes by value name.
        precisions: FLOAT, and INT8 and DYNAMIC where layers may be computed in integers.
        only: names of the sites to consider; None: all.
        static: names of the nodes that are not computed in DYNAMIC.
    """
    sites = find_sites(model, shapes, refused=lambda place, why: context.skip("plan", place, why))
    by_name = {site.name: site for site in sites}
    families: list[tuple[Site, ...]] = []
    taken: set[str] = set()
    for site in sites:
        if site.name not in taken:
            twins = (by_name[name] for name in site.shared if by_name[name].layout == site.layout)
            families.append((site, *twins))
            taken.update(member.name for member in families[-1])
    if only is not None:
        families = [family for family in families if all(site.name in only for site in family)]
    for family in families:
        if reason := unseen(family, context):
            context.skip("plan", family[0].name, reason)
    families = [family for family in families if not unseen(family, context)]
    menus = [(family, _menu(family[0], forms, context)) for family in families]
    menus = [(family, menu) for family, menu in menus if menu or len(precisions) > 1]
    if context.statistics is not None:
        with context.failures.guard("forms: statistics of all layers at once"):  # else each layer collects its own
            context.statistics.prefetch([s for family, _ in menus for s in family if observable(s)])
    for family, _ in menus:
        if reason := unfit(family, context):
            context.skip("plan", family[0].name, reason)
    menus = [(family, menu) for family, menu in menus if not unfit(family, context)]
    items = []
    room = context.bytes_of(sys.maxsize, 0.25)  # for moments that stay in memory; others are read again
    for index, (family, menu) in enumerate(menus):
        context.progress("weighing forms", index, len(menus))
        with context.failures.guard(f"forms: layer '{family[0].name}'"):
            integers = [p for p in precisions if p != FLOAT and _may_be(p, family, static)]
            item = _item(family, menu, context, oracle, integers)
            size = COPIES * 8 * family[0].group * family[0].fan_in ** 2
            if item.moments is not None and size > room:
                item = replace(item, moments=partial(moments_of, family, context))
            else:
                room -= size
            if len(item.options) > 1:
                items.append(item)
    context.progress("weighing forms", len(menus), len(menus))
    if oracle.cache.warning:
        context.warn(oracle.cache.warning)
    return items


def _menu(site: Site, forms: Sequence[type[Form]], context: Context) -> list[Form]:
    menu: dict[str, Form] = {}
    for form in forms:
        reason = too_wide(site) or form.refusal(site)
        sizes = [] if reason else form.menu(site)
        reason = reason or next((why for size in sizes if (why := unknown(site, size, context))), "")
        if reason:
            context.skip(form.name, site.name, reason)
        else:
            menu.update({str(size): size for size in sizes})
    return list(menu.values())


def _item(
    family: tuple[Site, ...], menu: list[Form], context: Context, oracle: Oracle, integers: Sequence[str]
) -> Item:
    """The dense layer, and the forms that are measured faster, fastest first; of a family, the times are summed."""
    site = family[0]
    if not menu and not integers:
        return Item(family, ())
    moments = moments_of(family, context)
    weighed = [(form.macs(site), form.estimate(site, moments), form) for form in menu]
    sizes: list[tuple[Form | None, float]] = [(None, 0.0), *((f, e) for _, e, f in undominated(weighed))]
    options = _priced(family, sizes, oracle, FLOAT)
    dense = options[0]
    faster = [option for option in options[1:] if option.price.ratio < FASTER]
    if not faster and menu:
        best = min((option.price.ratio for option in options[1:]), default=math.inf)
        context.skip("plan", site.name, f"no form is measured faster (the best takes {best:.2f} of the time)")
    added = switch_ms = 0.0
    if integers:
        added = integer_error(moments, *_range(site, moments, context))
        # A form that is slower than the dense layer in floats may be the fastest in integers.
        sizes = [(None, 0.0), *_spread(options[1:])]
        found = [option for precision in integers for option in _priced(family, sizes, oracle, precision)]
        faster += [
            replace(option, error=option.error + added * (1 if option.form is None else STAGES))
            for option in found
            if math.isfinite(option.price.ms)
        ]
        switch_ms = oracle.switch(site) if INT8 in integers else 0.0
    ordered = sorted(faster, key=lambda option: option.price.ms)
    running = added if DYNAMIC in integers else 0.0
    return Item(family, (dense, *ordered), 1.0, added, running, switch_ms, lambda: moments)


def _priced(
    family: Sequence[Site], sizes: Sequence[tuple[Form | None, float]], oracle: Oracle, precision: str
) -> list[Option]:
    forms = [form for form, _ in sizes]
    table = [oracle.prices(member, forms, precision) for member in family]
    columns = zip(*table, strict=True)
    prices = [Price(sum(p.dense_ms for p in column), sum(p.ms for p in column)) for column in columns]
    site = family[0]
    return [
        Option(form, price, error, len(family) * _macs(site, form), _bytes(site, form, precision), precision)
        for (form, error), price in zip(sizes, prices, strict=True)
    ]


def _spread(options: Sequence[Option]) -> list[tuple[Form | None, float]]:
    """The forms worth measuring in integers: those that no other beats in time and error, thinned to IN_INTEGERS."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (o.price.ms, o.error)):
        if math.isfinite(option.price.ms) and (not kept or option.error < kept[-1].error):
            kept.append(option)
    if len(kept) > IN_INTEGERS:
        kept = [kept[round(i)] for i in np.linspace(0, len(kept) - 1, IN_INTEGERS)]
    return [(option.form, option.error) for option in kept]


def _may_be(precision: str, family: Sequence[Site], static: Collection[str]) -> bool:
    """Whether quantization may reach the layers: float32 ones of the main graph; products, whose grids are taken as the
    model runs."""
    reached = all(observable(site) and site.dtype == np.float32 for site in family)
    return reached and (
        precision == INT8 or not any(site.kernel or (site.node.name or "") in static for site in family)
    )


def _range(site: Site, moments: Moments, context: Context) -> tuple[float, float]:
    """The range of a layer's input: that of a sample, widened to three standard deviations of its widest channel."""
    if context.statistics is None:
        return WHITE_RANGE
    sample: np.ndarray[Any, Any] = context.statistics.sample(site)
    spread = [np.sqrt(np.maximum(each.variance, 0)) for each in moments.losses]
    low, high = float(sample.min()), float(sample.max())
    wide = max(float((mean + 3 * s).max()) for mean, s in zip(moments.mean, spread, strict=True))
    narrow = min(float((mean - 3 * s).min()) for mean, s in zip(moments.mean, spread, strict=True))
    return (min(low, narrow) if low < 0 else low), max(high, wide)


def _macs(site: Site, form: Form | None) -> int:
    return site.macs() if form is None else form.macs(site)


def _bytes(site: Site, form: Form | None, precision: str) -> int:
    """Bytes of the weights; for a form in proportion to its work, which is exact where no stage changes the grid."""
    weights = math.prod(site.shape) * (1.0 if form is None else form.macs(site) / max(1, site.macs()))
    return round(weights * (1 if precision != FLOAT else site.dtype.itemsize))


def undominated(weighed: Sequence[tuple[int, float, Form]]) -> list[tuple[int, float, Form]]:
    """Those of (work, error, form) that no other beats with at most CLEARLY_LESS of the work and no more error."""
    return [
        (work, error, form)
        for work, error, form in weighed
        if error < HIGHEST and not any(w <= CLEARLY_LESS * work and e <= error for w, e, _ in weighed)
    ]


__all__ = ["FASTER", "Item", "Option", "find_items", "undominated"]
