"""Runs without data: what weights alone allow, and what data would buy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Floats
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.executor import Executor, Feeds
from lwgraph.layers.form import searched_forms
from lwgraph.layers.linalg import JITTER
from lwgraph.layers.site import Site, find_sites
from lwgraph.optimizer.candidates import Incumbent
from lwgraph.optimizer.setting import Setting
from lwgraph.optimizer.target import MACS, open_oracle
from lwgraph.plan import precision
from lwgraph.plan.carry_out import carry_out
from lwgraph.plan.plan import Choice, Plan
from lwgraph.plan.precision import INT8
from lwgraph.plan.price.oracle import Oracle
from lwgraph.plan.search.planner import open_planner
from lwgraph.report import Check
from lwgraph.rewrite import Context
from lwgraph.views.coupling import couple_channels

EXACT_TAIL = 1e-12  # relative energy of a weight that rounding alone may have put there
EXACT_ERROR = 10 * JITTER  # estimated of a form that keeps a weight to rounding; the proof is what decides
ROUGH_TAIL = 0.02  # that fits to real inputs usually make up for
WIDEST = 2048  # rows of a view whose eigenvalues are looked at; of wider ones, so many are drawn
MARGIN = 8  # rows beyond the rank that is looked for
HEAVY = 0.9  # share of the work that is priced for the estimate
PRICING_SECONDS = 5.0  # for it, about
LOST = 0.8  # of the gain of integers, what is left where some layers have to stay in floats, about
LEAST_GAIN = 1.15  # an estimated speed-up that is worth a line


def without_data(setting: Setting, incumbent: Incumbent) -> Incumbent:
    """The cleaned model with what its weights alone allow; tells what data would buy."""
    request, context, probe = setting.request, setting.context, setting.inputs.probe
    oracle, clean = open_oracle(request.target, request.threads, setting.executor), incumbent.model
    with setting.told.stoppable("only exact rewrites had been done by then"):
        with setting.failures.guard("redundant weights"):
            forms = searched_forms(context.warn)
            incumbent = without_redundancy(
                incumbent, context, oracle, forms, probe[0], partial(setting.proved, exact=True)
            )
        with setting.failures.guard("estimate of what data would buy"):
            if oracle.measures:
                integers = precision.available() and request.target != MACS
                setting.told.note(str(estimate(clean, setting.executor, oracle, probe, integers)))
    return incumbent


def without_redundancy(
    incumbent: Incumbent,
    context: Context,
    oracle: Oracle,
    forms: Sequence[str],
    feeds: Feeds,
    prove: Callable[[ir.Model], Sequence[Check]],
) -> Incumbent:
    """The cleaned model without what is redundant in its weights, proved; a layer whose proof fails costs only itself.

    Args:
        incumbent: the cleaned model.
        context: without statistics; refusals and failures are recorded in it.
        oracle: prices.
        forms: names of those to consider.
        feeds: one sample to measure sizes on.
        prove: checks a model that should equal the input but for rounding.
    """
    clean, plan = incumbent.model, exact_plan(incumbent.model, context, oracle, forms, feeds)

    def tried(sites: dict[str, Choice], step: str) -> Incumbent | None:
        with context.failures.guard(step):
            some = replace(plan, sites=sites)
            model = carry_out(clean, some, context).model
            checks = tuple(prove(model))
            if all(check.ok for check in checks):
                return Incumbent(model, some, checks=checks)
        return None

    if plan.empty:
        return incumbent
    if (whole := tried(dict(plan.sites), "redundant weights: all layers at once")) is not None:
        return whole
    for name, choice in plan.sites.items():
        found = tried({**incumbent.plan.sites, name: choice}, f"redundant weights: layer '{name}'")
        if found is None:
            context.skip("plan", name, "without data: its lighter form is not the same to rounding")
        incumbent = found or incumbent
    return incumbent


def exact_plan(clean: ir.Model, context: Context, oracle: Oracle, forms: Sequence[str], feeds: Feeds) -> Plan:
    """The forms that keep each weight itself, to rounding: redundancy that was left in the file.

    Args:
        clean: the cleaned model.
        context: without statistics; refusals are recorded in it.
        oracle: prices; only layers with redundant weights are priced.
        forms: names of those to consider.
        feeds: one sample to measure sizes on.
    """
    executor = context.executor or context.evaluator()
    shapes = layer_shapes(clean, feeds, executor)
    found, sites = [], find_sites(clean, shapes)
    total = len(sites)
    while sites:
        site = sites.pop(0)  # a site keeps its weight in float64: each is let go of before the next
        context.progress("looking at weights", total - len(sites), total)
        with context.failures.guard(f"redundant weights: layer '{site.name}'"):
            if redundant(site):
                found.append(site.name)
            else:
                context.skip("plan", site.name, "without data: no form of half the rank keeps the weight itself")
    if not found:
        return Plan()
    planner = open_planner(clean, context, oracle, shapes=shapes, forms=forms, only=found)
    chosen = {}
    for item in planner.items:
        exact = [option for option in item.options if option.error <= EXACT_ERROR]
        best = min(exact, key=lambda option: option.price.ms, default=item.dense)
        if best is not item.dense:
            chosen[item.name] = best
    return planner.plan(chosen) if chosen else Plan()


@dataclass(frozen=True)
class Promise:
    """What data would buy, estimated.

    Attributes:
        low: times the speed with integers, not all of which may stand.
        high: with lighter forms and narrower layers as well, as far as the weights' spectra suggest.
    """

    low: float
    high: float

    def __str__(self) -> str:
        if self.high < LEAST_GAIN:
            return "data would gain this model little more on this target"
        return (
            f"with a few hundred unlabelled inputs (--data) about {self.low:.1f} to {self.high:.1f} times the speed "
            "may be reached: an estimate from prices of the heaviest layers and the spectra of their weights, which "
            "assumes that a loss of one point is allowed"
        )


def estimate(clean: ir.Model, executor: Executor, oracle: Oracle, feeds: Sequence[Feeds], integers: bool) -> Promise:
    """What data would buy.

    The layers that do most of the work are priced in floats and in integers, for about PRICING_SECONDS, and stand for
    the others; what lies beside layers stays as it is. Where products of matrices do much of the work, the network is
    timed with grids that are taken as it runs, which lose less than static ones: the lower end is theirs. At best a
    layer shrinks to the share of its rank that holds all but ROUGH_TAIL of its weight's energy, on both of its sides
    where whole channels can go. At worst nothing is gained where a network returns its input with changes (a denoiser),
    since 0.1 dB of such outputs is less than 8 bits usually cost. How the estimates compare with what runs with data
    reached: docs/planner.md.

    Args:
        clean: the cleaned model.
        executor: the target.
        oracle: prices.
        feeds: to time the whole model on.
        integers: whether the target computes in them.
    """
    start = time.monotonic()
    shapes = layer_shapes(clean, feeds[0], executor)
    sites = sorted(find_sites(clean, shapes), key=lambda site: -site.macs())
    work = sum(site.macs() for site in sites)
    if not work:
        return Promise(1.0, 1.0)
    whole = oracle.whole({"clean": clean}, feeds)[0]
    dense = narrow = done = 0.0
    taken = list[float]()  # milliseconds of each layer that is priced, in the better precision
    for site in sites:
        if done and (done >= HEAVY * work or time.monotonic() - start > PRICING_SECONDS):
            break
        done += site.macs()
        floats = oracle.prices(site, [None])[0].ms
        taken.append(min(floats, oracle.prices(site, [None], INT8)[0].ms) if integers else floats)
        dense, narrow = dense + floats, narrow + taken[-1]
    kept = _kept(clean, sites[: len(taken)])
    light = sum(best * share for best, share in zip(taken, kept, strict=True))
    covered = min(dense * work / done, 0.95 * whole)
    gain, most = (whole / (whole - covered + covered * part / max(dense, 1e-12)) for part in (narrow, light))
    context = Context(executor=executor, data=list(feeds))
    if integers and (grids := precision.dynamic_grids(clean, shapes, context)) is not None:
        dynamic = carry_out(clean, Plan(precision=grids), context).model
        before, after = oracle.whole({"clean": clean, "dynamic": dynamic}, feeds)
        gain = before / after
    outputs = {np.shape(value) for value in executor.prepare(clean)(feeds[0]).values()}
    changes = any(np.ndim(value) > 2 and np.shape(value) in outputs for value in feeds[0].values())
    low = 1.0 if changes else max(1.0, LOST * gain)
    return Promise(low, max(low, most))


def _kept(model: ir.Model, sites: Sequence[Site]) -> list[float]:
    """What is left of each layer's work at best: its rank, or that of its channels on both sides where these can go."""
    shares = {site.node: tail_rank(site, ROUGH_TAIL) for site in sites}
    made, read = dict.fromkeys(shares, 1.0), dict.fromkeys(shares, 1.0)
    for group in couple_channels(model).groups:
        makers = [node for node in group.makers if node in shares]
        if group.frozen or not makers:
            continue
        share = max(shares[node] for node in makers)
        made |= dict.fromkeys(makers, share)
        read |= {node: share for node in group.readers if node in shares}
    return [min(shares[site.node], made[site.node] * read[site.node]) for site in sites]


