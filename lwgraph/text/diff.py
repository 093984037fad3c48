"""Compares two models: nodes, attributes, constants, inputs, outputs and metadata, each change named once."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lwgraph import ir
from lwgraph.text.printing import attribute_text, node_text, operator, tensor_text, type_text, value_text

_SIGNS = {"added": "+", "removed": "-", "changed": "~", "renamed": "="}


@dataclass(frozen=True)
class Change:
    """One difference between model A and model B."""

    kind: str  # "added", "removed", "changed" or "renamed", from A to B
    what: str  # "node", "initializer", "input", "output", "value", "function", "graph" or "model"
    name: str  # name of the node, value, ... in A; in B when added
    scope: str = ""  # the graph it is in: "" for the main graph, else "node.attribute" or a function's name
    before: str = ""  # text in A; empty when added
    after: str = ""  # text in B; empty when removed
    details: tuple[str, ...] = ()  # for "changed": each aspect on a line, "aspect: before -> after"

    def __str__(self) -> str:
        where = f" in {self.scope}" if self.scope else ""
        head = f"{_SIGNS[self.kind]} {self.what}{where}: "
        if self.kind == "renamed":
            return f"{head}{self.before} -> {self.after}"
        if self.kind == "changed":
            return "\n".join([f"{head}{self.name}", *(f"    {detail}" for detail in self.details)])
        return head + (self.after or self.before)


@dataclass(frozen=True)
class Diff:
    """All differences, in the order of the graphs. `str()` is for people, `to_dict()` for machines."""

    changes: tuple[Change, ...] = field(default=())

    @property
    def empty(self) -> bool:
        """Whether the models are the same, names included."""
        return not self.changes

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """The number of changes of each kind: {"node": {"added": 2, ...}, ...}."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for change in self.changes:
            found[change.what][change.kind] += 1
        return {what: dict(sorted(kinds.items())) for what, kinds in sorted(found.items())}

    def __str__(self) -> str:
        if self.empty:
            return "no differences"
        summary = "; ".join(
            f"{what}s: " + ", ".join(f"{number} {kind}" for kind, number in kinds.items())
            for what, kinds in self.counts.items()
        )
        return "\n".join([summary, *map(str, self.changes)])

    def to_dict(self) -> dict[str, Any]:
        """{"equal": bool, "counts": ..., "changes": [{"kind", "what", "name", "scope", ...}]}, ready for JSON."""
        return {
            "equal": self.empty,
            "counts": self.counts,
            "changes": [{**vars(change), "details": list(change.details)} for change in self.changes],
        }


def diff(a: ir.Model, b: ir.Model) -> Diff:
    """The differences from `a` to `b`. O(nodes + bytes of constants).

    Nodes are matched by what they compute (operator, attributes, constants, everything before them), then by the names
    of their outputs, then by their own names; a matched node is changed when its operator, its attributes or the source
    of an input differs. Recorded types count where both models have one.
    """
    changes = [*_model(a, b), *_graphs(a.graph, b.graph, "")]
    names = {"::".join(filter(None, key)): key for key in (*a.functions, *b.functions)}
    for name, key in names.items():
        if key not in b.functions:
            changes.append(Change("removed", "function", name, before=name))
        elif key not in a.functions:
            changes.append(Change("added", "function", name, after=name))
        else:
            one, two = a.functions[key], b.functions[key]
            details = _differing(
                {"opset": dict(one.opset_imports), "parameters": sorted(one.attributes)},
                {"opset": dict(two.opset_imports), "parameters": sorted(two.attributes)},
            )
            if details:
                changes.append(Change("changed", "function", name, details=details))
            changes += _graphs(one.graph, two.graph, name)
    return Diff(tuple(changes))


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(
        f"{key}: {_or_none(a.get(key))} -> {_or_none(b.get(key))}"
        for key in dict.fromkeys([*a, *b])
        if a.get(key) != b.get(key)
    )


def _or_none(value: Any) -> str:
    return "none" if value is None else str(value)


def _model(a: ir.Model, b: ir.Model) -> Iterator[Change]:
    def facts(model: ir.Model) -> dict[str, Any]:
        found = {
            key: getattr(model, key) or None
            for key in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string")
        }
        found.update({f"opset {domain or 'ai.onnx'}": version for domain, version in model.opset_imports.items()})
        found.update({f"metadata {key}": value for key, value in model.metadata_props.items()})
        return found

    if details := _differing(facts(a), facts(b)):
        yield Change("changed", "model", "model", details=details)


