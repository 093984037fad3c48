"""prune-channels: removes channels wherever they are, and refits the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from lwgraph import ir
from lwgraph.arrays import Ints
from lwgraph.errors import UsageError
from lwgraph.executor import Feeds
from lwgraph.passes.prune.assessment import GroupRankings, candidates, cut, matches, names_of, ready
from lwgraph.passes.prune.importance import Ranking, importance
from lwgraph.passes.prune.readers import Work
from lwgraph.passes.prune.widths import at_outputs, by_group, by_work, menu, shares_after, step_of
from lwgraph.plan.refit.samples import chosen_feeds
from lwgraph.plan.roles import Removal
from lwgraph.plan.search.sensitivity import measure_sensitivity
from lwgraph.rewrite.base import Context, Contract, Pass
from lwgraph.views.coupling import Group

ALL = 1 << 62  # samples


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Remove the channels that matter least, with everything coupled to them, and refit the weights that stay.

    Needs calibration data to choose and to refit well; without, both use the weights alone, and a warning says so.
    Groups are named by `lwgraph inspect --groups`.
    """

    name: ClassVar[str] = "prune-channels"
    contract: ClassVar[Contract] = Contract.APPROXIMATE

    ratio: Annotated[float, "share to remove: of each group's channels, or of the model's work"] = 0.3
    scope: Annotated[Literal["group", "work"], "the same share of every group, or what costs least per work"] = "work"
    widths: Annotated[str, "instead, NAME=32 (channels kept) or NAME=0.5 (share kept) by comma; names as for only"] = ""
    importance: Annotated[str, "obs, activation, taylor, fold, l1, l2, or module:Class"] = "obs"
    sensitivity: Annotated[int, "samples on which a group's effect at the outputs is measured; 0: predicted only"] = 16
    compensate: Annotated[bool, "refit the layers that read removed channels"] = True
    refit: Annotated[bool, "then refit all layers, in order, to what they gave, where held-out samples agree"] = True
    multiple: Annotated[int, "kept widths are multiples of this"] = 16
    most: Annotated[float, "largest share of one group that may go, with scope=work"] = 0.75
    only: Annotated[str, "groups to prune: globs or re:expressions over layer names and operators, by comma"] = ""
    ignore: Annotated[str, "groups to leave alone, in the same way"] = ""

    def __post_init__(self) -> None:
        """Check the options."""
        self.check_option("ratio", 0 <= self.ratio < 1, self.ratio, "from 0 to below 1")
        self.check_option("most", 0 < self.most <= 1, self.most, "above 0, at most 1")
        self.check_option("sensitivity", self.sensitivity >= 0, self.sensitivity, "0 or more")
        self.check_option("multiple", self.multiple >= 1, self.multiple, "1 or more")
        importance(self.importance)
        _widths(self.widths)

    def run(self, model: ir.Model, context: Context) -> int:
        """Prune in place; the number of channels removed."""
        measured = self.scope == "work" and self.sensitivity and not self.widths
        apart = _held_out(model, context) if measured else None
        inner, held = apart or (context, [])
        ranked = self.ranked(model, inner)
        if self.widths:
            chosen = {
                group: ranked.rankings[group].order[: group.width - kept]
                for group, kept in self._stated(list(ranked.rankings)).items()
            }
        elif self.scope == "group":
            chosen = by_group(ranked.rankings, self.ratio, self.multiple)
        else:
            rankings = self._measured(ranked, model, inner, held) if held else ranked.rankings
            chosen = by_work(rankings, self.ratio, self.multiple, ranked.view, self.most)
        for each in inner.skipped:
            context.skip(each.pass_name, each.place, each.reason)
        removed = {group.name: channels for group, channels in chosen.items()}
        return self._cut(model, removed, context, inner, self.refit)

    def _cut(self, model: ir.Model, removed: Mapping[str, Ints], context: Context, fit: Context, refit: bool) -> int:
        refit = refit and self.compensate and context.executor is not None and bool(context.data)
        return cut(model, removed, context, fit, compensated=self.compensate, refitted=refit, name=self.name)

    def _measured(
        self, ranked: GroupRankings, model: ir.Model, fit: Context, held: list[Feeds]
    ) -> dict[Group, Ranking]:
        """The rankings with their costs at the network's outputs, on samples that no fit has seen."""
        options = [each for each in self.options(model, fit) if each.kept in _probes(ranked.group(each.item), self)]
        return at_outputs(
            ranked.rankings, measure_sensitivity(model, self, fit, held[: self.sensitivity], options=options)
        )

    def ranked(self, model: ir.Model, context: Context) -> GroupRankings:
        """Rank the channels of every group that may shrink; kept in the context. The model is not changed."""
        key = (
            self.name,
            self.importance,
            self.compensate,
            self.multiple,
            self.only,
            self.ignore,
            context.statistics,
            ir.fingerprint(model),
        )
        if not isinstance(found := context.memory.get(key), GroupRankings):
            found = context.memory[key] = self._study(ir.clone(model), context)
        return found

    def _study(self, model: ir.Model, context: Context) -> GroupRankings:
        ranker = importance(self.importance)
        if context.statistics is None and (ranker.needs_data or self.compensate):
            context.warn(f"{self.name}: no calibration data; channels are chosen and refitted by the weights alone")
        view, _ = ready(model, context, self.compensate)
        groups = candidates(view, self.multiple, self.only, self.ignore, self.name)
        view.prefetch(groups)
        rankings: dict[Group, Ranking] = {}
        for done, group in enumerate(groups):
            context.progress("ranking channels", done, len(groups))
            rankings[group] = ranker.rank(group, view)
        return GroupRankings(view, rankings)

    def options(self, model: ir.Model, context: Context) -> list[Removal]:
        """See `lwgraph.plan.roles.Removes`. At most choice.MENU sizes each, down to what `most` leaves."""
        ranked = self.ranked(model, context)
        work = Work(ranked.view)
        found = []
        for group, ranking in ranked.rankings.items():
            for kept in menu(group, step_of(group, self.multiple), self.most):
                shares = shares_after(group, group.width, kept, {})
                left = work.changed(shares)
                found.append(
                    Removal(
                        group.name,
                        kept,
                        group.width,
                        round(work.total(shares)),
                        float(ranking.cost[group.width - kept]),
                        tuple(left),
                        tuple(left.values()),
                    )
                )
        return found

    def apply(self, model: ir.Model, kept: Mapping[str, int], context: Context, *, refit: bool = False) -> int:
        """See `lwgraph.plan.roles.Removes`."""
        return self._cut(model, self.ranked(model, context).removed(kept), context, context, refit)

    def _stated(self, groups: list[Group]) -> dict[Group, int]:
        """The widths that the option `widths` gives, by the groups that it names."""
        found: dict[Group, int] = {}
        for pattern, text in _widths(self.widths).items():
            fitting = [group for group in groups if matches(pattern, [group.name])] or [
                group for group in groups if matches(pattern, names_of(group))
            ]
            if not fitting:
                raise UsageError(
                    f"option 'widths' names '{pattern}', which matches no group that may shrink; "
                    "`lwgraph inspect --groups` lists them"
                )
            for group in fitting:
                kept = round(float(text) * group.width) if "." in text else int(text)
                if not 1 <= kept <= group.width:
                    raise UsageError(
                        f"option 'widths' keeps {text} of group '{group.name}', which has {group.width} "
                        f"channels; allowed: 1 to {group.width}, or a share such as 0.5"
                    )
                found[group] = kept
        return found


