"""Carries out a whole plan: blocks, groups, sites, precision, each on what the one before left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lwgraph import ir, registry
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.calibrate.subsample import spread
from lwgraph.errors import UsageError, did_you_mean
from lwgraph.layers.apply import Record, apply_forms, observable
from lwgraph.layers.form import Fitted, parse_form
from lwgraph.layers.site import find_sites
from lwgraph.plan.plan import KEEP, Plan, Precision
from lwgraph.plan.precision import dynamic_in
from lwgraph.plan.refit.sequential import refit
from lwgraph.plan.roles import BLOCKS, GROUPS, SHAPES, Removes
from lwgraph.rewrite import Pipeline
from lwgraph.rewrite.base import Context, Pass
from lwgraph.rewrite.provenance import FROM_KEY
from lwgraph.views.coupling import couple_channels

REFIT_SAMPLES, REFIT_SECONDS = 256, 10.0  # that layers are fitted anew to, and about how long these may run
RANGE_SAMPLES, RANGE_SECONDS = 128, 12.0  # that integer ranges are taken from, and about how long these may run
LEAST_SAMPLES, LEAST_IN_HASTE = 48, 24  # for either, however long they run
HASTE = 0.02  # share of the time of a search within which either's samples run: a refit runs each about five times


@dataclass(frozen=True)
class Samples:
    """How many calibration samples the steps of a plan look at, at most.

    Attributes:
        refit: that layers are fitted anew to; 0: layers stay as they were fitted one by one.
        ranges: that the passes of the precision see; None: all.
        hasty: whether either is fewer than a search without an end takes.
    """

    refit: int = 0
    ranges: int | None = None
    hasty: bool = False

    @classmethod
    def in_earnest(cls, run_ms: float | None = None, seconds: float = math.inf) -> Samples:
        """For a result that is delivered.

        Args:
            run_ms: milliseconds of one run of the network; None: not known.
            seconds: that the whole search may take.
        """
        most, enough = (REFIT_SAMPLES, RANGE_SAMPLES), (REFIT_SECONDS, RANGE_SECONDS)
        whole = [affordable(n, s, LEAST_SAMPLES, run_ms) for n, s in zip(most, enough, strict=True)]
        limited = [min(s, HASTE * seconds) for s in enough]
        least = [LEAST_IN_HASTE if s < t else LEAST_SAMPLES for s, t in zip(limited, enough, strict=True)]
        found = [affordable(*each, run_ms) for each in zip(most, limited, least, strict=True)]
        return cls(found[0], found[1], hasty=found != whole)


@dataclass(frozen=True, eq=False)
class Carried:
    """What a plan made of a model.

    Attributes:
        model: a copy with the plan carried out.
        records: what became of each block, group, site and pass.
    """

    model: ir.Model
    records: list[Record]


def carry_out(
    model: ir.Model,
    plan: Plan,
    context: Context,
    *,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
    fitted: Mapping[str, Fitted] | None = None,
    samples: Samples = Samples(),
) -> Carried:
    """Do all that `plan` says to a copy of `model`. Weights are fitted anew, so the model may have been retrained.

    Blocks go first, then channels, then forms are put in, last come the precisions. Statistics are collected again
    after each step that changes what the following layers see. With `samples.refit` and calibration data, all layers
    are fitted anew, in order, to what they see: after blocks and channels were removed, and again after forms were put
    in.

    Args:
        model: of the architecture that the plan was made for; not changed.
        plan: the choices.
        context: `statistics` of `model` (None: everything is fitted without samples), `data`, `executor`, `reference`.
        shapes: measured sizes by value name, of `model`.
        fitted: fits by site name; used only when the plan removes nothing before the sites.
        samples: how many each step looks at.

    Raises:
        UsageError: the plan names what the model does not have, or a pass or form that is not installed; a pass of the
            plan needs calibration samples, and there are none.
    """
    made, refits = ir.clone(model), samples.refit if context.data and context.executor is not None else 0
    removed = dict.fromkeys(plan.blocks, 0)
    records = _leave_out(made, BLOCKS, removed, "removed", context, refits > 0 and not plan.groups)
    _check_widths(made, plan)
    widths = {name: width.keep for name, width in plan.groups.items()}
    seen = observing(made, context) if records else context
    records += _leave_out(made, GROUPS, widths, "{} channels", seen, refits > 0)
    if plan.sites:
        base, seen = model, context
        if records:
            base, fitted = ir.clone(made), None
            seen = observing(base, context)
            if context.executor is not None and context.feeds:
                shapes = layer_shapes(made, next(iter(context.feeds)), context.executor)
        forms = _place_forms(made, plan, seen, shapes, fitted)
        if refits and any(record.done for record in forms):
            refit(base, made, seen, samples=refits)
        records += forms
    if plan.precision.passes:
        seen = observing(made, context) if any(record.done for record in records) else context
        if context.data and samples.ranges is not None:
            seen = seen.beside(data=spread(context.data, samples.ranges))
        # Refusals stay here: the plan itself says which layers stay in float.
        records += _run_passes(made, plan.precision, seen.beside(log=replace(context.log, skipped={})))
    return Carried(made, records)


def affordable(samples: int, seconds: float, least: int, run_ms: float | None) -> int:
    """At most `samples`, fewer where a network of `run_ms` milliseconds (None: unknown) takes longer than `seconds`
    with those, but at least `least`.
    """
    if run_ms is None:
        return samples
    return min(samples, max(least, int(1e3 * seconds / max(run_ms, 1e-3))))


def _leave_out(
    model: ir.Model, role: str, kept: Mapping[str, int], words: str, context: Context, refit: bool
) -> list[Record]:
    if not kept:
        return []
    registry.role(role, Removes).apply(model, kept, context, refit=refit)
    return [Record(name, words.format(size), True) for name, size in kept.items()]


def _check_widths(model: ir.Model, plan: Plan) -> None:
    widths = {group.name: group.width for group in couple_channels(model).groups} if plan.groups else {}
    for name, width in plan.groups.items():
        if name not in widths:
            near = did_you_mean(name, widths)
            raise UsageError(f"the plan names group '{name}', which the model does not have{near}")
        if widths[name] != width.of:
            raise UsageError(
                f"group '{name}' has {widths[name]} channels and {width.of} in the plan, which is of another model"
            )


def _place_forms(
    model: ir.Model,
    plan: Plan,
    context: Context,
    shapes: Mapping[str, Sequence[int | None]] | None,
    fitted: Mapping[str, Fitted] | None,
) -> list[Record]:
    """Put the forms of `plan` into `model`; one record for each site that is not kept."""
    sites = {site.name: site for site in find_sites(model, shapes)}
    choices = []
    for name, choice in plan.sites.items():
        if name not in sites:
            raise UsageError(f"the plan names site '{name}', which the model does not have{did_you_mean(name, sites)}")
        if choice.form != KEEP:
            choices.append((sites[name], parse_form(choice.form)))
    unknown = [site for site, _ in choices if site.name not in (fitted or {}) and observable(site)]
    if context.statistics is not None and unknown:
        context.statistics.prefetch(unknown)
    return apply_forms(choices, context, fitted)


def _run_passes(model: ir.Model, precision: Precision, context: Context) -> list[Record]:
    """Run the passes of the plan, told what to leave alone."""
    if not precision.passes:
        return []
    named = nodes_of(model, precision.keep_float)
    passes = [Pass.parse(text).sparing(named) for text in precision.passes]
    if precision.dynamic:
        passes = dynamic_in(passes, nodes_of(model, precision.dynamic))
    if named and not any(p.spares for p in passes):
        asked = ", ".join(precision.passes)
        raise UsageError(f"the plan keeps '{precision.keep_float[0]}' in float, but {asked} cannot leave nodes alone")
    Pipeline([registry.role(SHAPES, Pass)]).rewrite(model, context)  # of the nodes that forms put there
    steps = Pipeline(passes).rewrite(model, context)
    texts = precision.passes
    return [Record(text, text, step.count > 0, step.dropped) for text, step in zip(texts, steps, strict=True)]


def nodes_of(model: ir.Model, names: Sequence[str]) -> list[str]:
    """The names of the nodes that `names` stand for: nodes, or sites with all nodes that their form put there.

    A site's nodes that have no name get one.

    Raises:
        UsageError: the model has no such node or site.
    """
    by_name: dict[str, list[ir.Node]] = {}
    for node in model.graph:
        keys = {node.name, node.metadata_props.get(FROM_KEY)}
        for key in keys - {None, ""}:
            by_name.setdefault(str(key), []).append(node)
    for site in find_sites(model):
        if site.graph is model.graph:
            by_name.setdefault(site.name, []).extend(site.nodes)
    found: dict[str, None] = {}
    for name in names:
        if name not in by_name:
            near = did_you_mean(name, by_name)
            raise UsageError(f"the plan keeps '{name}' in float, which the model does not have{near}")
        for node in by_name[name]:
            node.name = node.name or ir.fresh_name(model.graph, node.op_type.lower())
            found[node.name] = None
    return list(found)


def observing(model: ir.Model, context: Context) -> Context:
    """The context with statistics of `model`, if it has any."""
    if context.statistics is None or context.executor is None or not context.data:
        return context
    return context.beside(statistics=context.statistics_of(model))


__all__ = ["Carried", "Samples", "affordable", "carry_out", "nodes_of", "observing"]