class _Hashes:
    """A hash of the computation of each value, over everything before it."""

    def __init__(self, graph: ir.Graph, outer: _Hashes | None = None) -> None:
        self.values: dict[ir.Value, str] = dict(outer.values) if outer else {}
        self.nodes: dict[ir.Node, str] = {}
        for position, value in enumerate(graph.inputs):
            self.values[value] = _hash("input", position if outer else value.name)
        for value in graph.initializers.values():
            if not value.is_graph_input() and value.const_value is not None:
                self.values[value] = _hash("constant", ir.digest(value.const_value).hex())
        for node in graph:
            inputs = ("" if value is None else self.values.get(value, "?") for value in node.inputs)
            parts = [operator(node), *inputs]
            for name in sorted(node.attributes):
                attribute = node.attributes[name]
                parts += [name, attribute_text(attribute)]
                if not attribute.is_ref() and attribute.type == ir.AttributeType.TENSOR:
                    parts.append(ir.digest(attribute.value).hex())
            for subgraph in ir.subgraphs_of(node):
                inner = _Hashes(subgraph, self)
                parts += [inner.values.get(value, "?") for value in subgraph.outputs]
            self.nodes[node] = _hash(*parts)
            for position, value in enumerate(node.outputs):
                self.values[value] = _hash(self.nodes[node], position)


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _match(a: ir.Graph, b: ir.Graph) -> dict[ir.Node, ir.Node]:
    """Nodes of `a` to the nodes of `b` that stand for them."""
    pairs: dict[ir.Node, ir.Node] = {}
    taken: set[ir.Node] = set()
    hashes = (_Hashes(a).nodes, _Hashes(b).nodes)

    def pair(key_of: Any) -> None:
        free: dict[object, deque[ir.Node]] = defaultdict(deque)
        for node in b:
            if node not in taken:
                free[key_of(1, node)].append(node)
        for node in a:
            if node not in pairs and (found := free.get(key_of(0, node))):
                pairs[node] = found.popleft()
                taken.add(pairs[node])

    def names(node: ir.Node) -> tuple[str | None, ...]:
        return tuple(value.name for value in node.outputs)

    pair(lambda side, node: (hashes[side][node], names(node)))
    pair(lambda side, node: hashes[side][node])
    pair(lambda side, node: (operator(node), names(node)))
    pair(lambda side, node: names(node))
    pair(lambda side, node: (operator(node), node.name) if node.name else (side, node))
    return pairs


def _graphs(a: ir.Graph, b: ir.Graph, scope: str) -> Iterator[Change]:
    """The differences of two graphs, their subgraphs included."""
    pairs = _match(a, b)
    same: dict[ir.Value, ir.Value] = {}  # values of `a` -> the values of `b` that stand for them
    for one, two in pairs.items():
        same.update(zip(one.outputs, two.outputs, strict=False))
    yield from _named("input", _by_name(a.inputs), _by_name(b.inputs), same, scope)
    yield from _named("initializer", a.initializers.data, b.initializers.data, same, scope)
    matched = set(pairs.values())
    for one in a:
        other = pairs.get(one)
        if other is None:
            yield Change("removed", "node", _name(one), scope, before=node_text(one))
        else:
            yield from _nodes(one, other, same, scope)
    for node in b:
        if node in matched:
            continue
        yield Change("added", "node", _name(node), scope, after=node_text(node))
    yield from _named("output", _by_name(a.outputs), _by_name(b.outputs), {}, scope)
    if a.doc_string != b.doc_string or a.metadata_props != b.metadata_props or (a.name or "") != (b.name or ""):
        facts = [{"name": g.name or None, "doc_string": g.doc_string or None, **g.metadata_props} for g in (a, b)]
        if details := _differing(*facts):
            yield Change("changed", "graph", a.name or "", scope, details=details)


def _name(node: ir.Node) -> str:
    return node.name or next((value.name for value in node.outputs if value.name), None) or operator(node)


def _by_name(values: Iterable[ir.Value]) -> dict[str, ir.Value]:
    return {value.name or "": value for value in values}


def _constant_text(value: ir.Value) -> str:
    return tensor_text(value.const_value) if value.const_value is not None else ""


