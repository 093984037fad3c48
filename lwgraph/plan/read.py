"""Reads a plan's JSON, and says in one line what is wrong with it and where."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from lwgraph.errors import UsageError, did_you_mean
from lwgraph.layers.form import parse_form
from lwgraph.plan.choices import KEEP, VERSION, Choice, Precision, Removed, Width
from lwgraph.rewrite.base import Pass

T = TypeVar("T")
KEYS = ("lwgraph_plan", "target", "predicted", "blocks", "groups", "sites", "precision")


def read_fields(text: str) -> dict[str, Any]:
    """The fields of the `Plan`, by name; UsageError naming the place, the value and what is allowed."""
    try:
        data = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise UsageError("not a plan: it is nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits, too
        raise UsageError(f"not JSON: {error}") from None
    fields = _object(data, "the plan", KEYS, required=("lwgraph_plan", "sites"))
    version = fields["lwgraph_plan"]
    if version != VERSION or isinstance(version, bool):
        raise UsageError(f'"lwgraph_plan" is {json.dumps(version)}; allowed: {VERSION}, the format of this lwgraph')
    predicted = _object(fields.get("predicted", {}), "predicted", ("error", "ms"))
    return {
        "sites": _each(fields["sites"], "sites", _choice),
        "target": _text(fields.get("target", ""), "target"),
        "groups": _each(fields.get("groups", {}), "groups", _width),
        "blocks": _each(fields.get("blocks", {}), "blocks", _removal),
        "precision": _precision(fields.get("precision", {})),
        "ms": _ms(predicted, "predicted"),
        "error": _error(predicted, "predicted"),
    }


def _choice(value: Any, place: str) -> Choice:
    fields = _object(value, place, ("form", "error", "ms"), required=("form",))
    form = _text(fields["form"], f"{place}.form")
    if form != KEEP:
        _parsed(parse_form, form, f"{place}.form")
    return Choice(form, _error(fields, place), _ms(fields, place))


def _width(value: Any, place: str) -> Width:
    fields = _object(value, place, ("keep", "of", "error", "ms"), required=("keep", "of"))
    keep, of = (_count(fields[key], f"{place}.{key}") for key in ("keep", "of"))
    if keep > of:
        raise UsageError(f"{place}.keep is {keep}; allowed: 1 to {of}, the group's channels")
    return Width(keep, of, _error(fields, place), _ms(fields, place))


def _removal(value: Any, place: str) -> Removed:
    fields = _object(value, place, ("remove", "error", "ms"), required=("remove",))
    if fields["remove"] is not True:
        raise UsageError(f"{place}.remove is {_show(fields['remove'])}; allowed: true (delete the line to keep it)")
    return Removed(_error(fields, place), _ms(fields, place))


def _precision(value: Any) -> Precision:
    fields = _object(value, "precision", ("passes", "keep_float", "error", "ms", "dynamic"))
    passes = _texts(fields.get("passes", []), "precision.passes")
    for index, text in enumerate(passes):
        _parsed(Pass.parse, text, f"precision.passes[{index}]")
    kept = _texts(fields.get("keep_float", []), "precision.keep_float")
    dynamic = _texts(fields.get("dynamic", []), "precision.dynamic")
    return Precision(passes, kept, _error(fields, "precision"), _ms(fields, "precision"), dynamic)


# ---------------------------------------------------------------- values


def _each(value: Any, place: str, make: Callable[[Any, str], T]) -> dict[str, T]:
    if not isinstance(value, dict):
        raise UsageError(f"{place} is {_show(value)}; allowed: an object with a name for each key")
    return {name: make(item, f"{place}[{_show(name)}]") for name, item in value.items()}


def _object(value: Any, place: str, known: Collection[str], required: Sequence[str] = ()) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{place} is {_show(value)}; allowed: an object with {', '.join(known)}")
    for key in value:
        if key not in known:
            raise UsageError(f"{place} has {_show(key)}{did_you_mean(key, known)}")
    for key in required:
        if key not in value:
            raise UsageError(f'{place} has no "{key}"; required: {", ".join(required)}')
    return value


def _error(fields: dict[str, Any], place: str) -> float:
    return _number(fields.get("error", 0.0), f"{place}.error")


def _ms(fields: dict[str, Any], place: str) -> tuple[float, float]:
    value = fields.get("ms", [0.0, 0.0])
    if not isinstance(value, list) or len(value) != 2:
        raise UsageError(f"{place}.ms is {_show(value)}; allowed: two numbers, milliseconds before and after")
    return _number(value[0], f"{place}.ms[0]"), _number(value[1], f"{place}.ms[1]")


def _number(value: Any, place: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, (int, float)) else float(value)
    except OverflowError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise UsageError(f"{place} is {_show(value)}; allowed: a number of at least 0")
    return number


def _count(value: Any, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{place} is {_show(value)}; allowed: a whole number of at least 1")
    return value


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{place} is {_show(value)}; allowed: text")
    return value


def _texts(value: Any, place: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise UsageError(f"{place} is {_show(value)}; allowed: a list of texts")
    return tuple(_text(item, f"{place}[{index}]") for index, item in enumerate(value))


def _parsed(parse: Callable[[str], Any], text: str, place: str) -> None:
    try:
        parse(text)
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON reader keeps the last of two equal keys; a person who edits a plan should hear of it."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"{_show(twice)} occurs twice; remove one of them")
    return found


def _no_constant(name: str) -> Any:
    raise UsageError(f"{name} is not a number of JSON; allowed: finite numbers")


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


__all__ = ["read_fields"]
