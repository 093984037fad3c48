"""A model run piece by piece over many feeds: only what later nodes still need is kept between two pieces."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.calibrate.store import Store
from lwgraph.errors import ModelError
from lwgraph.executor import Executor, Feeds


class Walk:
    """Stands before a node of a model's main graph, and holds for every feed the values that are live there.

    Weights behind the place may change while the walk goes on; the order of the nodes must not. Each node runs once per
    feed on the way from the first to the last, so that looking at every layer in turn costs one run of the model, and
    not one per layer.

    Memory: `memory_bytes` for the live values of all feeds, what is beyond goes to temporary files; and the values of
    one piece for one feed, which the executor holds.

    Args:
        model: the model, not copied.
        feeds: the inputs, one run each.
        executor: what runs the pieces.
        memory_bytes: the bound above.
        keep: names of values that stay after their last use, until `release`.
    """

    def __init__(
        self,
        model: ir.Model,
        feeds: Sequence[Feeds],
        executor: Executor,
        memory_bytes: int,
        keep: Collection[str] = (),
    ) -> None:
        self.model, self.executor, self.count = model, executor, len(feeds)
        nodes = list(model.graph)
        self.position = 0
        self._nodes, self._places = len(nodes), ir.positions(model)
        self._made = {value.name: value for node in nodes for value in node.outputs if value.name}
        self._values = {value.name: value for value in model.graph.inputs if value.name} | self._made
        self._store, self._keep = Store(memory_bytes), set(keep)
        self._first: dict[str, int] = {}  # where a value appears, and where it is used for the last time
        self._last: dict[str, int] = {}
        self._awkward: set[str] = set()  # values that cannot be fed: sequences, optionals
        fed = set(feeds[0]) if feeds else set()
        for value in model.graph.inputs:
            if value.name in fed:
                self._first[value.name or ""] = -1
        constant = {v.name for v in model.graph.initializers.values() if v.name not in self._first}
        for index, node in enumerate(nodes):
            used = [value.name or "" for value in ir.uses(node)]
            self._last.update(dict.fromkeys(used, index))
            if all(name in constant for name in used):  # any piece can compute it from nothing
                constant.update(value.name for value in node.outputs)
                continue
            for value in node.outputs:
                if value.name:
                    self._first[value.name] = index
                    if value.type is not None and not isinstance(value.type, ir.TensorType):
                        self._awkward.add(value.name)
        for value in model.graph.outputs:
            self._last[value.name or ""] = self._nodes
        self._have: set[str] = set()
        for name in [n for n, first in self._first.items() if first < 0]:
            self._have.add(name)
            for index, feed in enumerate(feeds):
                self._store.put((name, index), (np.asarray(feed[name]),))

    def index_of(self, name: str) -> int:
        """The number of the node that makes the value; -1 for an input. KeyError for what the walk cannot reach."""
        return self._first[name]

    def __contains__(self, name: str) -> bool:
        return name in self._first

    def to(self, position: int, also: Collection[str] = ()) -> None:
        """Go on to before node number `position`; hold the values `also`, too, wherever they are before it."""
        target, pending = max(position, self.position), True
        while pending:
            target = max(position, self.position)
            while self._awkward & self._live(target):
                target -= 1  # this ends at the present position, where no such value is live
            missing = (self._live(target) | set(also)) - self._have
            for index, found in self.look(sorted(missing), range(self.count)):
                awkward = {name for name, array in found.items() if not isinstance(array, np.ndarray)}
                if awkward:
                    self._awkward |= awkward
                    break
                for name, array in found.items():
                    self._store.put((name, index), (array,))
            else:
                self._have |= missing
                pending = False
        self.position = target
        self._forget()

    def get(self, name: str, feed: int) -> Array:
        """A value that is held."""
        return self._store.get((name, feed))[0]

    def release(self, names: Collection[str]) -> None:
        """No longer keep values for their own sake."""
        self._keep -= set(names)
        self._forget()

    def look(self, names: Sequence[str], feeds: Sequence[int]) -> Iterator[tuple[int, dict[str, Array]]]:
        """(feed number, {name: array}) with values behind the place, which stays where it is.

        Raises:
            ModelError: a value does not follow from those that are held.
        """
        ahead = [name for name in names if name not in self._have]
        inputs = self._inputs(ahead)
        run = None
        for index in feeds:
            given = {name: self.get(name, index) for name in inputs}
            if ahead and run is None:
                run = self.executor.prepare(self._piece(given, ahead), ahead)
            found = run(given) if run is not None else {}
            yield index, {name: found[name] if name in found else self.get(name, index) for name in names}

    def _piece(self, given: Feeds, outputs: Sequence[str]) -> ir.Model:
        known = self._values
        piece = ir.piece(self.model, [known[n] for n in given], [known[n] for n in outputs], self._places)
        for value in piece.graph.inputs:
            if value.name is not None and value.name in given:
                array = given[value.name]
                value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
                value.shape = ir.Shape([None] * array.ndim)
        return piece

    def _inputs(self, names: Sequence[str]) -> list[str]:
        """The values held of those from which `names` are computed."""
        made = self._made
        found: dict[str, None] = {}
        for name in names:
            if self._first.get(name, self._nodes) < self.position:
                raise ModelError(f"'{name}' is behind and was not kept")
        stack, seen = [made[name] for name in names], set(names)
        while stack:
            node = stack.pop().producer()
            assert node is not None
            for value in ir.uses(node):
                name = value.name or ""
                if name in seen:
                    continue
                seen.add(name)
                if name in self._have:
                    found[name] = None
                elif name in made:
                    if self._first.get(name, self._nodes) < self.position:
                        raise ModelError(f"'{name}' is behind and was not kept")
                    stack.append(value)
        return list(found)

    def _live(self, position: int) -> set[str]:
        return {
            name
            for name, first in self._first.items()
            if first < position and (self._last.get(name, -1) >= position or name in self._keep)
        }

    def _forget(self) -> None:
        for name in self._have - self._live(self.position) - self._keep:
            self._have.discard(name)
            for index in range(self.count):
                self._store.drop((name, index))


__all__ = ["Walk"]
