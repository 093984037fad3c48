"""The rules of operators about channels: one function per operator, registered by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TypeAlias

from lwgraph import ir
from lwgraph.views.coupling.builder import Coupler

Rule: TypeAlias = Callable[[ir.Node, Coupler], None]

RULES: dict[str, Rule] = {}  # operators of ONNX's own domain

_MODULES = (
    "attention",
    "elementwise",
    "layout",
    "linear",
    "normalization",
    "recurrent",
    "reduction",
    "reshape",
    "sizes",
)


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of operators of ONNX's own domain."""

    def register(function: Rule) -> Rule:
        for operator in operators:
            RULES[operator] = function
        return function

    return register


def load() -> dict[str, Rule]:
    """All rules, by operator."""
    for module in _MODULES:
        importlib.import_module(f"{__name__}.{module}")
    return RULES


def spatial_frozen(node: ir.Node, builder: Coupler, value: ir.Value | None, first: int = 2) -> None:
    """Freeze the tracked axes of `value` from `first` on: the operator mixes positions along them."""
    for axis, found in builder.tracked(value).items():
        if axis >= first:
            builder.freeze(found, f"node '{node.name}' ({node.op_type}) works along it")
