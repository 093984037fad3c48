"""Channel coupling: which slices of which values and weights must be removed together."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import networkx as nx
import numpy as np
import numpy.typing as npt

from lwgraph import ir
from lwgraph.arrays import Ints
from lwgraph.views.coupling.builder import Axis, Coupler, Note
from lwgraph.views.coupling.components import components
from lwgraph.views.coupling.rules import load
from lwgraph.views.coupling.rules.sizes import axes_of_sizes, follow, follow_zeros


@dataclass(frozen=True, eq=False)
class Slice:
    """The part of a group in one axis of one value.

    Attributes:
        axis: the axis (value, number, role, and whose copy of a shared constant it is).
        indices: (width, m) the m indices of each of the group's channels there.
    """

    axis: Axis
    indices: Ints

    @property
    def is_constant(self) -> bool:
        """Whether the value is a weight, not an activation."""
        return self.axis.role != "data"


@dataclass(frozen=True, eq=False)
class Group:
    """Channels of one kind: each touches the same axes, and is removed or kept as a whole.

    Attributes:
        number: its place in the list.
        name: the layer that first makes these channels, with "#2" and so on where it makes several kinds; unique.
        width: how many channels.
        slices: where they are.
        frozen: why none of them can be removed; "" when they can.
        caveats: what else their removal changes, even that of channels that are zero (statistics over channels).
    """

    number: int
    name: str
    width: int
    slices: tuple[Slice, ...]
    frozen: str
    caveats: tuple[str, ...]

    def weights(self, *roles: str) -> list[Slice]:
        """The group's slices of constants, of the given roles ("out", "in", "channel"); all when none is given."""
        return [s for s in self.slices if s.is_constant and (not roles or s.axis.role in roles)]

    @property
    def makers(self) -> list[ir.Node]:
        """The nodes whose weights make the channels."""
        return list(dict.fromkeys(node for s in self.weights("out") for node, _ in s.axis.users))

    @property
    def readers(self) -> list[ir.Node]:
        """The nodes whose weights read them."""
        return list(dict.fromkeys(node for s in self.weights("in") for node, _ in s.axis.users))

    @property
    def parameters(self) -> int:
        """Elements of constants that go with one channel, on average."""
        total = 0
        for each in self.weights():
            shape = ir.constant_shape(each.axis.value)
            if shape is not None:
                total += each.indices.shape[1] * int(np.prod(shape)) // shape[each.axis.axis]
        return total


class Coupling:
    """The channel coupling of a model's main graph: its groups, and the axes and links they come from.

    Attributes:
        groups: all groups, the frozen ones too, in the order of the graph.
        axes: the vertices of the coupling graph.
        builder: what the walk over the model collected.
    """

    def __init__(self, builder: Coupler) -> None:
        self.builder = builder
        self.axes = builder.axes
        self._roots: dict[Axis, int] = {}  # root -> its first element
        count = 0
        for axis in self.axes:
            root = axis.root()
            if root not in self._roots:
                self._roots[root] = count
                count += root.size
        pairs = [(self._elements(link.a)[link.here], self._elements(link.b)[link.there]) for link in builder.links]
        a, b = (np.concatenate([pair[side] for pair in pairs]) if pairs else np.empty(0, np.int64) for side in (0, 1))
        self._label = components(count, a, b)
        self.groups = tuple(self._groups())

    def _elements(self, axis: Axis) -> Ints:
        start = self._roots[axis.root()]
        return np.arange(start, start + axis.size)

    def _noted(self, note: Note) -> Ints:
        """The labels of the channels that something is said of."""
        elements = self._elements(note.axis)
        return np.unique(self._label[elements if note.indices is None else elements[note.indices]])

    def _groups(self) -> Iterator[Group]:
        roots = list(self._roots)
        if not roots:
            return
        members: dict[Axis, list[Axis]] = defaultdict(list)
        for axis in self.axes:
            members[axis.root()].append(axis)
        root_of = np.repeat(np.arange(len(roots)), [root.size for root in roots])
        # Channels with equal signatures (how often they touch which axis, what is said of them) make a group. The
        # signatures are sums of random numbers, one for each axis and note.
        random = np.random.default_rng(0).integers(1 << 63, size=(len(roots), 2), dtype=np.uint64)
        signature = np.zeros((len(root_of), 2), np.uint64)  # one signature per label
        np.add.at(signature, self._label, random[root_of])
        frozen = np.full(len(root_of), -1)
        for number in reversed(range(len(self.builder.frozen))):
            frozen[self._noted(self.builder.frozen[number])] = number
        caveats: dict[int, dict[str, None]] = defaultdict(dict)
        for note in self.builder.caveats:
            for label in self._noted(note).tolist():
                if note.reason not in caveats[label]:
                    caveats[label][note.reason] = None
                    signature[label, 0] ^= np.uint64(hash_text(note.reason))
        order = np.argsort(self._label, kind="stable")  # a channel's elements side by side, ascending
        starts = np.flatnonzero(np.r_[True, np.diff(self._label[order]) > 0])
        lengths = np.diff(np.r_[starts, len(order)])
        labels = self._label[order[starts]]
        keys = np.column_stack([signature[labels], frozen[labels].astype(np.uint64), lengths.astype(np.uint64)])
        _, first, kind = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        taken: Counter[str] = Counter()
        kind = kind.reshape(-1)
        by_kind = np.split(np.argsort(kind, kind="stable"), np.cumsum(np.bincount(kind))[:-1])
        for number, which in enumerate(np.argsort(first)):
            channels = by_kind[which]
            length = lengths[channels[0]]
            table = order[starts[channels][:, None] + np.arange(length)]
            touched = root_of[table[0]]
            slices = []
            for root in dict.fromkeys(touched.tolist()):
                indices = table[:, touched == root] - self._roots[roots[root]]
                slices += [Slice(axis, indices) for axis in members[roots[root]]]
            label = int(labels[channels[0]])
            stop = self.builder.frozen[frozen[label]].reason if frozen[label] >= 0 else ""
            name = _name(slices)
            taken[name] += 1
            name = name if taken[name] == 1 else f"{name}#{taken[name]}"
            yield Group(number, name, len(channels), tuple(slices), stop, tuple(caveats.get(label, ())))

    @property
    def prunable(self) -> tuple[Group, ...]:
        """The groups that may lose channels: not frozen, more than one channel, made by a weight."""
        return tuple(g for g in self.groups if not g.frozen and g.width > 1 and g.weights("out"))

    def graph(self) -> nx.MultiGraph[Axis]:
        """The coupling graph: vertices are axes, edges carry `here` and `there`, the indices that are linked."""
        view: nx.MultiGraph[Axis] = nx.MultiGraph()
        view.add_nodes_from(self.axes)
        for axis in self.axes:
            if axis.parent is not None:
                every = np.arange(axis.size)
                view.add_edge(axis.parent, axis, here=every, there=every)
        for link in self.builder.links:
            view.add_edge(link.a, link.b, here=link.here, there=link.there)
        return view

    def kept(self, removed: Mapping[Group, npt.ArrayLike]) -> dict[Axis, npt.NDArray[np.bool_]]:
        """The indices kept by each axis that loses some, when groups lose the given channels (positions)."""
        masks: dict[Axis, npt.NDArray[np.bool_]] = {}
        for group, channels in removed.items():
            gone = np.asarray(channels, np.int64)
            for each in group.slices if gone.size else ():
                root = each.axis.root()
                if root not in masks:
                    masks[root] = np.ones(root.size, bool)
                masks[root][each.indices[gone]] = False
        return {axis: masks[axis.root()] for axis in self.axes if axis.root() in masks}


