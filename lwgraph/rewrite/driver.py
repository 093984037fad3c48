"""Applies rules everywhere until none matches. The only place where a rewrite changes a graph.

A worklist holds the nodes at which a rule may match. After a rewrite only the neighbourhood, as deep as the patterns
reach, goes back on it, so the cost is linear in the graph as long as the rewrites are local.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lwgraph import ir
from lwgraph.errors import CheckError, UsageError
from lwgraph.rewrite.base import Context, Skip
from lwgraph.rewrite.builder import Builder, Const
from lwgraph.rewrite.commit import commit
from lwgraph.rewrite.match import Match, match
from lwgraph.rewrite.pattern import Pattern

_REWRITES_PER_NODE = 16  # more than this many on average: the rules undo each other
_REWRITES_AT_LEAST = 1024
_FEW_USES = 4  # a value left with this few users may have become an inner value of another match


@dataclass(frozen=True)
class CompiledRule:
    """A pattern and the replacement, with what the replacement asks for."""

    pattern: Pattern
    replace: Callable[..., Any]
    wanted: tuple[str, ...] = field(init=False)
    constants: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        parameters = list(inspect.signature(self.replace).parameters.values())[1:]
        named = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        if len(named) != len(parameters):
            named = sorted(self.pattern.names)
        object.__setattr__(self, "wanted", tuple(named))
        object.__setattr__(self, "constants", self.pattern.constants)


def rewrite(model: ir.Model, rules: Sequence[CompiledRule], name: str, context: Context, min_opset: int = 1) -> int:
    """Apply `rules` to every graph and function of `model` to a fixed point; return how many rewrites were done.

    Raises:
        CheckError: the rules do not come to an end.
    """
    total = 0
    functions = {function.graph for function in model.functions.values()}
    for scope in ir.scopes(model):
        graph = ir.graph_of(scope)
        version = graph.opset_imports.get("") or ir.root(graph).opset_imports.get("", 1)
        if version < min_opset:
            context.skip(name, graph.name or "graph", f"needs opset {min_opset}, the model has {version}")
            continue
        total += _Worklist(graph, ir.root(graph) in functions, rules, name, context).run()
    return total


class _Worklist:
    def __init__(
        self, graph: ir.Graph, function: bool, rules: Sequence[CompiledRule], name: str, context: Context
    ) -> None:
        self.graph, self.function, self.name, self.context = graph, function, name, context
        self.rules: dict[tuple[str, str], list[CompiledRule]] = {}
        for rule in rules:
            for anchor in rule.pattern.anchors:
                self.rules.setdefault(anchor, []).append(rule)
        self.depth = max((rule.pattern.depth for rule in rules), default=1)
        self.ordered = any(len(rule.pattern.roots) > 1 for rule in rules)
        self.order: dict[ir.Node, float] = {}
        self.pending: deque[ir.Node] = deque()
        self.queued: set[ir.Node] = set()
        self.refused: dict[ir.Node, str] = {}

    def run(self) -> int:
        count, size = 0, 0
        for node in self.graph:
            size += 1
            if (node.domain, node.op_type) in self.rules:
                self.pending.append(node)
        if not self.pending:
            return 0
        self.queued.update(self.pending)
        if self.ordered:
            self.order = {node: float(i) for i, node in enumerate(self.graph)}
        bound = _REWRITES_PER_NODE * size + _REWRITES_AT_LEAST
        while self.pending:
            node = self.pending.popleft()
            self.queued.discard(node)
            if node.graph is not self.graph:
                continue  # removed since
            done = self._visit(node)
            if done is None:
                break  # the limit of a bisection
            count += done
            if count > bound:
                raise CheckError(
                    f"pass '{self.name}' does not come to an end: {count} rewrites in a graph of {size} "
                    f"nodes, the last at node '{node.name}' ({node.op_type})"
                )
        for node, reason in self.refused.items():
            if node.graph is not None:
                self.context.skip(self.name, node.name or node.op_type, reason)
        return count

    def _visit(self, node: ir.Node) -> int | None:
        """Try the rules at one node: 1 when it was rewritten, 0 when not, None when the context forbids more."""
        for rule in self.rules[node.domain, node.op_type]:
            found = match(rule.pattern, node)
            if found is None:
                continue
            builder = Builder(self.graph, self.context, self.function)
            try:
                results = self._replacement(rule, builder, found)
                if results is None:
                    builder._discard()
                    continue
                if not self.context.allow(self.name, node.name or node.op_type):
                    builder._discard()
                    return None
                changed = commit(self.graph, found, results, builder, self.name, self.order if self.ordered else None)
            except Skip as refusal:
                builder._discard()
                self.refused[node] = str(refusal)
                continue
            except BaseException:
                builder._discard()
                raise
            self._enqueue(changed.starts, changed.freed)
            return 1
        return 0

    def _replacement(self, rule: CompiledRule, builder: Builder, found: Match) -> tuple[ir.Value, ...] | None:
        given = {}
        for name in rule.wanted:
            value = found.bindings[name]
            given[name] = Const(value) if name in rule.constants and value is not None else value
        made = rule.replace(builder, **given)
        if made is None:
            return None
        made = made if isinstance(made, tuple) else (made,)
        results = tuple(m.value if isinstance(m, Const) else m for m in made)
        if len(results) != len(found.outputs) or not all(isinstance(r, ir.Value) for r in results):
            raise UsageError(
                f"the replacement of pass '{self.name}' returned {made!r}; "
                f"allowed: {len(found.outputs)} value(s) of the graph or made by op"
            )
        if all(r is o for r, o in zip(results, found.outputs, strict=True)):
            return None
        return results

    def _enqueue(self, starts: Iterable[ir.Node], freed: Iterable[ir.Value]) -> None:
        """Queue `starts`, users of `freed`, and what lies downstream as far as a pattern reaches."""
        level = dict.fromkeys(starts)
        for value in freed:
            if ir.use_count(value) <= _FEW_USES:
                level.update(dict.fromkeys(value.consumers()))
        seen = dict(level)
        for step in range(self.depth):
            following: dict[ir.Node, None] = {}
            for node in level:
                if node.graph is self.graph and (node.domain, node.op_type) in self.rules and node not in self.queued:
                    self.pending.append(node)
                    self.queued.add(node)
                if step + 1 < self.depth:
                    for output in node.outputs:
                        following.update((n, None) for n in output.consumers() if n not in seen)
            seen.update(following)
            level = following
