"""prune-channels: remove channels everywhere they are, and let the others make up for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from lwgraph import ir
from lwgraph.passes.clean.constants_to_initializers import ConstantsToInitializers
from lwgraph.passes.prune.choice import by_group, by_work, nothing, step_of
from lwgraph.passes.prune.compensate import compensate, drop_zero_biases, own_biases
from lwgraph.passes.prune.importance import Ranking, importance
from lwgraph.passes.prune.scene import Scene, matches
from lwgraph.passes.prune.surgery import remove_channels
from lwgraph.rewrite.base import Context, Contract, Pass
from lwgraph.views.coupling import Group


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Remove the channels that matter least, with everything coupled to them; the kept weights are refitted.

    Needs calibration data to choose and to refit well; without, both use the weights alone, and a warning says so.
    """

    name: ClassVar[str] = "prune-channels"
    contract: ClassVar[Contract] = Contract.APPROXIMATE

    ratio: Annotated[float, "share to remove: of each group's channels, or of the model's work"] = 0.3
    scope: Annotated[Literal["group", "work"], "the same share of every group, or what costs least per work"] = "work"
    importance: Annotated[str, "obs, activation, l1, l2, or module:Class"] = "obs"
    compensate: Annotated[bool, "refit the layers that read removed channels"] = True
    multiple: Annotated[int, "kept widths are multiples of this"] = 16
    most: Annotated[float, "largest share of one group that may go, with scope=work"] = 0.75
    only: Annotated[str, "groups to prune: globs or re:expressions over layer names and operators, by comma"] = ""
    ignore: Annotated[str, "groups to leave alone, in the same way"] = ""

    def __post_init__(self) -> None:
        """Check the options."""
        self.check_option("ratio", 0 <= self.ratio < 1, self.ratio, "from 0 to below 1")
        self.check_option("most", 0 < self.most <= 1, self.most, "above 0, at most 1")
        self.check_option("multiple", self.multiple >= 1, self.multiple, "1 or more")
        importance(self.importance)

    def run(self, model: ir.Model, context: Context) -> int:
        """Prune in place; the number of channels removed."""
        ranker = importance(self.importance)
        if context.statistics is None and (ranker.needs_data or self.compensate):
            context.warn(f"{self.name}: no calibration data; channels are chosen and refitted by the weights alone")
        ConstantsToInitializers().run(model, Context())
        made = own_biases(model, Scene(model, context).sites()) if self.compensate else []
        scene = Scene(model, context)
        groups = self._groups(scene)
        scene.prefetch(groups)
        rankings: dict[Group, Ranking] = {}
        for done, group in enumerate(groups):
            context.progress("ranking channels", done, len(groups))
            rankings[group] = ranker.rank(group, scene)
        if self.scope == "group":
            removed = by_group(rankings, self.ratio, self.multiple)
        else:
            removed = by_work(rankings, self.ratio, self.multiple, scene, self.most)
        count = 0
        if not nothing(removed):
            if self.compensate:
                compensate(scene, removed)
            count = remove_channels(model, scene.coupling, removed)
        drop_zero_biases(model, made)
        return count

    def _groups(self, scene: Scene) -> list[Group]:
        """The groups that may shrink; a refusal is recorded for each other one."""
        found = []
        for group in scene.coupling.groups:
            if not group.weights("out"):
                continue
            names = [name for node in (*group.makers, *group.readers) for name in (node.name or "", node.op_type)]
            reason = group.frozen
            if not reason and self.only and not matches(self.only, iter(names)):
                reason = f"not among only={self.only}"
            if not reason and self.ignore and matches(self.ignore, iter(names)):
                reason = f"among ignore={self.ignore}"
            if not reason and group.width <= step_of(group, self.multiple):
                reason = f"it has {group.width} channels; kept widths are multiples of {self.multiple}"
            if reason:
                scene.context.skip(self.name, group.name, reason)
            else:
                found.append(group)
        return found
