"""A model as pruning sees it: groups, the layers that read them, their moments, their work."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Ints
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.layers.apply import tell_shortage
from lwgraph.layers.moments import Moments, pooled
from lwgraph.layers.site import Site, find_sites
from lwgraph.measure.work import node_macs
from lwgraph.rewrite.base import Context
from lwgraph.views.coupling import Axis, Coupling, Group, couple_channels


@dataclass(frozen=True, eq=False)
class GroupReader:
    """A layer that reads the channels of a group.

    Attributes:
        sites: the layer, and those that share its weight.
        columns: for each group of a grouped layer, (width, t) where each channel is among the D entries of a patch.
    """

    sites: tuple[Site, ...]
    columns: tuple[Ints, ...]

    @property
    def site(self) -> Site:
        """The first of the layers."""
        return self.sites[0]


@dataclass(eq=False)
class PruneView:
    """A model as pruning sees it. Holds no data but caches; made anew when the model was cut.

    Attributes:
        model: the model.
        context: statistics, warnings.
        coupling: its channel coupling.
    """

    model: ir.Model
    context: Context
    coupling: Coupling = field(init=False)
    _sites: dict[ir.Node, Site] = field(init=False)
    _moments: dict[str, Moments] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.coupling = couple_channels(self.model)
        self._sites = {site.node: site for site in find_sites(self.model)}

    @cached_property
    def shapes(self) -> dict[str, list[int | None]]:
        """Sizes by value name, for counting work; where the model leaves them open, those of the first sample.

        Measured when asked for first: cutting does not need them, and it takes a run of the model.
        """
        found = {
            value.name or "": [size if isinstance(size, int) else None for size in dims]
            for value, dims in self.coupling.builder.shapes.items()
        }
        context = self.context
        if context.executor is not None and context.feeds and _open(self.model, found):
            measured = layer_shapes(self.model, next(iter(context.feeds)), context.executor)
            found.update({name: list(sizes) for name, sizes in measured.items()})
        return found

    def sites(self) -> list[Site]:
        """The layers of the main graph whose inputs can be measured."""
        return [site for site in self._sites.values() if site.graph is self.model.graph]

    def site(self, node: ir.Node) -> Site | None:
        """The layer of a node."""
        return self._sites.get(node)

    def readers(self, group: Group) -> list[GroupReader]:
        """The layers that read a group through a plain weight, so that their inputs' moments say what is lost."""
        found = []
        for each in group.weights("in"):
            sites = tuple(
                site for node, index in each.axis.users if index == 1 and (site := self._sites.get(node)) is not None
            )
            if sites and len(sites) == len(each.axis.users) and len({site.layout for site in sites}) == 1:
                found.append(GroupReader(sites, _columns(sites[0], each.axis, each.indices)))
        return found

    def prefetch(self, groups: list[Group]) -> None:
        """Measure the moments of everything that reads `groups`, in as few runs as possible."""
        if self.context.statistics is not None:
            sites = {id(site): site for group in groups for reader in self.readers(group) for site in reader.sites}
            self.context.statistics.prefetch(sites.values())

    def moments(self, reader: GroupReader) -> Moments:
        """The moments of a reader's patches (those of white inputs without statistics); kept for the last few."""
        name = reader.site.name
        if name not in self._moments:
            if len(self._moments) > 8:
                self._moments.pop(next(iter(self._moments)))
            statistics = self.context.statistics
            grams = [] if statistics is None else [statistics.gram(site) for site in reader.sites]
            self._moments[name] = Moments(reader.site, pooled(grams) if grams else None)
            if self._moments[name].exact:
                tell_shortage(self.context, reader.site, self._moments[name].count)
        return self._moments[name]


def _open(model: ir.Model, shapes: dict[str, list[int | None]]) -> bool:
    """Whether some layer's work does not follow from the recorded sizes."""
    return any(node_macs(node, shapes) is None for node in model.graph)


def _columns(site: Site, axis: Axis, indices: Ints) -> tuple[Ints, ...]:
    """The positions of a reading axis's indices among the entries of a patch, per group of the layer."""
    taps, per_group = site.taps, site.inputs // site.group
    spread = np.arange(taps)
    if axis.size == per_group:  # all groups have the same columns
        columns = (indices[:, :, None] * taps + spread).reshape(len(indices), -1)
        return (columns,) * site.group
    found = []
    for group in range(site.group):  # a ConvTranspose: the axis runs over all groups
        mine = [row[row // per_group == group] % per_group for row in indices]
        found.append((np.stack(mine)[:, :, None] * taps + spread).reshape(len(indices), -1))
    return tuple(found)


class Work:
    """Multiply-accumulates of a model as a function of how much of each weight's axes is left."""

    def __init__(self, view: PruneView) -> None:
        self.share: dict[Axis, float] = {}
        self._nodes: list[tuple[ir.Node, float, list[tuple[Axis, ...]]]] = []
        axes: dict[ir.Node, dict[tuple[int, int], Axis]] = {}
        for axis in view.coupling.axes:
            for node, index in axis.users:
                axes.setdefault(node, {})[index, axis.axis] = axis
        for node in view.model.graph:
            # A recurrent layer is two products, with its inputs and with its own state.
            weights = (1, 2) if ir.operator(node) in ir.RECURRENT else (1, 0) if ir.operator(node) == "MatMul" else (1,)
            found = [
                tuple(
                    {axis.root(): axis for (index, _), axis in axes.get(node, {}).items() if index == weight}.values()
                )
                for weight in weights
            ]
            macs = node_macs(node, view.shapes)
            if macs is None:  # the model leaves the image's size open, and there is no sample to measure it on
                macs = math.prod(ir.constant_shape(node.inputs[1]) or (0,))
                view.context.warn(
                    "the work of some layers depends on the inputs' sizes, which are not known without "
                    "calibration data; these layers are counted as if they ran at a single position"
                )
            if macs:
                sizes = [math.prod(ir.constant_shape(node.inputs[weight]) or (0,)) for weight in weights]
                parts = [(macs * size / max(sum(sizes), 1), each) for size, each in zip(sizes, found, strict=True)]
                if not sum(sizes):
                    parts = [(float(macs), ())]
                self._nodes += [(node, part, [each]) for part, each in parts]

    def total(self, kept: dict[Axis, float]) -> float:
        """Multiply-accumulates when so much is left of each root axis (1 where it is not named)."""
        return sum(macs * _left(axes, kept) for _, macs, axes in self._nodes)

    def changed(self, kept: dict[Axis, float]) -> dict[str, float]:
        """The share of its work that is left, by the name of each layer whose work changes."""
        before, after = dict[str, float](), dict[str, float]()
        for node, macs, axes in self._nodes:
            name = node.name or str(node.outputs[0].name)
            before[name] = before.get(name, 0.0) + macs
            after[name] = after.get(name, 0.0) + macs * _left(axes, kept)
        return {name: after[name] / macs for name, macs in before.items() if after[name] < macs}


def _left(axes: list[tuple[Axis, ...]], kept: dict[Axis, float]) -> float:
    return math.prod(kept.get(axis.root(), 1.0) for each in axes for axis in each)