# ------------------------------------------------------------ spectra of weights


def redundant(site: Site) -> bool:
    """Whether a form of half the rank could keep the weight itself, to rounding; of wide views, less."""
    return any(not surely_full_rank(view) for view in _views(site)) and tail_rank(site, EXACT_TAIL) < 0.5


def tail_rank(site: Site, tail: float) -> float:
    """The least share of its rank at which some matrix view of the weight keeps all but `tail` of its energy.

    1 for grouped layers. Eigenvalues of the smaller Gram, of at most WIDEST rows: O(min(m, n, WIDEST)^3).
    """
    return min((_rank(view, tail) for view in _views(site)), default=1.0)


def _views(site: Site) -> Iterator[Floats]:
    """The matrices, no taller than wide, that the two-factor forms are of.

    Outputs against the rest, inputs against the rest, and for two spatial axes (inputs, rows) against (outputs,
    columns); none for grouped layers.
    """
    if site.group > 1:
        return
    weight = site.weight
    views = [weight.reshape(weight.shape[0], -1), np.moveaxis(weight, 1, 0).reshape(weight.shape[1], -1)]
    if len(site.kernel) == 2:
        columns = weight.transpose(1, 2, 0, 3)
        views.append(columns.reshape(columns.shape[0] * columns.shape[1], -1))
    for view in views:
        if min(view.shape) > 1:
            yield view if view.shape[0] <= view.shape[1] else view.T


