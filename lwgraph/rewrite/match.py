"""Matches a pattern at a node. Nothing is changed: a match is a set of bindings and the nodes that it covers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from lwgraph import ir
from lwgraph.rewrite.operators import COMMUTATIVE, default_attributes
from lwgraph.rewrite.pattern import AttributeVar, Either, Literal, NodePattern, OutputOf, Pattern, Rest, Var

_NO_LITERAL_OVER = 1 << 16  # elements; a larger constant is never compared with a number


@dataclass(frozen=True)
class Match:
    """A match of a pattern: the bindings of its names, its nodes, and the values it replaces (in its order)."""

    bindings: dict[str, Any]
    nodes: tuple[ir.Node, ...]
    outputs: tuple[ir.Value, ...]


def match(pattern: Pattern, anchor: ir.Node) -> Match | None:
    """The first match whose first output is produced by `anchor`, or None.

    Values inside the match that something else uses, or that are outputs of the graph, block it. Time is bounded by
    the pattern, not by the graph, except that several outputs are looked for among the consumers of bound values.
    """
    return next(_Matcher(pattern, anchor).run(), None)


class _Matcher:
    """One attempt. Every `_match_*` yields once per way to match, and undoes its bindings when resumed."""

    def __init__(self, pattern: Pattern, anchor: ir.Node):
        assert anchor.graph is not None
        self.pattern, self.anchor, self.graph = pattern, anchor, anchor.graph
        self.bindings: dict[str, Any] = {}
        self.nodes: dict[int, tuple[NodePattern, ir.Node]] = {}  # keys are ids of node patterns
        self.outputs: list[ir.Value] = []

    def run(self) -> Iterator[Match]:
        for output in self.anchor.outputs:
            for _ in self._match_roots(0, output):
                if self._closed():
                    bound = {name: self.bindings.get(name) for name in self.pattern.names}
                    # nodes in graph order is not needed; the anchor first, so that names are taken from it
                    found = tuple(dict.fromkeys(n for _, n in self.nodes.values()))
                    yield Match(bound, found, tuple(self.outputs))

    def _match_roots(self, index: int, value: ir.Value) -> Iterator[None]:
        for _ in self._match_value(self.pattern.roots[index], value):
            self.outputs.append(value)
            if index + 1 == len(self.pattern.roots):
                yield
            else:
                for candidate in self._candidates(self.pattern.roots[index + 1]):
                    if candidate not in self.outputs:
                        yield from self._match_roots(index + 1, candidate)
            self.outputs.pop()

    def _candidates(self, root: Any) -> list[ir.Value]:
        """Values that may be `root`: outputs of the node already matched, or found through the uses of bound inputs."""
        if isinstance(root, Either):
            return [v for choice in root.choices for v in self._candidates(choice)]
        if isinstance(root, Var):
            bound = self.bindings.get(root.name)
            return [bound] if isinstance(bound, ir.Value) else []
        if not isinstance(root, OutputOf):
            return []
        if id(root.node) in self.nodes:
            outputs = self.nodes[id(root.node)][1].outputs
            return [outputs[root.index]] if root.index < len(outputs) else []
        for p in root.node.inputs:
            sources = self._candidates(p)
            if sources:
                users = {use.node: None for v in sources for use in v.uses() if use.node.op_type in root.node.op_types}
                return [n.outputs[root.index] for n in users if root.index < len(n.outputs)]
        return []

    def _match_value(self, p: Any, value: ir.Value | None) -> Iterator[None]:
        if isinstance(p, Var):
            yield from self._match_variable(p, value)
        elif isinstance(p, OutputOf):
            if value is not None and value.index() == p.index and (node := value.producer()) is not None:
                yield from self._match_node(p.node, node)
        elif isinstance(p, Literal):
            if value is not None and _is_number(value, p.value):
                yield
        elif isinstance(p, Either):
            for choice in p.choices:
                yield from self._match_value(choice, value)
        elif value is None:
            yield

    def _match_variable(self, p: Var, value: ir.Value | None) -> Iterator[None]:
        if p.name in self.bindings:
            if self.bindings[p.name] is value:
                yield
        elif value is None:
            if p.optional:
                self.bindings[p.name] = None
                yield
                del self.bindings[p.name]
        elif not p.constant or ir.is_constant(value):
            self.bindings[p.name] = value
            yield
            del self.bindings[p.name]

    def _match_node(self, p: NodePattern, node: ir.Node) -> Iterator[None]:
        if id(p) in self.nodes:
            if self.nodes[id(p)][1] is node:
                yield
            return
        if (
            node.op_type not in p.op_types
            or node.domain != p.domain
            or node.graph is not self.graph
            or len(node.outputs) < p.outputs
            or any(n is node for _, n in self.nodes.values())
        ):
            return
        attributes = self._match_attributes(p, node)
        if attributes is None:
            return
        self.nodes[id(p)] = (p, node)
        self.bindings.update(attributes)
        if p.name is not None:
            self.bindings[p.name] = node
        yield from self._match_inputs(p.inputs, tuple(node.inputs))
        if (
            len(node.inputs) == 2
            and node.domain == ""
            and node.op_type in COMMUTATIVE
            and node.inputs[0] is not node.inputs[1]
        ):
            yield from self._match_inputs(p.inputs, (node.inputs[1], node.inputs[0]))
        if p.name is not None:
            del self.bindings[p.name]
        for name in attributes:
            del self.bindings[name]
        del self.nodes[id(p)]

    def _match_inputs(self, patterns: tuple[Any, ...], values: tuple[ir.Value | None, ...]) -> Iterator[None]:
        if not patterns:
            if all(v is None for v in values):
                yield
            return
        head = patterns[0]
        if isinstance(head, Rest):
            if head.name in self.bindings:
                if self.bindings[head.name] == values:
                    yield
            else:
                self.bindings[head.name] = values
                yield
                del self.bindings[head.name]
            return
        for _ in self._match_value(head, values[0] if values else None):
            yield from self._match_inputs(patterns[1:], values[1:])

    def _match_attributes(self, p: NodePattern, node: ir.Node) -> dict[str, Any] | None:
        """Attribute bindings, or None when an attribute differs."""
        if not p.attributes and (not node.attributes or p.name is not None):
            return {}
        defaults = default_attributes(node.op_type, node.domain, ir.opset(node))
        found: dict[str, Any] = {}
        for name, wanted in p.attributes.items():
            actual = attribute_value(node, name, defaults)
            if actual is _UNKNOWN:
                return None
            if isinstance(wanted, AttributeVar):
                bound = found.get(wanted.name, self.bindings.get(wanted.name, actual))
                if bound != actual:
                    return None
                if wanted.name not in self.bindings:
                    found[wanted.name] = actual
            elif not _equal(actual, wanted):
                return None
        if p.name is None:
            for name in node.attributes:
                if name not in p.attributes:
                    actual = attribute_value(node, name, defaults)
                    if actual is _UNKNOWN or name not in defaults or actual != defaults[name]:
                        return None
        return found

    def _closed(self) -> bool:
        """Whether everything that the match removes is used by the match only."""
        inside = {node for _, node in self.nodes.values()}
        replaced = set(self.outputs)
        used_inside = Counter(value for node in inside for value in node.inputs if value is not None)
        for node in inside:
            for output in node.outputs:
                if output not in replaced and (output.is_graph_output() or ir.use_count(output) != used_inside[output]):
                    return False
        return True


_UNKNOWN = object()


def attribute_value(node: ir.Node, name: str, defaults: dict[str, Any]) -> Any:
    """An attribute's value, its default, or None; a marker that equals nothing for one bound by a function's caller."""
    attribute = node.attributes.get(name)
    if attribute is None:
        return defaults.get(name)
    if attribute.is_ref():
        return _UNKNOWN
    value = attribute.value
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _equal(actual: Any, wanted: Any) -> bool:
    if isinstance(wanted, float) and isinstance(actual, float):
        return bool(_as_value(wanted, np.dtype(np.float32)) == np.float32(actual))  # as attributes are stored
    return bool(actual == (tuple(wanted) if isinstance(wanted, list) else wanted))


def _is_number(value: ir.Value, wanted: float) -> bool:
    tensor = ir.constant_tensor(value)
    if tensor is None or not 0 < tensor.size <= _NO_LITERAL_OVER:
        return False
    array = tensor.numpy()
    number = None if array.dtype.kind in "OSU" else _as_value(wanted, array.dtype)
    return number is not None and bool((array == number).all())


def _as_value(wanted: float, dtype: np.dtype[Any]) -> Any:
    """`wanted` as a value of `dtype`; None where there is none. Only a fraction is rounded, as the type rounds it.

    A bool has 0 and 1, an integer the whole numbers in its range. In a floating-point type, an int must be one of its
    numbers, and a finite float must become neither an infinity nor, unless it is zero, a zero.
    """
    if dtype == np.bool_:
        return np.bool_(wanted) if wanted in (0, 1) else None
    if dtype.kind in "iu" or dtype.name.startswith(("int", "uint")):
        limits: Any = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
        whole = isinstance(wanted, int) or wanted.is_integer()
        return np.asarray(int(wanted)).astype(dtype) if whole and limits.min <= wanted <= limits.max else None
    try:
        with np.errstate(over="ignore"):
            number = np.asarray(float(wanted)).astype(dtype)
    except OverflowError:  # an int beyond every floating-point number
        return None
    rounded = complex(number).real
    if isinstance(wanted, int):
        return number if rounded == wanted else None
    same_kind = math.isfinite(rounded) == math.isfinite(wanted) and (rounded == 0) == (wanted == 0)
    return number if same_kind else None