def _held_out(model: ir.Model, context: Context) -> tuple[Context, list[Feeds]] | None:
    """A context whose statistics have not seen the held-out samples, and these; None without data to part."""
    if context.statistics is None or context.executor is None or not context.data:
        return None
    feeds, held = chosen_feeds(context.data, model, ALL, context.seed)  # the samples that the refit holds out, too
    fit = [feed for index, feed in enumerate(feeds) if index not in held] or feeds
    return context.beside(data=fit, statistics=context.statistics_of(model, fit)), [
        feeds[index] for index in sorted(held)
    ]


def _probes(group: Group, p: PruneChannels) -> set[int]:
    """The widths at which a group's effect is measured: about a quarter and a half of what may go."""
    widths = menu(group, step_of(group, p.multiple), p.most)
    return {widths[(len(widths) - 1) // 4], widths[(len(widths) - 1) // 2]} if widths else set()


def _widths(text: str) -> dict[str, str]:
    """The option `widths` by pattern.

    Raises:
        UsageError: a part that is not NAME=NUMBER.
    """
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        pattern, equals, number = part.rpartition("=")
        try:
            ok = bool(equals and pattern) and float(number) > 0 and ("." in number or int(number) > 0)
        except ValueError:
            ok = False
        if not ok or ("." in number and float(number) > 1):
            raise UsageError(f"option 'widths' has '{part}'; allowed: NAME=32 (channels kept) or NAME=0.5 (share kept)")
        found[pattern] = number
    return found
