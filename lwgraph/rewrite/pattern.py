"""The pattern language: a function of graph values, run once with symbols in their place.

    def pattern(self, op, x, w, b=None, *, axis):
        y = op.Conv(x, w, b, _name="conv")
        return op.Softmax(y, axis=axis)

Parameters are variables; the same one twice must be the same value. A parameter with the default None may be absent.
Keyword-only parameters stand for attribute values. `*rest` takes all remaining inputs of a node.
`op.Type(inputs..., attribute=value)` is a node; an attribute that is not mentioned must have its default, unless the
node is bound by `_name`, whose replacement sees the node itself. `_outputs=2` makes a tuple of outputs, `_domain`
names another domain. A number among the inputs is a constant of that value in every element, a float rounded to its
type; a type that has no such value does not match (0.5 and integers, 300 and int8). `op.either(a, b)` tries
alternatives in order, `op.any_of("Add", "Sub")(x, y)` several operators. Returning a tuple matches several outputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, get_type_hints

from lwgraph.errors import UsageError
from lwgraph.rewrite.builder import Const


@dataclass(frozen=True)
class Var:
    """Any value; the same name is the same value. `constant`: it must be known now. `optional`: it may be absent."""

    name: str
    constant: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Rest:
    """All remaining inputs of a node, as a tuple."""

    name: str


@dataclass(frozen=True)
class AttributeVar:
    """The value of an attribute (None when absent without a default)."""

    name: str


@dataclass(frozen=True)
class Literal:
    """A constant whose every element equals `value`; only a fraction is rounded to the dtype."""

    value: float


@dataclass(frozen=True, eq=False)
class NodePattern:
    """A node of one of `op_types`."""

    op_types: tuple[str, ...]
    domain: str
    inputs: tuple[ValuePattern | Rest | None, ...]
    attributes: Mapping[str, Any]
    outputs: int
    name: str | None


@dataclass(frozen=True, eq=False)
class OutputOf:
    """One output of a node."""

    node: NodePattern
    index: int


@dataclass(frozen=True, eq=False)
class Either:
    """The first of several patterns that leads to a match."""

    choices: tuple[ValuePattern, ...]


ValuePattern: TypeAlias = "Var | Literal | OutputOf | Either"


class PatternBuilder:
    """The `op` of a pattern function."""

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if op_type.startswith("_"):
            raise AttributeError(op_type)
        return self.any_of(op_type)

    def any_of(self, *op_types: str) -> Callable[..., Any]:
        """A node of any of these operator types."""

        def build(
            *inputs: Any, _outputs: int = 1, _domain: str = "", _name: str | None = None, **attributes: Any
        ) -> Any:
            made = tuple(_value_pattern(i) for i in inputs)
            if any(isinstance(i, Rest) for i in made[:-1]):
                raise UsageError(f"in the pattern of {op_types[0]}, '*{_rest_name(made)}' is not the last input")
            node = NodePattern(op_types, _domain, made, attributes, _outputs, _name)
            outputs = tuple(OutputOf(node, i) for i in range(_outputs))
            return outputs if _outputs > 1 else outputs[0]

        return build

    def either(self, *choices: Any) -> Either:
        """Alternatives, tried in order; variables of those not taken are None."""
        made = tuple(_value_pattern(c) for c in choices)
        if any(c is None or isinstance(c, Rest) for c in made):
            raise UsageError("a choice of op.either must be a value")
        return Either(made)


@dataclass(frozen=True)
class Pattern:
    """A compiled pattern: its outputs, and the names that its replacement may ask for."""

    roots: tuple[OutputOf | Either, ...]
    names: frozenset[str]
    anchors: tuple[tuple[str, str], ...]  # (domain, op type) of the nodes that can produce the first output
    depth: int  # number of nodes from the outputs to the farthest input
    constants: frozenset[str]  # names bound to a Const


def compile_pattern(function: Callable[..., Any], replacement: Callable[..., Any], where: str) -> Pattern:
    """Run a pattern function with symbols; UsageError (naming `where`) when it or its replacement is malformed.

    A parameter annotated `Const` in either function must be a constant.
    """
    parameters = list(inspect.signature(function).parameters.values())[1:]
    wanted = list(inspect.signature(replacement).parameters.values())[1:]
    constants = _annotated_const(function) | _annotated_const(replacement)
    arguments: list[Any] = []
    keywords: dict[str, Any] = {}
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY:
            keywords[p.name] = AttributeVar(p.name)
        elif p.kind is p.VAR_POSITIONAL:
            arguments.append(Rest(p.name))
        elif p.kind is p.VAR_KEYWORD:
            raise UsageError(f"the pattern of {where} has a parameter '**{p.name}'; allowed: named parameters")
        else:
            arguments.append(Var(p.name, p.name in constants, p.default is None))
    made = function(PatternBuilder(), *arguments, **keywords)
    roots = made if isinstance(made, tuple) else (made,)
    if not roots or not all(isinstance(r, (OutputOf, Either)) for r in roots):
        raise UsageError(f"the pattern of {where} must return the output of a node, or a tuple of them")
    names = {p.name for p in parameters}
    nodes = _node_patterns(roots)
    for node in nodes:
        if node.name is not None:
            if node.name in names:
                raise UsageError(f"the pattern of {where} uses the name '{node.name}' twice")
            names.add(node.name)
    for p in wanted:
        if p.kind is not p.VAR_KEYWORD and p.name not in names:
            raise UsageError(f"the replacement of {where} asks for '{p.name}', which its pattern does not bind")
    anchors = tuple(dict.fromkeys((n.domain, t) for n in _producers(roots[0], where) for t in n.op_types))
    return Pattern(roots, frozenset(names), anchors, max(_depth(r) for r in roots), frozenset(constants & names))


def _value_pattern(value: Any) -> Any:
    if value is None or isinstance(value, (Var, Rest, Literal, OutputOf, Either)):
        return value
    if isinstance(value, (int, float)):
        return Literal(value)
    raise UsageError(f"{value!r} cannot stand in a pattern; allowed: a parameter, an output, a number, None")


def _rest_name(inputs: tuple[Any, ...]) -> str:
    return next(i.name for i in inputs if isinstance(i, Rest))


def _annotated_const(function: Callable[..., Any]) -> set[str]:
    """Names of the parameters annotated `Const` (also as text, where the annotation cannot be evaluated)."""
    try:
        hints = get_type_hints(function)
    except NameError:
        hints = dict(getattr(function, "__annotations__", {}))
    found = set()
    for name, hint in hints.items():
        members = getattr(hint, "__args__", (hint,))
        if any(m is Const for m in members) or (isinstance(hint, str) and hint.split("|")[0].strip() == "Const"):
            found.add(name)
    return found


def _node_patterns(roots: tuple[Any, ...]) -> list[NodePattern]:
    found: dict[int, NodePattern] = {}
    pending = list(roots)
    while pending:
        p = pending.pop()
        if isinstance(p, OutputOf) and id(p.node) not in found:
            found[id(p.node)] = p.node
            pending += p.node.inputs
        elif isinstance(p, Either):
            pending += p.choices
    return list(found.values())


def _producers(root: Any, where: str) -> list[NodePattern]:
    if isinstance(root, OutputOf):
        return [root.node]
    if isinstance(root, Either):
        return [n for c in root.choices for n in _producers(c, where)]
    raise UsageError(f"every choice of the first output of {where} must be a node")


def _depth(p: Any) -> int:
    if isinstance(p, OutputOf):
        return 1 + max((_depth(i) for i in p.node.inputs), default=0)
    if isinstance(p, Either):
        return max(_depth(c) for c in p.choices)
    return 0