def _named(
    what: str, a: Mapping[str, ir.Value], b: Mapping[str, ir.Value], same: dict[ir.Value, ir.Value], scope: str
) -> Iterator[Change]:
    """Inputs, outputs or initializers: those with one name are the same; of the others, equal data tells renaming."""
    gone = {name: value for name, value in a.items() if name not in b}
    new = {name: value for name, value in b.items() if name not in a}
    if what == "initializer":
        data = {_key(value): name for name, value in reversed(new.items())}
        for name, value in tuple(gone.items()):
            other = data.pop(_key(value), None)
            if other is not None:
                same[gone.pop(name)] = new.pop(other)
                yield Change("renamed", what, name, scope, name, other)
    for name, value in gone.items():
        text = f"{name} := {_constant_text(value)}" if what == "initializer" else value_text(value)
        yield Change("removed", what, name, scope, before=text)
    for name, value in new.items():
        text = f"{name} := {_constant_text(value)}" if what == "initializer" else value_text(value)
        yield Change("added", what, name, scope, after=text)
    for name, value in a.items():
        if name not in b:
            continue
        other_value = b[name]
        same.setdefault(value, other_value)
        details = list(_differing({"type": type_text(value)}, {"type": type_text(other_value)}))
        if what == "initializer":
            details = []
            if _key(value) != _key(other_value):
                details = [f"data: {_constant_text(value)} -> {_constant_text(other_value)}"]
        details += _differing(dict(value.metadata_props), dict(other_value.metadata_props))
        if details:
            yield Change("changed", what, name, scope, details=tuple(details))
    kept = [name for name in a if name in b]
    if what != "initializer" and kept != [name for name in b if name in a]:
        yield Change(
            "changed", "graph", f"order of {what}s", scope, details=(f"order: {', '.join(a)} -> {', '.join(b)}",)
        )


def _key(value: ir.Value) -> object:
    return ir.digest(value.const_value) if value.const_value is not None else value


def _nodes(a: ir.Node, b: ir.Node, same: dict[ir.Value, ir.Value], scope: str) -> Iterator[Change]:
    details = list(_differing({"operator": operator(a)}, {"operator": operator(b)}))
    if len(a.inputs) != len(b.inputs) or not all(map(lambda x, y: _corresponds(x, y, same), a.inputs, b.inputs)):
        texts = [", ".join(value.name or "?" if value is not None else "_" for value in node.inputs) for node in (a, b)]
        details.append(f"inputs: {texts[0]} -> {texts[1]}")
    if len(a.outputs) != len(b.outputs):
        details.append(f"outputs: {len(a.outputs)} -> {len(b.outputs)}")
    nested: list[Change] = []
    for name in dict.fromkeys([*a.attributes, *b.attributes]):
        one, two = a.attributes.get(name), b.attributes.get(name)
        if one is not None and two is not None and one.type == two.type and not one.is_ref() and not two.is_ref():
            if one.type == ir.AttributeType.GRAPH:
                nested += _graphs(one.as_graph(), two.as_graph(), f"{_name(a)}.{name}")
                continue
            if one.type == ir.AttributeType.TENSOR and ir.digest(one.value) == ir.digest(two.value):
                continue
        texts = ["none" if attribute is None else attribute_text(attribute) for attribute in (one, two)]
        if texts[0] != texts[1]:
            details.append(f"{name}: {texts[0]} -> {texts[1]}")
    details += _differing(
        {"doc_string": a.doc_string or None, **a.metadata_props},
        {"doc_string": b.doc_string or None, **b.metadata_props},
    )
    if details:
        yield Change("changed", "node", _name(a), scope, node_text(a), node_text(b), tuple(details))
    if (a.name or "") != (b.name or ""):
        yield Change("renamed", "node", a.name or "", scope, a.name or "(unnamed)", b.name or "(unnamed)")
    for value, other in zip(a.outputs, b.outputs, strict=False):
        if (value.name or "") != (other.name or ""):
            names = value.name or "(unused)", other.name or "(unused)"
            yield Change("renamed", "value", names[0], scope, *names)
        types = type_text(value), type_text(other)
        if all(types) and types[0] != types[1] and not (value.is_graph_output() and other.is_graph_output()):
            yield Change("changed", "value", value.name or "", scope, details=(f"type: {types[0]} -> {types[1]}",))
    yield from nested


def _corresponds(a: ir.Value | None, b: ir.Value | None, same: dict[ir.Value, ir.Value]) -> bool:
    if a is None or b is None:
        return a is b
    return same[a] is b if a in same else a.name == b.name  # the latter: a value of a graph around both
