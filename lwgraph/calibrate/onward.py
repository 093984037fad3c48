"""Variants of a model that differ from some node on, run from there: what lies before is computed once for all."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import numpy as np

from lwgraph import ir
from lwgraph.calibrate.capture import capture, measured_shapes
from lwgraph.errors import LwgraphError
from lwgraph.executor import Array, Executor, Feeds, Run, untimed
from lwgraph.views.dataflow import uses

MEMORY_BYTES = 256 << 20


class Onward:
    """Keeps, for some feeds, the values that are live at some places of a model, its cuts.

    Args:
        model: its main graph is cut; it is not changed.
        feeds: all runs are on these, the very objects.
        executor: runs the model once per feed, and later the variants.
        starts: numbers of nodes before which cuts are wanted. Where the values of all do not fit into `memory_bytes`,
            every second one is left out, again and again; with a cut before no start, variants are run as a whole.
        memory_bytes: for all feeds together.
    """

    def __init__(
        self, model: ir.Model, feeds: Sequence[Feeds], executor: Executor, starts: Sequence[int],
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:  # fmt: skip
        self.executor, self.feeds = untimed(executor), list(feeds)
        self.outputs = [v.name or "" for v in model.graph.outputs]
        live = _live(model, sorted({start for start in starts if start > 0}), self.feeds[0])
        names = list(dict.fromkeys(name for values in live.values() for name in values))
        self._values: list[dict[str, Array]] = [dict(feed) for feed in self.feeds]
        self._live: dict[int, list[str]] = {}
        try:
            shapes = measured_shapes(model, names, self.feeds[0], self.executor)
            sizes = {name: 4.0 * math.prod(shape) * len(self.feeds) for name, shape in shapes.items()}
            while live and sum(sizes[n] for n in {n for values in live.values() for n in values}) > memory_bytes:
                live = dict(list(live.items())[1::2])
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


def _live(model: ir.Model, places: Sequence[int], feed: Feeds) -> dict[int, list[str]]:
    """By place (a number of a node): the values, made or fed before it, that are used from there on. Places behind
    which the model has an output already are left out. O(nodes * places)."""
    nodes = list(model.graph)
    first: dict[str, int] = dict.fromkeys(feed, -1)
    last: dict[str, int] = {}
    constant = {v.name for v in model.graph.initializers.values() if v.name not in first}
    for index, node in enumerate(nodes):
        used = [value.name or "" for value in uses(node)]
        last.update(dict.fromkeys(used, index))
        if all(name in constant for name in used):  # computed anew by every variant
            constant.update(v.name for v in node.outputs)
            continue
        first.update({v.name: index for v in node.outputs if v.name})
    early = min((first.get(v.name or "", len(nodes)) for v in model.graph.outputs), default=len(nodes))
    return {
        place: [name for name, made in first.items() if made < place <= last.get(name, -1)]
        for place in places if place <= early
    }  # fmt: skip


__all__ = ["MEMORY_BYTES", "Onward"]