def _drawn(view: Floats, rows: int) -> Floats:
    """So many of the rows, and twice as many columns, drawn at random; all where there are no more."""
    random = np.random.default_rng(0)
    for axis, count in enumerate((rows, 2 * rows)):
        if view.shape[axis] > count:
            view = np.take(view, np.sort(random.permutation(view.shape[axis])[:count]), axis)
    return view


def surely_full_rank(view: Floats) -> bool:
    """Whether more than half of the rank (of wide views, WIDEST / 2) is needed to keep the matrix, to rounding.

    By interlacing, a matrix has at least as many eigenvalues over a bound as a principal part of it has; that all of
    the part's lie above what rounding may have put there is what a Cholesky factorization tells, at a fraction of the
    work of eigenvalues.
    """
    rows = min(view.shape[0] // 2, WIDEST // 2) + MARGIN
    if rows > view.shape[0]:
        return False
    part = _drawn(view, rows)
    bound = EXACT_TAIL * float(np.square(view).sum())
    try:
        np.linalg.cholesky(part @ part.T - bound * np.eye(len(part)))
    except np.linalg.LinAlgError:
        return False
    return True


def _rank(view: Floats, tail: float) -> float:
    """The share of the rank; of wide views that of a drawn part, 1 where that part alone needs all of its rank."""
    part = _drawn(view, WIDEST)
    energies = np.maximum(np.linalg.eigvalsh(part @ part.T), 0.0)  # ascending
    total = float(energies.sum())
    return 1.0 - float(np.searchsorted(np.cumsum(energies), tail * total, side="right")) / len(energies)


__all__ = ["Promise", "estimate", "exact_plan", "redundant", "tail_rank", "without_redundancy"]