def hash_text(text: str) -> int:
    """64 bits that are the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def _name(slices: list[Slice]) -> str:
    def first(*roles: str) -> ir.Node | None:
        return next((n for s in slices if s.axis.role in roles for n, _ in s.axis.users), None)

    node = first("out") or first("channel") or first("in")
    if node is None:
        return slices[0].axis.value.name or ""
    return node.name or node.outputs[0].name or node.op_type


def couple_channels(model: ir.Model) -> Coupling:
    """The channel coupling of `model`.

    Walks the main graph once per way of splitting channels over axes that is tried (usually once); O(nodes + channels).
    The model is not changed, and of its data only what speaks of shapes and indices is read.
    """
    shapes = ir.infer_shapes(model)
    choices: dict[tuple[int, ...], int] = {}
    best, score, splits = _walk(model, shapes, choices)
    frozen = _frozen(best)
    for factors, axes in splits.items():
        if not any(axis.root() in frozen for axis in axes):
            continue
        # An attention's heads or a group's channels? Where one choice leads nowhere, try the others.
        for option in range(len(factors)):
            other, other_score, _ = _walk(model, shapes, {**choices, factors: option})
            if other_score > score:
                best, score, choices = other, other_score, {**choices, factors: option}
                frozen = _frozen(best)
    return best


def _walk(
    model: ir.Model, shapes: dict[ir.Value, ir.Dims], choices: dict[tuple[int, ...], int]
) -> tuple[Coupling, int, dict[tuple[int, ...], list[Axis]]]:
    rules, builder = load(), Coupler(model, shapes, choices)
    for node in model.graph:
        follow(node, builder)
        follow_zeros(node, builder)
        rule = rules.get(node.op_type) if node.domain == "" else None
        if rule is not None and node.op_identifier() not in model.functions:
            rule(node, builder)
            _freeze_unknown(node, builder)
        else:
            where = "" if rule is None else " (a function of the model)"
            builder.freeze_inputs(node, f"operator '{node.op_type}' of node '{node.name}' is not understood{where}")
        for subgraph in ir.subgraphs_of(node):
            for value in _captured(subgraph):
                for axis in (*builder.tracked(value).values(), *axes_of_sizes(value, builder)):
                    builder.freeze(axis, f"node '{node.name}' ({node.op_type}) uses it in a subgraph")
    for output in model.graph.outputs:
        for axis in (*builder.tracked(output).values(), *axes_of_sizes(output, builder)):
            builder.freeze(axis, f"output '{output.name}' of the graph")
    builder.freeze_other_uses()
    coupling = Coupling(builder)
    return coupling, sum(g.width * g.parameters for g in coupling.prunable), builder.split


def _freeze_unknown(node: ir.Node, builder: Coupler) -> None:
    """Freeze the channels of inputs of unknown rank: rules go axis by axis, so they said nothing of these.

    A convolution's rule needs no rank: the channels of its input are axis 1.
    """
    if node.op_type in ("Conv", "ConvTranspose", "Einsum"):
        return
    for value in node.inputs:
        if value is not None and builder.dims(value) is None:
            for axis in builder.tracked(value).values():
                builder.freeze(axis, f"the rank of '{value.name}' is not known at node '{node.name}' ({node.op_type})")


def _captured(graph: ir.Graph) -> Iterator[ir.Value]:
    for node in graph:
        yield from (value for value in node.inputs if value is not None)
        for subgraph in ir.subgraphs_of(node):
            yield from _captured(subgraph)


def _frozen(coupling: Coupling) -> set[Axis]:
    """The representatives of all axes that have channels which cannot be removed."""
    return {each.axis.root() for group in coupling.groups if group.frozen for each in group.slices}
