"""The units of a sequential refit: the layers of a rewritten model, and the values that each should give."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from lwgraph import ir
from lwgraph.arrays import Ints
from lwgraph.errors import UsageError
from lwgraph.layers.form import Form, parse_form
from lwgraph.layers.site import Site, find_sites
from lwgraph.rewrite.provenance import FROM_KEY, PASS_KEY

KeptChannels = Mapping[str, Ints]


@dataclass(frozen=True, eq=False)
class Unit:
    """One layer of the rewritten model: a plain one, or the nodes that a form put in its place.

    Attributes:
        site: a plain layer itself; for a form, the layer of the original that it stands for.
        nodes: its nodes, in the order of the graph.
        input, output: names of what it reads and gives.
        target: name of the value of the original that the output should equal, less `minus`.
        minus: name of the value of the rewritten model that is added to the output, where the sum is the target: then
            the layer makes up for the error of the other branch, too.
        channels: which channels of the target are left; None: all.
        form: what the nodes are; None for a plain layer.
        rectified: whether a Relu alone reads the output, so that only what is above zero matters.
        ends: the plain layers among the nodes whose outputs sum up to the unit's output.
    """

    site: Site
    nodes: tuple[ir.Node, ...]
    input: str
    output: str
    target: str
    minus: str = ""
    channels: Ints | None = None
    form: Form | None = None
    ends: tuple[Site, ...] = ()
    rectified: bool = False

    @property
    def name(self) -> str:
        """The name of its layer."""
        return self.site.name


def find_units(
    original: ir.Model, compressed: ir.Model, kept: KeptChannels | None = None
) -> tuple[list[Unit], list[tuple[str, str]]]:
    """The units of `compressed` in the order of its graph, and (layer, reason) for layers that cannot be one.

    Args:
        original: whose values are the targets, found by name.
        compressed: the rewritten model; what a form emitted is known by the metadata of its nodes.
        kept: by value name, the indices of the channels that are left of those of the original.
    """
    finder = _Finder(original, compressed, kept or {})
    return finder.units(), finder.refused


class _Finder:
    def __init__(self, original: ir.Model, compressed: ir.Model, kept: KeptChannels) -> None:
        self.compressed, self.kept = compressed, kept
        self.before = {site.name: site for site in find_sites(original)}
        self.theirs = {v.name: v for node in original.graph for v in node.outputs if v.name}
        self.place = {node: index for index, node in enumerate(compressed.graph)}
        self.sites = {site.node: site for site in find_sites(compressed) if site.graph is compressed.graph}
        self.refused: list[tuple[str, str]] = []

    def units(self) -> list[Unit]:
        groups: dict[tuple[str, Form], list[ir.Node]] = {}
        for node in self.compressed.graph:
            form = _form(node)
            if form is not None:
                groups.setdefault((node.metadata_props[FROM_KEY], form), []).append(node)
        taken = {node for nodes in groups.values() for node in nodes}
        found = [self._grouped(name, form, nodes) for (name, form), nodes in groups.items()]
        found += [self._plain(site) for node, site in self.sites.items() if node not in taken]
        return sorted((unit for unit in found if unit is not None), key=lambda unit: self.place[unit.nodes[0]])

    def _plain(self, site: Site) -> Unit | None:
        name = site.output.name or ""
        unit = Unit(site, site.nodes, site.input.name or "", name, name, ends=(site,))
        return self._aimed(unit, site.output)

    def _grouped(self, name: str, form: Form, nodes: Sequence[ir.Node]) -> Unit | None:
        inside = set(nodes)
        inputs = dict.fromkeys(
            v
            for node in nodes
            for v in node.inputs
            if v is not None and v.producer() not in inside and ir.constant_shape(v) is None
        )
        outputs = [
            v
            for node in nodes
            for v in node.outputs
            if v.is_graph_output() or any(use.node not in inside for use in v.uses())
        ]
        if len(inputs) != 1 or len(outputs) != 1:
            self._refuse(name, f"its nodes have {len(inputs)} inputs and {len(outputs)} outputs")
            return None
        (x,), (y,) = inputs, outputs
        site = self.before.get(name)
        ends = tuple(self._ends(y, inside))
        if site is None:
            if len(ends) != 1:
                self._refuse(name, "the original has no layer of its name")
                return None
            return self._plain(ends[0])
        unit = Unit(site, tuple(nodes), x.name or "", y.name or "", y.name or "", form=form, ends=ends)
        return self._aimed(unit, y)

    def _ends(self, value: ir.Value, inside: Collection[ir.Node]) -> list[Site]:
        """The layers whose outputs are added up to `value`; none where anything else is in between."""
        node = value.producer()
        if node is None or node not in inside:
            return []
        for site in self.sites.values():
            if site.nodes[-1] is node and all(n in inside for n in site.nodes):
                return [site]
        if ir.operator(node) != "Add":
            return []
        parts = [self._ends(v, inside) for v in node.inputs if v is not None]
        return [site for part in parts for site in part] if all(parts) else []

    def _aimed(self, unit: Unit, output: ir.Value) -> Unit | None:
        """The unit with its target; the sum behind it, where there is one and its other branch is known by then."""
        uses = list(output.uses())
        if len(uses) == 1 and ir.operator(uses[0][0]) == "Add" and not output.is_graph_output():
            add, slot = uses[0]
            other, total = add.inputs[1 - slot], add.outputs[0].name or ""
            maker = None if other is None else other.producer()
            sums = self.theirs[total].producer() if total in self.theirs else None
            if (
                other is not None
                and other.name
                and maker in self.place
                and self.place[maker] < self.place[unit.nodes[0]]
                and sums is not None
                and ir.operator(sums) == "Add"
                and self._alike(add.outputs[0])
            ):
                return replace(unit, target=total, minus=other.name, channels=self.kept.get(total))
        if unit.output not in self.theirs:
            self._refuse(unit.name, "the original has no value of its name")
            return None
        if not self._alike(output):
            self._refuse(unit.name, "the original's value of its name has another type or shape")
            return None
        rectified = bool(uses) and all(ir.operator(use[0]) == "Relu" for use in uses) and not output.is_graph_output()
        return replace(unit, channels=self.kept.get(unit.output), rectified=rectified)

    def _alike(self, value: ir.Value) -> bool:
        other = self.theirs[value.name or ""]
        if value.dtype is not None and other.dtype is not None and value.dtype != other.dtype:
            return False
        if value.shape is None or other.shape is None or value.name in self.kept:
            return True
        pairs = list(zip(value.shape, other.shape, strict=False))
        known = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
        return len(value.shape) == len(other.shape) and all(a == b for a, b in known)

    def _refuse(self, name: str, reason: str) -> None:
        self.refused.append((name, reason))


def _form(node: ir.Node) -> Form | None:
    """The form that emitted a node; None for the layers of the model and for what other passes made."""
    text = node.metadata_props.get(PASS_KEY, "")
    if FROM_KEY not in node.metadata_props or ir.operator(node) == "Constant":
        return None
    try:
        return parse_form(text)
    except UsageError:  # a pass, or a form of another version
        return None


__all__ = ["KeptChannels", "Unit", "find_units"]
