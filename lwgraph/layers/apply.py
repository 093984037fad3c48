"""Fits chosen forms to chosen sites and puts them into the model, each proved before it stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lwgraph import ir
from lwgraph.calibrate.sketch import FactoredGram
from lwgraph.layers.check import objection
from lwgraph.layers.form import Fitted, Form
from lwgraph.layers.moments import GramLike, Moments, inexact, pooled, too_wide
from lwgraph.layers.probe import Probe
from lwgraph.layers.site import Site
from lwgraph.layers.substitute import substitute
from lwgraph.rewrite.base import Context


@dataclass(frozen=True)
class Record:
    """The outcome of one choice.

    Attributes:
        site: the site's name.
        form: the form's text, sizes decided.
        done: whether the layer was replaced.
        reason: why not; "" when done.
        error: predicted relative output error, ||Y - Yhat||^2 / ||Y - mean Y||^2.
        measured: whether `error` comes from calibration samples.
        macs: multiply-accumulates of the layer before and after, for one batch.
    """

    site: str
    form: str
    done: bool
    reason: str = ""
    error: float = 0.0
    measured: bool = False
    macs: tuple[int, int] = (0, 0)


def moments_of(sites: Sequence[Site], context: Context) -> Moments:
    """The input moments of sites with one common weight, pooled; those of white inputs without statistics.

    Of a family with members that cannot be observed, the moments of the others stand for all; `unseen` and `unfit` tell
    where there are none.
    """
    site, statistics = sites[0], context.statistics
    seen = measured(sites, context)
    if statistics is None or not seen:
        return Moments(site)
    grams = [statistics.gram(s) for s in seen]

    def measure(look: Callable[[Site], Site | Probe]) -> GramLike | FactoredGram:
        return pooled([statistics.gram(look(s)) for s in seen])

    moments = Moments(site, pooled(grams), measure)
    if moments.exact:
        tell_shortage(context, moments.site, moments.count)
    return moments


def measured(sites: Sequence[Site], context: Context) -> list[Site]:
    """The sites whose input moments are to be had, collected now where they were not."""
    seen = [s for s in sites if observable(s)]
    if context.statistics is None:
        return []
    if len(seen) > 1:
        context.statistics.prefetch(seen)  # in one run
    return [s for s in seen if not context.statistics.unfit(s)]


def unfit(sites: Sequence[Site], context: Context) -> str:
    """Why sites with one common weight have no moments though they can be observed; "" when they have."""
    if context.statistics is None or not any(map(observable, sites)) or measured(sites, context):
        return ""
    return next(why for s in sites if observable(s) and (why := context.statistics.unfit(s)))


def tell_shortage(context: Context, site: Site | Probe, count: int | None) -> None:
    """Warn, once for a layer, where `count` samples are too few to fit it; None: it is fitted without any."""
    if count is not None and (words := Moments.shortage(site, count)):
        context.warn(words, about=f"layer '{site.name}' has ")


def observable(site: Site) -> bool:
    """Whether an executor can return the site's input: it is a value of the main graph."""
    return isinstance(site.graph, ir.Graph) and ir.parent(site.graph) is None


def unseen(sites: Sequence[Site], context: Context) -> str:
    """Why sites with one common weight cannot be fitted to the samples that there are; "" when they can.

    Without samples every site is fitted to its weight; with samples, a layer that was fitted without would lose many
    times as much as the others, unnoticed.
    """
    if context.statistics is None or any(map(observable, sites)):
        return ""
    if isinstance(sites[0].graph, ir.Function):
        return "it is in a function, where calibration cannot capture its input; the pass inline-functions inlines it"
    return (
        "it is in the body of an If, Loop or Scan, where calibration cannot capture its input; without --data it "
        "would be fitted to its weight alone"
    )


def unknown(site: Site, form: Form, context: Context) -> str:
    """Why a form cannot be fitted on what the memory allowance lets be known of a layer's inputs; "" when it can."""
    if context.statistics is None or not observable(site):
        return ""
    return next((inexact(seen) for seen in (site, form.seen(site)) if not context.statistics.exact(seen)), "")


def apply_forms(
    choices: Sequence[tuple[Site, Form]], context: Context, fitted: Mapping[str, Fitted] | None = None
) -> list[Record]:
    """Replace each site by its form, in place.

    Sites that share a weight, read it alike and get the same form are fitted together and go on sharing; otherwise each
    gets its own. A form that cannot stand at its site, saves no work, or whose nodes do not compute what was fitted
    (run by `context.reference`) is refused, the layer stays, and `context.skip` records why.

    Args:
        choices: sites of one model, and the form for each.
        context: statistics, the reference executor, limits.
        fitted: fits by site name, where they are known already.

    Returns:
        one record per choice, in order.
    """
    records: dict[str, Record] = {}
    by_name = {site.name: (site, form) for site, form in choices}
    for site, wanted in choices:
        if site.name in records:
            continue
        reason = too_wide(site) or wanted.refusal(site)
        form = wanted if reason else wanted.at(site)
        family = [site]
        for other in site.shared:
            if other not in by_name or other in records:
                continue
            twin, its_form = by_name[other]
            if str(its_form) == str(wanted) and twin.layout == site.layout:
                family.append(twin)
        reason = reason or unseen(family, context) or _no_gain(form, site) or unknown(site, form, context)
        reason = reason or unfit(family, context)
        if reason:
            records[site.name] = _refuse(site, form, reason, context)
            continue
        known = (fitted or {}).get(site.name)
        found = known if known is not None and len(family) == 1 else form.fit(site, moments_of(family, context))
        shared: dict[str, ir.Value] = {}
        for member in family:
            records[member.name] = _place(found.moved(member), context, shared)
    return [records[site.name] for site, _ in choices]


def _place(found: Fitted, context: Context, shared: dict[str, ir.Value]) -> Record:
    site, form = found.site, found.form
    reason = objection(found, context, observable(site))
    if reason:
        return _refuse(site, form, reason, context)
    if not context.allow(form.name, site.name):
        return Record(site.name, str(form), False, "the limit of rewrites is reached")
    macs = (site.macs(), form.macs(site))
    substitute(found, shared)
    return Record(site.name, str(form), True, "", found.error, found.measured, macs)


def _no_gain(form: Form, site: Site) -> str:
    before, after = site.macs(), form.macs(site)
    if after < before:
        return ""
    return f"{form} would need {after:,} multiply-accumulates; the layer has {before:,}"


def _refuse(site: Site, form: Form, reason: str, context: Context) -> Record:
    context.skip(form.name, site.name, reason)
    return Record(site.name, str(form), False, reason)


__all__ = [
    "Record",
    "apply_forms",
    "measured",
    "moments_of",
    "observable",
    "tell_shortage",
    "unfit",
    "unknown",
    "unseen",
]
