"""Collects, node by node, the indices of axes that stand for the same channel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lwgraph import ir
from lwgraph.arrays import Ints

ROLES = ("out", "in", "channel", "data")


@dataclass(eq=False)
class Axis:
    """One axis of one value: a vertex of the coupling graph, with `size` indices.

    Attributes:
        value: the value; an activation or a constant.
        axis: which of its axes, counted from 0.
        size: how many indices.
        use: for a small constant that several nodes share, and that is copied when one of them changes: the (node,
            input) whose copy this is. None: the axis belongs to the value, whoever uses it.
        role: of a constant's axis: "out" makes channels (rows of a weight), "in" reads them (columns), "channel" does
            both (a depthwise filter, a bias, a scale). "data" for activations.
        zero: with all constants of a channel set to zero, its values here are zero.
    """

    value: ir.Value
    axis: int
    size: int
    use: tuple[ir.Node, int] | None = None
    role: str = "data"
    zero: bool = True
    users: dict[tuple[ir.Node, int], None] = field(default_factory=dict)  # the inputs that read a constant in this role
    parent: Axis | None = field(default=None, repr=False)  # the axis that it equals index by index

    def root(self) -> Axis:
        """The representative of all axes that are equal index by index."""
        top = self
        while top.parent is not None:
            top = top.parent
        while self.parent is not None and self.parent is not top:
            self.parent, self = top, self.parent
        return top


@dataclass(frozen=True, eq=False)
class Link:
    """Index `here[k]` of axis `a` and index `there[k]` of axis `b` stand for one channel."""

    a: Axis
    b: Axis
    here: Ints
    there: Ints


@dataclass(frozen=True, eq=False)
class Note:
    """Something said of some indices of an axis (None: of all): why they are frozen, or what their removal changes."""

    axis: Axis
    reason: str
    indices: Ints | None = None


class Coupler:
    """The state of one walk over the main graph. Rules (see `rules`) call its methods; they never change the model.

    An activation's axis is *tracked* when it carries channels that some constant makes. All other axes (batch, time,
    height, what comes from a graph input) are not, each for a reason that `why` knows.
    """

    def __init__(self, model: ir.Model, shapes: dict[ir.Value, ir.Dims], choices: dict[tuple[int, ...], int]) -> None:
        self.model, self.graph, self.shapes = model, model.graph, shapes
        self.choices = choices  # the factor of a split axis that carries channels, by its factors; default: the rule's
        self.split: dict[tuple[int, ...], list[Axis]] = {}  # the axes that were split so, for trying another factor
        self.axes: list[Axis] = []
        self.links: list[Link] = []
        self.frozen: list[Note] = []
        self.caveats: list[Note] = []
        self.derived: set[ir.Value] = set()  # computed from constants alone
        self.sizes: dict[ir.Value, list[Any]] = {}  # integer vectors made of sizes; see rules.sizes
        self.zeros: set[ir.Value] = set()  # zero throughout, whatever their shape
        self._tracked: dict[ir.Value, dict[int, Axis]] = {}
        self._constants: dict[tuple[object, ...], Axis] = {}
        self._given: dict[tuple[ir.Node, int], list[Axis]] = {}  # axes of constants that are this input of this node
        self._reasons: dict[tuple[ir.Value, int], str] = {}

    # What is known of values

    def dims(self, value: ir.Value | None) -> ir.Dims | None:
        """The sizes of a value, None when not even its rank is known."""
        return None if value is None else self.shapes.get(value)

    def size(self, value: ir.Value, axis: int) -> int | None:
        """One size, None when it is not a known number."""
        dims = self.dims(value)
        size = dims[axis] if dims is not None and -len(dims) <= axis < len(dims) else None
        return size if isinstance(size, int) else None

    def is_constant(self, value: ir.Value | None) -> bool:
        """Whether the value is an initializer or a Constant's output, or computed from such."""
        return value is not None and (value in self.derived or ir.is_constant(value))

    # Axes

    def get(self, value: ir.Value | None, axis: int) -> Axis | None:
        """The tracked axis of an activation (or of what is derived from constants), None when it is not tracked."""
        return None if value is None else self._tracked.get(value, {}).get(axis)

    def tracked(self, value: ir.Value | None) -> dict[int, Axis]:
        """All tracked axes of an activation."""
        return {} if value is None else self._tracked.get(value, {})

    def track(self, value: ir.Value, axis: int, size: int, zero: bool = True) -> Axis:
        """Begin to track an axis of an activation."""
        made = Axis(value, axis, size, zero=zero)
        self.axes.append(made)
        self._tracked.setdefault(value, {})[axis] = made
        return made

    def constant(self, node: ir.Node, index: int, axis: int, role: str = "channel") -> Axis | None:
        """The axis of the constant that is input `index` of `node`; None for a size of 1 and for what is no constant.

        A small constant that several nodes share (a bias that a simplifier found equal) gives each of them an axis of
        its own: it will be copied when they part. A shared matrix stays shared, and couples its users.
        """
        value = node.inputs[index]
        if value is None:
            return None
        if value in self.derived:
            found = self.get(value, axis)
        else:
            shape = ir.constant_shape(value)
            if shape is None or shape[axis] == 1:
                return None
            small = sum(size > 1 for size in shape) < 2 and ir.use_count(value) > 1
            use = (node, index) if small else None
            key = (value, axis, use)
            found = self._constants.get(key)
            if found is None:
                found = self._constants[key] = Axis(value, axis, shape[axis], use, role)
                self.axes.append(found)
        if found is not None:
            found.users[node, index] = None
            self._given.setdefault((node, index), []).append(found)
            if found.role == "data":
                found.role = role  # a value derived from constants takes the role
            elif found.role != role:
                found.role = "channel"
        return found

    def freeze_other_uses(self) -> None:
        """Freeze the axes of shared constants that some use does not follow: it would find another size there."""
        for axis in tuple(self._constants.values()):
            if axis.use is None and ir.use_count(axis.value) > len(axis.users):
                node, index = next((n, i) for n, i in axis.value.uses() if (n, i) not in axis.users)
                self.freeze(axis, f"'{axis.value.name}' is also input {index} of node '{node.name}' ({node.op_type})")

    def why(self, value: ir.Value, axis: int) -> str:
        """Why an axis is not tracked."""
        if (value, axis) in self._reasons:
            return self._reasons[value, axis]
        if value.is_graph_input():
            return f"input '{value.name}' of the graph"
        return f"axis {axis} of '{value.name}' carries no channels"

    def untracked(self, value: ir.Value, axis: int, reason: str) -> None:
        """Remember why an axis is not tracked."""
        self._reasons[value, axis] = reason

    # Facts

    def equal(self, a: Axis | None, b: Axis | None) -> None:
        """The axes are equal index by index."""
        if a is None or b is None:
            return
        one, two = a.root(), b.root()
        if one is two:
            return
        if one.size != two.size:
            for axis in (a, b):
                self.freeze(axis, f"'{a.value.name}' has {a.size} channels where '{b.value.name}' has {b.size}")
            return
        two.parent = one

    def link(self, a: Axis | None, b: Axis | None, here: npt.ArrayLike, there: npt.ArrayLike) -> None:
        """Index here[k] of `a` and index there[k] of `b` stand for one channel."""
        if a is not None and b is not None:
            self.links.append(Link(a, b, np.asarray(here, np.int64), np.asarray(there, np.int64)))

    def couple(self, axis: Axis | None, labels: npt.ArrayLike) -> None:
        """Indices of `axis` with equal labels live or die together."""
        if axis is None:
            return
        _, first, inverse = np.unique(np.asarray(labels), return_index=True, return_inverse=True)
        self.link(axis, axis, np.arange(axis.size), first[inverse])

    def freeze(self, axis: Axis | None, reason: str, indices: npt.ArrayLike | None = None) -> None:
        """The channels at `indices` (None: all) cannot be removed."""
        if axis is not None:
            self.frozen.append(Note(axis, reason, None if indices is None else np.asarray(indices, np.int64)))

    def caveat(self, axis: Axis | None, reason: str) -> None:
        """Removing a channel here changes more than the channel, even one that is zero."""
        if axis is not None:
            self.caveats.append(Note(axis, reason))

    def freeze_inputs(self, node: ir.Node, reason: str, only: Iterable[int] | None = None) -> None:
        """Freeze every tracked axis of the node's inputs (or of those in `only`), and all that were asked for of its
        constants; its outputs are not tracked."""
        for index in range(len(node.inputs)) if only is None else only:
            for axis in (*self.tracked(node.inputs[index]).values(), *self._given.get((node, index), ())):
                self.freeze(axis, reason)
        for output in node.outputs:
            for position in range(len(self.dims(output) or ())):
                self.untracked(output, position, reason)

    # What most rules say

    def merge(
        self,
        node: ir.Node,
        output: ir.Value,
        axis: int,
        sources: Sequence[tuple[int, int]],
        *,
        keeps_zero: bool = True,
        any_zero: bool = False,
    ) -> None:
        """An axis of an output is index by index the given axes of inputs, as in an elementwise operator.

        Args:
            node: the node.
            output: its output.
            axis: the axis of the output.
            sources: (input, axis of it) pairs. An input of size 1 there is broadcast, and says nothing.
            keeps_zero: from zeros the operator makes a zero.
            any_zero: one zero among the inputs is enough for that (a product).
        """
        known: list[Axis] = []
        constants: list[tuple[int, int]] = []
        outside: list[tuple[ir.Value, int]] = []
        broadcast = False
        size = self.size(output, axis)
        for index, position in sources:
            value = node.inputs[index]
            if value is None:
                continue
            found = self.get(value, position)
            if self.is_constant(value):
                constants.append((index, position))
            elif found is not None:
                known.append(found)
            elif self.size(value, position) == 1:
                broadcast = True
            else:
                outside.append((value, position))
        if not known:
            if constants and not outside and not broadcast and all(self.is_constant(v) for v in node.inputs if v):
                self.derived.add(output)
                size = max((self.size(node.inputs[i], p) or 1 for i, p in constants if node.inputs[i]), default=1)  # type: ignore[arg-type]
                if size > 1:
                    made = self.track(output, axis, size)
                    for index, position in constants:
                        self.equal(made, self.constant(node, index, position))
            elif outside:
                self.untracked(output, axis, self.why(*outside[0]))
            return
        zeros = [each.zero for each in known]
        zero = keeps_zero and (any(zeros) if any_zero else all(zeros) and not broadcast and not outside)
        made = self.track(output, axis, known[0].size, zero)
        for other in known:
            self.equal(made, other)
        for index, position in constants:
            self.equal(made, self.constant(node, index, position))
        for value, position in outside:
            self.freeze(
                made, f"node '{node.name}' ({node.op_type}) joins it with '{value.name}': {self.why(value, position)}"
            )
        if size is not None and size != known[0].size:
            self.freeze(made, f"'{output.name}' is recorded with {size} channels and has {known[0].size}")

    def passes(
        self, node: ir.Node, output: ir.Value, source: int, axes: dict[int, int], *, keeps_zero: bool = True
    ) -> None:
        """Each axis of `axes` (output axis: input axis) goes through unchanged."""
        for axis, position in axes.items():
            self.merge(node, output, axis, [(source, position)], keeps_zero=keeps_zero)
