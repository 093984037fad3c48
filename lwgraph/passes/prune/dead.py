"""remove-dead-channels: folds channels that are constant for all inputs into the layers that read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Ints
from lwgraph.layers.site import Site
from lwgraph.passes.clean.constants_to_initializers import ConstantsToInitializers
from lwgraph.passes.prune.compensate import add_to_bias, drop_zero_biases, own_biases
from lwgraph.passes.prune.intervals import Bounds, channel_bounds
from lwgraph.passes.prune.readers import PruneView
from lwgraph.passes.prune.remove_channels import remove_channels
from lwgraph.rewrite.base import Context, Contract, Pass
from lwgraph.views.coupling import Group

Known = Mapping[tuple[ir.Value, int], Bounds]


@dataclass(frozen=True)
class RemoveDeadChannels(Pass):
    """Remove channels that are constant for every input, such as filters of zeros and ReLUs that cannot open.

    What they add to a layer goes into its bias. Found by interval arithmetic over the weights, so nothing is measured.
    Over the reals the outputs stay as they are, also for channels that are zero. The contract is rounding all the same:
    a product of fewer columns is blocked otherwise by a runtime, so that it sums in another order, and bits differ.
    """

    name: ClassVar[str] = "remove-dead-channels"
    contract: ClassVar[Contract] = Contract.ROUNDING

    def run(self, model: ir.Model, context: Context) -> int:
        """Remove them; the number of channels removed. Repeats while a removal makes others constant."""
        total = 0
        while True:
            known = channel_bounds(model, PruneView(model, context).coupling)
            if not any(bounds.constant.any() for bounds in known.values()):
                return self._done(total, "no channel is constant whatever the inputs are", model, context)
            copy = ir.clone(model)  # where nothing can be removed, the model stays untouched
            count = self._once(copy, context)
            if not count:
                return self._done(total, "no channel that is constant can be removed", model, context)
            ir.replace_contents(model, copy)
            total += count

    def _done(self, total: int, reason: str, model: ir.Model, context: Context) -> int:
        if not total:
            context.skip(self.name, model.graph.name or "model", reason)
        return total

    def _once(self, model: ir.Model, context: Context) -> int:
        ConstantsToInitializers().run(model, Context())
        made = own_biases(model, PruneView(model, context).sites())
        view = PruneView(model, context)
        known = channel_bounds(model, view.coupling)
        removed: dict[Group, Ints] = {}
        for group in view.coupling.prunable:
            readers = {site.node: site for reader in view.readers(group) for site in reader.sites}
            dead = np.array([c for c in range(group.width) if _removable(group, c, known, readers)], np.int64)
            # One channel stays: a layer without channels is no layer.
            dead = dead[: group.width - 1] if len(dead) == group.width else dead
            if len(dead):
                _fold(view, group, dead, known)
                removed[group] = dead
        count = remove_channels(model, view.coupling, removed) if removed else 0
        drop_zero_biases(model, made)
        return count


def _removable(group: Group, channel: int, known: Known, readers: Mapping[ir.Node, Site]) -> bool:
    """Whether a channel is constant wherever it is read, and zero where a bias cannot take it up."""
    if group.caveats:
        return False
    inside = {each.axis.value for each in group.slices}
    for each in group.slices:
        value = each.axis.value
        if each.is_constant or ir.is_constant(value):
            continue
        bounds = known.get((value, each.axis.axis))
        for node in dict.fromkeys(user for user, _ in value.uses()):
            if any(output in inside for output in node.outputs) and not _reads(group, node):
                continue  # goes on from here
            if bounds is None or not bounds.constant[each.indices[channel]].all():
                return False
            if bounds.low[each.indices[channel]].any() and not (node in readers and _folds(readers[node], value)):
                return False
    return True


def _reads(group: Group, node: ir.Node) -> bool:
    return any((node, index) in each.axis.users for each in group.weights("in") for index in range(len(node.inputs)))


def _folds(site: Site, value: ir.Value) -> bool:
    """Whether a constant that a layer reads as `value` can go into its bias."""
    if site.input is not value or site.group > 1:
        return False
    if site.kind == "conv":  # next to padding the constant would be another one
        return not any(site.pads) and site.auto_pad in ("NOTSET", "VALID")
    return site.kind == "gemm" or (site.kind == "matmul" and len(site.nodes) > 1)


def _fold(view: PruneView, group: Group, dead: Ints, known: Known) -> None:
    """Add what the channels give to every layer that reads them to its bias."""
    for reader in view.readers(group):
        for site in reader.sites:
            data = next((each for each in group.slices if each.axis.value is site.input), None)
            if data is None or not _folds(site, site.input):
                continue
            values = known[site.input, data.axis.axis].low[data.indices[dead]].reshape(-1)
            if values.any():
                columns = reader.columns[0][dead].reshape(len(values), -1)
                weight = site.weight.reshape(site.outputs, -1)
                add_to_bias(site, np.asarray((weight[:, columns].sum(2) * values).sum(1)))
