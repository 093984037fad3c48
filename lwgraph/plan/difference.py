"""Compares two plans, choice by choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lwgraph.plan.plan import KEEP, Choice, Plan, Precision, Removed, Width


@dataclass(frozen=True)
class ChoiceChange:
    """One choice that differs.

    Attributes:
        kind: "block", "group", "site", "passes", "float" or "dynamic".
        name: what it is about; "" for the passes.
        before, after: the choices in words.
        ms: predicted milliseconds that the second plan saves beyond the first here.
    """

    kind: str
    name: str
    before: str
    after: str
    ms: float


def words(choice: Choice | Width | Removed | Precision | None) -> str:
    """A choice as a person says it; None and "keep" are "as it is"."""
    if isinstance(choice, Choice):
        return "as it is" if choice.form == KEEP else choice.form
    if isinstance(choice, Width):
        return f"{choice.keep} of {choice.of} channels"
    if isinstance(choice, Removed):
        return "removed"
    if isinstance(choice, Precision):
        return ", ".join(choice.passes) or "as it is"
    return "as it is"


def differences(a: Plan, b: Plan) -> list[ChoiceChange]:
    """The choices in which `b` differs from `a`, in the order they are carried out; predictions do not count."""
    found: list[ChoiceChange] = []
    parts: tuple[tuple[str, Mapping[str, Any], Mapping[str, Any]], ...] = (
        ("block", a.blocks, b.blocks),
        ("group", a.groups, b.groups),
        ("site", a.sites, b.sites),
        ("passes", {"": a.precision}, {"": b.precision}),
    )
    for kind, old, new in parts:
        for name in dict.fromkeys([*old, *new]):
            before, after = old.get(name), new.get(name)
            if words(before) != words(after):
                found.append(ChoiceChange(kind, name, words(before), words(after), _saved(after) - _saved(before)))
    spared = (set(a.precision.keep_float), set(b.precision.keep_float))
    for name in dict.fromkeys([*a.precision.keep_float, *b.precision.keep_float]):
        before_float, after_float = (name in each for each in spared)
        if before_float != after_float:
            found.append(ChoiceChange("float", name, _kept(before_float), _kept(after_float), 0.0))
    for name in dict.fromkeys([*a.precision.dynamic, *b.precision.dynamic]):
        before_runs, after_runs = (name in each.precision.dynamic for each in (a, b))
        if before_runs != after_runs:
            found.append(ChoiceChange("dynamic", name, _grid(before_runs), _grid(after_runs), 0.0))
    return found


def _kept(in_float: bool) -> str:
    return "kept in float" if in_float else "not kept in float"


def _grid(dynamic: bool) -> str:
    return "its grid taken as the model runs" if dynamic else "its grid as the passes take it"


def _saved(choice: Choice | Width | Removed | Precision | None) -> float:
    return 0.0 if choice is None or words(choice) == "as it is" else choice.ms[0] - choice.ms[1]


__all__ = ["ChoiceChange", "differences", "words"]
