"""Runs variants of a model from the first node at which they differ; the nodes before it are computed once for all."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.calibrate.capture import capture, measured_shapes
from lwgraph.errors import LwgraphError
from lwgraph.executor import Executor, Feeds, Run, untimed

MEMORY_BYTES = 256 << 20
ROOM = 1 << 30  # bytes, where a run has as much for one step


class PartialRuns:
    """Keeps, for some feeds, the values that are live at some places of a model, its cuts.

    Args:
        model: its main graph is cut; it is not changed.
        feeds: all runs are on these, the very objects.
        executor: runs the model once per feed, and later the variants.
        starts: numbers of nodes before which cuts are wanted. Where the values of all do not fit into `memory_bytes`,
            the largest are left out; with a cut before no start, variants are run as a whole.
        memory_bytes: for all feeds together.
    """

    def __init__(
        self,
        model: ir.Model,
        feeds: Sequence[Feeds],
        executor: Executor,
        starts: Sequence[int],
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self.model, self.executor, self.feeds = model, untimed(executor), list(feeds)
        self.outputs = [v.name or "" for v in model.graph.outputs]
        live = _live(model, sorted({start for start in starts if start > 0}), self.feeds[0])
        names = list(dict.fromkeys(name for values in live.values() for name in values))
        self._values: list[dict[str, Array]] = [dict(feed) for feed in self.feeds]
        self._live: dict[int, list[str]] = {}
        try:
            shapes = measured_shapes(model, names, self.feeds[0], self.executor)
            sizes = {name: 4.0 * math.prod(shape) * len(self.feeds) for name, shape in shapes.items()}
            while live and sum(sizes[n] for n in {n for values in live.values() for n in values}) > memory_bytes:
                del live[max(live, key=lambda place: sum(sizes[n] for n in live[place]))]
            wanted = list(dict.fromkeys(n for values in live.values() for n in values))
            for index, found in capture(model, wanted, self.feeds, self.executor, activation_bytes=memory_bytes):
                self._values[index].update({name: np.asarray(array) for name, array in found.items()})
            self._live = live
        except LwgraphError:  # a value that is not a tensor, or that a runtime does not give away: no cuts
            self._live = {}
        self._places = list(self._live)

    @property
    def cuts(self) -> list[int]:
        """Numbers of the nodes before which variants can begin."""
        return list(self._places)

    def behind(self, variant: ir.Model) -> Run:
        """A changed copy of the model on the feeds, from its first change on."""
        try:
            return self.run(variant, first_change(self.model, variant))
        except LwgraphError:  # what is live there has another name in the copy
            return self.run(variant, -1)

    def run(self, variant: ir.Model, start: int) -> Run:
        """A variant on the feeds.

        Args:
            variant: computes what the model does in the nodes before number `start` (of the model), under its names.
        """
        at = bisect.bisect_right(self._places, start) - 1
        if at < 0:
            return self.executor.prepare(variant, self.outputs)
        given = self._live[self._places[at]]
        piece = ir.extract(variant, given, self.outputs)
        first = self._values[0]
        for value in piece.graph.inputs:
            array = first[value.name or ""]
            value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            value.shape = ir.Shape([None] * array.ndim)
        run = self.executor.prepare(piece, self.outputs)
        numbers = {id(feed): index for index, feed in enumerate(self.feeds)}

        def behind(feed: Feeds) -> dict[str, Array]:
            values = self._values[numbers[id(feed)]]
            return run({name: values[name] for name in given})

        return behind


def first_change(model: ir.Model, variant: ir.Model) -> int:
    """The number of the first node of `model` that a changed copy of it does not have as it is; constants that are
    nodes here may be initializers there. O(nodes), and a look at the constants that are not the very same."""
    theirs = {value.name: node for node in variant.graph for value in node.outputs if value.name}
    count = 0
    for node in model.graph:
        if node.op_type != "Constant":
            other = theirs.get(node.outputs[0].name or "")
            if other is None or not _same(node, other):
                return count
        count += 1
    return count


def _same(node: ir.Node, other: ir.Node) -> bool:
    if (node.op_type, node.domain, len(node.inputs)) != (other.op_type, other.domain, len(other.inputs)):
        return False
    attributes, others = ({name: a.value for name, a in n.attributes.items()} for n in (node, other))
    if attributes.keys() != others.keys() or any(
        isinstance(value, ir.Graph) or value != others[name] for name, value in attributes.items()
    ):
        return False
    for mine, its in zip(node.inputs, other.inputs, strict=True):
        if mine is None or its is None:
            if mine is not its:
                return False
            continue
        constant = ir.constant_tensor(mine)
        if constant is None:
            if mine.name != its.name or ir.is_constant(its):
                return False
        elif constant is not ir.constant_tensor(its):
            a, b = ir.constant(mine), ir.constant(its)
            if a is None or b is None or not np.array_equal(a, b):
                return False
    return True


def _live(model: ir.Model, places: Sequence[int], feed: Feeds) -> dict[int, list[str]]:
    """Map each place (a node's number) to the values, made or fed before it, that are used from it on. Places behind
    which the model has an output already are left out. O(nodes * places)."""
    nodes = list(model.graph)
    first: dict[str, int] = dict.fromkeys(feed, -1)
    last: dict[str, int] = {}
    constant = {v.name for v in model.graph.initializers.values() if v.name not in first}
    for index, node in enumerate(nodes):
        used = [value.name or "" for value in ir.uses(node)]
        last.update(dict.fromkeys(used, index))
        if all(name in constant for name in used):  # computed anew by every variant
            constant.update(v.name for v in node.outputs)
            continue
        first.update({v.name: index for v in node.outputs if v.name})
    early = min((first.get(v.name or "", len(nodes)) for v in model.graph.outputs), default=len(nodes))
    return {
        place: [name for name, made in first.items() if made < place <= last.get(name, -1)]
        for place in places
        if place <= early
    }


__all__ = ["MEMORY_BYTES", "ROOM", "PartialRuns", "first_change"]
