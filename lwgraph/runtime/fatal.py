"""Finds what ends the process or never ends: integer divisions that raise a signal, and Loops without an end."""

from __future__ import annotations

from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import division_trap
from lwgraph.errors import LwgraphError, ModelError
from lwgraph.executor import Feeds
from lwgraph.runtime.reference import ReferenceExecutor

ENDLESS = 1 << 31  # trips: a Loop that did nothing would take the better part of an hour
_FARTHEST = 64  # operators back to one whose type is known
_DEAR = ir.LINEAR | ir.RECURRENT  # what computes with these is not computed twice


class DivisionGuard:
    """The integer Div and Mod nodes of a main graph that are not known to be safe, and a check of what they divide.

    A Loop without an end is refused, too, where the graph shows that it has none.

    A division by a constant without 0 and -1 is safe; that is nearly every one. Of the others, those that are computed
    from constants are checked here, those computed from inputs by cheap operators before each run.

    Raises:
        ModelError: on construction, when the runtime would end the process while it loads the model.
    """

    def __init__(self, model: ir.Model) -> None:
        for scope in (model.graph, *model.functions.values()):
            for node in scope:
                if node.op_type == "Loop" and node.domain == "" and (trips := _endless(node)):
                    name = node.name or node.outputs[0].name
                    raise ModelError(f"Loop '{name}' never ends: it has {trips}, and its condition stays true")
        risky = [node for node in model.graph if node.domain == "" and node.op_type in ("Div", "Mod") and _risky(node)]
        fixed = [node for node in risky if not _inputs(node)]
        self._varying = [node for node in risky if _inputs(node) and not _inputs(node) & {None}]
        self._model = model if risky else None  # which it would keep alive
        if fixed:
            self._check(fixed, {})

    def check(self, feeds: Feeds) -> None:
        """Raise ModelError if a run on `feeds` would end the process."""
        if self._varying:
            self._check(self._varying, feeds)

    def _check(self, nodes: list[ir.Node], feeds: Feeds) -> None:
        assert self._model is not None
        names = [value.name or "" for node in nodes for value in node.inputs if value is not None]
        try:
            found = ReferenceExecutor().prepare(self._model, list(dict.fromkeys(names)))(
                {name: feeds[name] for name in feeds} if feeds else {name: _any(v) for name, v in self._fed()}
            )
        except LwgraphError:
            return  # what the reference cannot compute is left to the runtime
        for node in nodes:
            a, b = (found[value.name or ""] for value in node.inputs if value is not None)
            if a.dtype.kind in "iu" and (words := division_trap(a, b)):
                raise ModelError(
                    f"node '{node.name or node.outputs[0].name}' ({node.op_type}) divides {words}: ONNX Runtime would "
                    "end this process with a signal; mend the model"
                )

    def _fed(self) -> list[tuple[str, ir.Value]]:
        assert self._model is not None
        graph = self._model.graph
        return [(value.name or "", value) for value in graph.inputs if value.name not in graph.initializers]


def _endless(node: ir.Node) -> str:
    """What a Loop has in place of a trip count that ends it, where it hands on a condition that is true; "" else."""
    trips, condition = (*node.inputs, None, None)[:2]
    start = None if condition is None else ir.constant(condition)
    most = None if trips is None else ir.constant(trips)
    if trips is not None and (most is None or most.size != 1 or int(most.reshape(-1)[0]) < ENDLESS):
        return ""
    if condition is not None and (start is None or not start.all()):
        return ""
    (body,) = ir.subgraphs_of(node)
    handed: ir.Value | None = body.outputs[0]
    while handed is not None and (maker := handed.producer()) is not None and maker.op_type == "Identity":
        handed = maker.inputs[0]
    stays = ir.constant(handed)
    if handed is not body.inputs[1] and (stays is None or not stays.all()):
        return ""
    return "no trip count" if most is None else f"{int(most.reshape(-1)[0])} trips"


def _any(value: ir.Value) -> Any:
    """Some array of the input's type: nothing that is wanted depends on it."""
    shape = [size if isinstance(size, int) else 1 for size in value.shape or ()]
    return np.zeros(shape, np.float32 if value.dtype is None else value.dtype.numpy())


def _risky(node: ir.Node) -> bool:
    """Whether an operator divides integers by something that may be 0 or -1."""
    divisor = ir.constant(node.inputs[1])
    if divisor is not None and not ((divisor == 0) | (divisor == -1)).any():
        return False
    kind = _kind(node.inputs[0])
    return kind is not None and kind.is_integer()


def _kind(value: ir.Value | None) -> ir.DataType | None:
    """The element type: what is recorded, or else what follows from the operators before; None: not known."""
    for _ in range(_FARTHEST):
        if value is None:
            return None
        if (found := value.dtype or ir.constant_dtype(value)) is not None:
            return found
        node = value.producer()
        if node is None or node.domain != "" or not node.inputs:
            return None
        if node.op_type == "Cast":
            return ir.DataType(ir.attribute(node, "to"))
        if node.op_type in ("Shape", "Size", "NonZero", "ArgMax", "ArgMin"):
            return ir.DataType.INT64
        value = node.inputs[1 if node.op_type == "Where" else 0]
    return None


def _inputs(node: ir.Node) -> set[str | None]:
    """The graph inputs that a node depends on; None among them when it also depends on what is dear to compute."""
    found: set[str | None] = set()
    seen, pending = {node}, [node]
    while pending:
        current = pending.pop()
        if current.op_type in _DEAR or ir.subgraphs_of(current):
            found.add(None)
        for value in current.inputs:
            if value is None:
                continue
            maker = value.producer()
            if maker is not None and maker not in seen:
                seen.add(maker)
                pending.append(maker)
            elif maker is None and value.is_graph_input():
                found.add(value.name)
    return found


__all__ = ["DivisionGuard"]
