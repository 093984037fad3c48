"""Ranks the channels of a model's groups before any is cut, and tells which groups may shrink."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Ints
from lwgraph.errors import UsageError, did_you_mean
from lwgraph.passes.clean.constants_to_initializers import ConstantsToInitializers
from lwgraph.passes.prune.compensate import compensate, drop_zero_biases, own_biases
from lwgraph.passes.prune.importance import Ranking
from lwgraph.passes.prune.readers import PruneView
from lwgraph.passes.prune.remove_channels import remove_channels
from lwgraph.passes.prune.widths import step_of
from lwgraph.plan.refit.sequential import refit
from lwgraph.rewrite.base import Context
from lwgraph.views.coupling import Group, part_of

REFIT_ROWS = 32768  # patches to which a layer is refitted, at least: for narrow layers they cost little


@dataclass(frozen=True, eq=False)
class GroupRankings:
    """The groups of one model that may shrink, and their rankings, by the groups' names.

    Attributes:
        view: a copy of the model, ready for pruning, as it was ranked.
        rankings: by group of that copy.
    """

    view: PruneView
    rankings: Mapping[Group, Ranking]

    def group(self, name: str) -> Group:
        """The group of that name; UsageError when none of that name may shrink."""
        known = {group.name: group for group in self.rankings}
        if name not in known:
            raise UsageError(f"no group that may shrink is named '{name}'{did_you_mean(name, known)}")
        return known[name]

    def removed(self, kept: Mapping[str, int]) -> dict[str, Ints]:
        """The channels that go, by the group's name, when so many are kept; UsageError for what cannot be kept."""
        found = {}
        for name, width in kept.items():
            group = self.group(name)
            if not 1 <= width <= group.width:
                raise UsageError(f"group '{name}' cannot keep {width} channels; allowed: 1 to {group.width}")
            found[name] = self.rankings[group].order[: group.width - width]
        return found


def ready(model: ir.Model, context: Context, biases: bool) -> tuple[PruneView, list[tuple[ir.Node, ir.Value]]]:
    """Make the constants of a model such that they can be cut and refitted; see `own_biases`."""
    ConstantsToInitializers().run(model, Context())
    made = own_biases(model, PruneView(model, context).sites()) if biases else []
    return PruneView(model, context), made


def cut(
    model: ir.Model,
    removed: Mapping[str, Ints],
    context: Context,
    fit: Context,
    *,
    compensated: bool,
    refitted: bool,
    name: str,
) -> int:
    """Remove channels of the groups named, in place; their number.

    Args:
        model: the model.
        removed: the channels that go, by the group's name.
        context: data and an executor to refit with, under the pass's `name`.
        fit: statistics to compensate with.
        compensated: let the channels that stay make up for those that go, in the layers that read them.
        refitted: then refit all layers behind a cut, in order, to what the model gave before; see
            `lwgraph.plan.refit.sequential`.
        name: of the pass.
    """
    if not any(len(channels) for channels in removed.values()):
        return 0
    view, made = ready(model, fit, compensated or refitted)
    by_name = {group.name: group for group in view.coupling.groups}
    channels = {by_name[name]: indices for name, indices in removed.items() if len(indices)}
    original = ir.clone(model) if refitted else model
    kept = _kept(view, channels) if refitted else {}
    if compensated:
        compensate(view, channels)
    count = remove_channels(model, view.coupling, channels)
    if refitted:
        refit(original, model, context, scope="all", kept=kept, relu=True, least_rows=REFIT_ROWS, name=name)
    drop_zero_biases(model, made)
    return count


def _kept(view: PruneView, removed: Mapping[Group, Ints]) -> dict[str, Ints]:
    """The channels that are left of layers' outputs, and of the sums after them, by name."""
    masks = view.coupling.kept(removed)
    found = {}
    for site in view.sites():
        sums = [node.outputs[0] for node, _ in site.output.uses() if ir.operator(node) == "Add"]
        for value in (site.output, *sums):
            axis = 1 if site.kernel else len(view.coupling.builder.dims(value) or ()) - 1
            tracked = view.coupling.builder.get(value, axis)
            if tracked is not None and tracked in masks:
                found[value.name or ""] = np.flatnonzero(masks[tracked])
    return found


def candidates(view: PruneView, multiple: int, only: str, ignore: str, name: str) -> list[Group]:
    """The groups that may shrink; `context.skip` records a reason for each other one, under the pass's `name`."""
    found = []
    for group in view.coupling.groups:
        if not group.weights("out"):
            continue
        names = names_of(group)
        reason = group.frozen
        if not reason and only and not matches(only, names):
            reason = f"not among only={only}"
        if not reason and ignore and matches(ignore, names):
            reason = f"among ignore={ignore}"
        if not reason and group.width <= step_of(group, multiple):
            reason = f"it has {group.width} channels; kept widths are multiples of {multiple}"
        if reason:
            view.context.skip(name, group.name, reason)
        else:
            found.append(group)
    return [group for group in found if not _unmeasured(view, group, found, name)]


def _unmeasured(view: PruneView, group: Group, groups: list[Group], name: str) -> bool:
    """Whether a layer that reads the group has values that are not finite; told, as `candidates` does."""
    view.prefetch(groups)
    statistics = view.context.statistics
    sites = [site for reader in view.readers(group) for site in reader.sites] if statistics is not None else []
    reason = next((why for site in sites if statistics is not None and (why := statistics.unfit(site))), "")
    if reason:
        view.context.skip(name, group.name, reason)
    return bool(reason)


def names_of(group: Group) -> list[str]:
    """The texts that a pattern may match: the group's name, "heads" or "feed-forward" where it is that, and the names
    and operators of the layers that make and read it."""
    nodes = (*group.makers, *group.readers)
    return [
        group.name,
        *filter(None, [part_of(group)]),
        *(name for node in nodes for name in (node.name or "", node.op_type)),
    ]


def matches(patterns: str, names: Iterable[str]) -> bool:
    """Whether one of the comma-separated patterns fits one of the names: a glob, or `re:` and a regular expression."""
    known = list(names)
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        expression = pattern[3:] if pattern.startswith("re:") else r"\A" + fnmatch.translate(pattern)
        if any(re.search(expression, name) for name in known):
            return True
    return False
