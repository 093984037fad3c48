"""Runs without data: what weights alone allow, and what data would buy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Floats
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.executor import Executor, Feeds
from lwgraph.layers.linalg import JITTER
from lwgraph.layers.site import Site, find_sites
from lwgraph.plan.plan import Plan
from lwgraph.plan.precision import INT8
from lwgraph.plan.price.oracle import Oracle
from lwgraph.plan.search.planner import open_planner
from lwgraph.rewrite import Context

EXACT_TAIL = 1e-12  # relative energy of a weight that rounding alone may have put there
EXACT_ERROR = 2 * JITTER  # estimated of a form that keeps a weight to rounding; the proof is what decides
ROUGH_TAIL = 0.02  # that fits to real inputs usually make up for
HEAVY = 0.8  # share of the work that is priced for the estimate
PRICED = 12  # layers at most that are priced
LEAST_GAIN = 1.15  # an estimated speed-up that is worth a line


def exact_plan(clean: ir.Model, context: Context, oracle: Oracle, forms: Sequence[str], feeds: Feeds) -> Plan:
    """The forms that keep each weight itself, to rounding: redundancy that was left in the file.

    Args:
        clean: the cleaned model.
        context: without statistics; refusals are recorded in it.
        oracle: prices.
        forms: names of those to consider.
        feeds: one sample to measure sizes on.
    """
    executor = context.executor or context.evaluator()
    shapes = layer_shapes(clean, feeds, executor)
    redundant = []
    for number, site in enumerate(find_sites(clean, shapes)):
        context.progress("looking at weights", number, 0)
        if tail_rank(site, EXACT_TAIL) < 0.5:
            redundant.append(site.name)
        else:
            context.skip("plan", site.name, "without data: no form of half the rank keeps the weight itself")
    if not redundant:
        return Plan()
    planner = open_planner(clean, context, oracle, shapes=shapes, forms=forms)
    chosen = {}
    for item in planner.items:
        exact = [option for option in item.options if option.error <= EXACT_ERROR]
        best = min(exact, key=lambda option: option.price.ms, default=item.dense)
        if item.name in redundant and best is not item.dense:
            chosen[item.name] = best
    return planner.plan(chosen) if chosen else Plan()


@dataclass(frozen=True)
class Promise:
    """What data would buy, estimated.

    Attributes:
        low: times the speed that integers alone are priced at.
        high: with lighter forms and narrower layers as well, as far as the weights' spectra suggest.
    """

    low: float
    high: float

    def __str__(self) -> str:
        if self.high < LEAST_GAIN:
            return "with data, little more is to be expected of this model on this target"
        return (
            f"with a few hundred unlabelled inputs (--data) about {self.low:.1f} to {self.high:.1f} times the speed "
            "is to be expected: estimated from prices of its layers and the spectra of their weights"
        )


def estimate(clean: ir.Model, executor: Executor, oracle: Oracle, feeds: Sequence[Feeds], integers: bool) -> Promise:
    """What data would buy.

    The layers that do most of the work are priced in floats and in integers; what lies beside them stays as it is.

    Args:
        clean: the cleaned model.
        executor: the target.
        oracle: prices.
        feeds: to time the whole model on.
        integers: whether the target computes in them.
    """
    shapes = layer_shapes(clean, feeds[0], executor)
    sites = sorted(find_sites(clean, shapes), key=lambda site: -site.macs())
    work = sum(site.macs() for site in sites)
    if not work:
        return Promise(1.0, 1.0)
    whole = oracle.whole({"clean": clean}, feeds)[0]
    dense = narrow = light = done = 0.0
    for site in sites[:PRICED]:
        if done >= HEAVY * work:
            break
        done += site.macs()
        floats = oracle.prices(site, [None])[0].ms
        best = min(floats, oracle.prices(site, [None], INT8)[0].ms) if integers else floats
        dense, narrow = dense + floats, narrow + best
        light += best * min(1.0, max(0.3, 2 * tail_rank(site, ROUGH_TAIL)))
    covered = min(dense * work / max(done, 1.0), 0.95 * whole)
    beside = whole - covered
    low, high = (whole / (beside + covered * part / max(dense, 1e-12)) for part in (narrow, light))
    return Promise(low, max(low, high))


def tail_rank(site: Site, tail: float) -> float:
    """The least share of its rank at which some matrix view of the weight keeps all but `tail` of its energy.

    The views are those of the two-factor forms: outputs against the rest, inputs against the rest, and for two spatial
    axes (inputs, rows) against (outputs, columns). 1 for grouped layers. Eigenvalues of the smaller Gram:
    O(min(m, n)^2 max(m, n)).
    """
    if site.group > 1:
        return 1.0
    weight = site.weight
    views = [weight.reshape(weight.shape[0], -1), np.moveaxis(weight, 1, 0).reshape(weight.shape[1], -1)]
    if len(site.kernel) == 2:
        columns = weight.transpose(1, 2, 0, 3)
        views.append(columns.reshape(columns.shape[0] * columns.shape[1], -1))
    return min((_rank(view, tail) for view in views if min(view.shape) > 1), default=1.0)


def _rank(view: Floats, tail: float) -> float:
    small = view if view.shape[0] <= view.shape[1] else view.T
    energies = np.maximum(np.linalg.eigvalsh(small @ small.T), 0.0)  # ascending
    total = float(energies.sum())
    if total <= 0:
        return 1.0
    return 1.0 - float(np.searchsorted(np.cumsum(energies), tail * total, side="right")) / len(energies)


__all__ = ["Promise", "estimate", "exact_plan", "tail_rank"]
