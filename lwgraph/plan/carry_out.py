"""Carries out a whole plan: blocks, groups, sites, precision, each on what the one before left."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.errors import UsageError, did_you_mean
from lwgraph.layers.apply import Record
from lwgraph.layers.form import Fitted
from lwgraph.layers.site import find_sites
from lwgraph.plan.plan import Plan, Precision, apply_plan
from lwgraph.rewrite import Pipeline
from lwgraph.rewrite.base import Context, Pass
from lwgraph.rewrite.options import parse_pass
from lwgraph.rewrite.provenance import FROM_KEY
from lwgraph.views.coupling import couple_channels

BLOCKS, GROUPS = "prune-blocks", "prune-channels"  # the passes that leave out blocks and channels, asked for by name
SHAPES = "infer-shapes"
SPARED = ("nodes_to_exclude", "ignored_scope")  # options by which passes are told what to leave alone


def carry_out(
    model: ir.Model,
    plan: Plan,
    context: Context,
    *,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
    fitted: Mapping[str, Fitted] | None = None,
) -> list[Record]:
    """Do all that `plan` says to `model`, in place. Weights are fitted anew, so the model may have been retrained.

    Statistics are collected again after each step that changes what the following layers see.

    Args:
        model: of the architecture that the plan was made for.
        plan: the choices.
        context: `statistics` of `model` (None: everything is fitted without samples), `data`, `executor`, `reference`.
        shapes: measured sizes by value name, of `model`.
        fitted: fits by site name; used only when the plan removes nothing before the sites.

    Returns:
        a record for each block, group, site and pass.

    Raises:
        UsageError: the plan names what the model does not have, or a pass or form that is not installed.
        DataError: a pass of the plan needs calibration data.
    """
    records = cut(model, plan, context)
    if records and context.executor is not None and context.feeds:
        shapes = layer_shapes(model, next(iter(context.feeds)), context.executor)
    with statistics_of(model, context, bool(records)):
        records += apply_plan(model, plan, context, shapes=shapes, fitted=None if records else fitted)
    with statistics_of(model, context, any(record.done for record in records)):
        records += _compute(model, plan.precision, context)
    return records


def cut(model: ir.Model, plan: Plan, context: Context, *, refit: bool = False) -> list[Record]:
    """Remove the blocks and the channels that `plan` removes, in place; what stays makes up for them.

    Args:
        model, plan, context: as for `carry_out`.
        refit: then fit all layers that this changes anew, in order, to what the model gave.

    Raises:
        UsageError: the plan names what the model does not have, or a pass that is not installed.
    """
    records = _leave_out(model, BLOCKS, dict.fromkeys(plan.blocks, 0), "removed", context, refit and not plan.groups)
    with statistics_of(model, context, bool(plan.blocks)):
        _check_widths(model, plan)
        widths = {name: width.keep for name, width in plan.groups.items()}
        return records + _leave_out(model, GROUPS, widths, "{} channels", context, refit)


def _leave_out(
    model: ir.Model, pass_name: str, kept: Mapping[str, int], words: str, context: Context, refit: bool
) -> list[Record]:
    if not kept:
        return []
    remover: Any = registry.pass_class(pass_name)()
    if not hasattr(remover, "apply"):
        raise UsageError(f"pass '{pass_name}' cannot be told what to leave out; the plan needs one that can")
    remover.apply(model, kept, context, refit=refit)
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


def _compute(model: ir.Model, precision: Precision, context: Context) -> list[Record]:
    """Run the passes of the plan, told what to leave alone."""
    if not precision.passes:
        return []
    named = nodes_of(model, precision.keep_float)
    passes = [_sparing(parse_pass(text), named) for text in precision.passes]
    if named and not any(set(SPARED) & _options(p) for p in passes):
        asked = ", ".join(precision.passes)
        raise UsageError(f"the plan keeps '{precision.keep_float[0]}' in float, but {asked} cannot leave nodes alone")
    Pipeline([registry.pass_class(SHAPES)()]).run(model, context)  # of the nodes that forms put there
    steps = Pipeline(passes).run(model, context)
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


def _sparing(p: Pass, names: Sequence[str]) -> Pass:
    option = next((o for o in SPARED if o in _options(p)), None)
    if option is None or not names:
        return p
    changed: Pass = dataclasses.replace(p, **{option: tuple(dict.fromkeys((*getattr(p, option), *names)))})
    return changed


def _options(p: Pass) -> set[str]:
    return {f.name for f in dataclasses.fields(p)}


@contextmanager
def statistics_of(model: ir.Model, context: Context, changed: bool) -> Iterator[None]:
    """Within: the statistics of the model as it is now, if there were any and it changed."""
    before = context.statistics
    if changed and before is not None and context.executor is not None and context.data:
        context.statistics = Statistics(model, context.data, context.executor, context.seed, progress=context.progress)
    try:
        yield
    finally:
        context.statistics = before


__all__ = ["BLOCKS", "GROUPS", "carry_out", "cut", "nodes_of", "statistics_of"]
