"""Finds the first value at which two runs differ: of two models, or of one model in two runtimes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lwgraph import ir
from lwgraph.contract import Contract
from lwgraph.errors import LwgraphError
from lwgraph.measure.compare import Comparison, Difference, compare
from lwgraph.measure.tolerances import Tolerance

if TYPE_CHECKING:
    from lwgraph.executor import Executor, Feeds

AT_ONCE = 8  # intermediate values that a run returns together; memory is bounded by so many of them


@dataclass(frozen=True)
class Divergence:
    """The first value at which two runs differ.

    Attributes:
        name: the first value, in the order of the graph, that differs beyond the tolerance.
        operator: what computes it in the first model, as "Conv 'node name'"; "" for an input.
        difference: how it differs: largest difference, its position, and more.
        agreeing: the values nearest to it, among those it is computed from, that both runs have; all of them agree.
        hidden: nothing differs once intermediate values are returned, so the cause is what a runtime does across
            nodes (a fusion or a layout); `name` is then an output of the model.
    """

    name: str
    operator: str
    difference: Difference
    agreeing: tuple[str, ...] = ()
    hidden: bool = False

    def __str__(self) -> str:
        maker = f", computed by {self.operator}" if self.operator else ""
        if self.hidden:
            return f"{self.difference}{maker}; no value before it differs once it is returned: a fusion is the cause"
        from_what = f"; what it is computed from agrees ({', '.join(self.agreeing)})" if self.agreeing else ""
        return f"{self.difference}{maker}{from_what}"


def first_divergence(
    model_a: ir.Model,
    model_b: ir.Model,
    executor_a: Executor,
    executor_b: Executor,
    feeds: Feeds,
    contract: Contract,
    *,
    tolerances: Callable[[np.dtype[Any]], Tolerance] | None = None,
    at_once: int = AT_ONCE,
) -> Divergence | None:
    """The first value that differs, found by bisection over the values that both models have by name.

    Bisection starts at the first output that differs and looks only at what that output is computed from. Because a
    difference may vanish and reappear along the way, the value found is then traced back until everything it is
    computed from agrees. Each run returns at most `at_once` values, O(log n) runs in general.

    Args:
        model_a: held to be true; its values choose the tolerances.
        model_b: compared with it; may be the same model.
        executor_a: runs `model_a`.
        executor_b: runs `model_b`.
        feeds: one sample.
        contract: how far values may lie apart; see `lwgraph.measure.tolerances`.
        tolerances: replaces the table.
        at_once: values returned by one run, at least 1.

    Returns:
        None when all outputs agree.

    Raises:
        LwgraphError: a model cannot be run with `feeds` at all.
    """
    search = _Bisection(model_a, model_b, executor_a, executor_b, feeds, contract, tolerances, max(at_once, 1))
    return search.run()


class _Bisection:
    def __init__(
        self,
        model_a: ir.Model,
        model_b: ir.Model,
        executor_a: Executor,
        executor_b: Executor,
        feeds: Feeds,
        contract: Contract,
        tolerances: Callable[[np.dtype[Any]], Tolerance] | None,
        at_once: int,
    ) -> None:
        self._sides = ((executor_a, model_a), (executor_b, model_b))
        self._feeds, self._contract, self._tolerances, self._at_once = feeds, contract, tolerances, at_once
        self._graph = model_a.graph
        self._values = {v.name: v for node in model_a.graph for v in node.outputs if v.name}
        self._order = {name: i for i, name in enumerate(self._values)}
        others = {v.name for node in model_b.graph for v in node.outputs if v.name}
        self._shared = set(self._values) & others
        self._known: dict[str, Difference | None] = {}  # None: a runtime cannot return it

    def run(self) -> Divergence | None:
        outputs = [v.name for v in self._graph.outputs if v.name]
        failed = self._compare(list(dict.fromkeys(outputs))).first_failure
        if failed is None:
            return None
        name = failed.name.split("[")[0] if failed.name not in self._values else failed.name
        if name not in self._values:
            return Divergence(failed.name, "", failed)
        self._known[name] = failed
        found = self._trace(self._bisect(name))
        if found == name and self._vanishes(name):
            return Divergence(name, self._maker(name), failed, hidden=True)
        difference = self._known[found]
        assert difference is not None
        return Divergence(found, self._maker(found), difference, tuple(self._frontier(found)))

    def _bisect(self, name: str) -> str:
        """A value that differs, with an agreeing one before it among those probed."""
        candidates = self._ancestors(name)
        low, high = 0, len(candidates)  # candidates[high] differs (the end: `name` itself), what lies below low agrees
        while low < high:
            count = min(self._at_once, high - low)
            probes = sorted({low + (high - low) * (i + 1) // (count + 1) for i in range(count)})
            self._probe([candidates[i] for i in probes])
            bad = next((i for i in probes if self._differs(candidates[i])), None)
            if bad is None:
                low = probes[-1] + 1
            else:
                low, high = max((i + 1 for i in probes if i < bad), default=low), bad
        return candidates[high] if high < len(candidates) else name

    def _trace(self, name: str) -> str:
        """The earliest differing value on a path of differing values that ends in `name`."""
        while True:
            frontier = self._frontier(name)
            self._probe(frontier)
            before = next((other for other in frontier if self._differs(other)), None)
            if before is None:
                return name
            name = before

    def _ancestors(self, name: str) -> list[str]:
        """The shared values that `name` is computed from, in the order of the graph."""
        found: set[str] = set()
        pending = [self._values[name]]
        seen = set(pending)
        while pending:
            for value in _inputs(pending.pop()):
                if value not in seen:
                    seen.add(value)
                    pending.append(value)
                    if value.name in self._shared:
                        found.add(value.name)
        return sorted(found, key=self._order.__getitem__)

    def _frontier(self, name: str) -> list[str]:
        """The nearest shared values that `name` is computed from and that can be returned."""
        found: dict[str, None] = {}
        pending = [self._values[name]]
        seen = set(pending)
        while pending:
            for value in _inputs(pending.pop()):
                if value in seen:
                    continue
                seen.add(value)
                if value.name in self._shared and self._known.get(value.name, value) is not None:
                    found[value.name] = None
                else:
                    pending.append(value)
        return sorted(found, key=self._order.__getitem__)

    def _maker(self, name: str) -> str:
        node = self._values[name].producer()
        return "" if node is None else f"{node.op_type} '{node.name or name}'"

    def _vanishes(self, name: str) -> bool:
        """Whether a value agrees when what it is computed from is returned with it."""
        together = [name, *self._frontier(name)[: max(self._at_once - 1, 1)]]
        return len(together) > 1 and self._compare(together).ok

    def _differs(self, name: str) -> bool:
        difference = self._known[name]
        return difference is not None and not difference.ok

    def _probe(self, names: Sequence[str]) -> None:
        """Compare values that are not known yet, a few at a time; what a runtime cannot return is noted as such."""
        new = [name for name in names if name not in self._known]
        for start in range(0, len(new), self._at_once):
            group = new[start : start + self._at_once]
            try:
                self._note(group, self._compare(group))
            except LwgraphError:
                for name in group:
                    try:
                        self._note([name], self._compare([name]))
                    except LwgraphError:
                        self._known[name] = None

    def _note(self, names: Sequence[str], comparison: Comparison) -> None:
        for name in names:
            parts = [d for d in comparison.differences if d.name == name or d.name.startswith(f"{name}[")]
            self._known[name] = max(parts, key=lambda d: d.excess, default=None)

    def _compare(self, names: Sequence[str]) -> Comparison:
        results: list[Mapping[str, Any]] = [
            executor.prepare(model, names)(self._feeds) for executor, model in self._sides
        ]
        return compare(results[0], results[1], self._contract, tolerances=self._tolerances)


def _inputs(value: ir.Value) -> list[ir.Value]:
    """The values from which a value is directly computed, those used inside subgraphs included."""
    node = value.producer()
    if node is None:
        return []
    found = [v for v in node.inputs if v is not None]
    pending = list(ir.subgraphs_of(node))
    for graph in pending:
        found += [v for inner in graph for v in inner.inputs if v is not None]
        found += list(graph.outputs)
        pending += [sub for inner in graph for sub in ir.subgraphs_of(inner)]
    return found


__all__ = ["AT_ONCE", "Divergence", "first_divergence"]
