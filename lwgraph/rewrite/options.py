"""A pass's options as text and back: `name{ratio=0.5,axes=[1,2]}`. The options are the fields of the dataclass."""

from __future__ import annotations

import enum
import functools
import json
import math
import re
import types
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lwgraph.errors import UsageError, did_you_mean

_PLAIN = re.compile(r"[A-Za-z0-9_.+:/*-]+")  # a string that needs no quotes
T = TypeVar("T")
_OPEN, _CLOSE = "{[(", "}])"
_TRUE, _FALSE = (True, "true", "yes", "1"), (False, "false", "no", "0")


@dataclass(frozen=True)
class PassOption:
    """One option of a pass, for help texts: its name, type, default (as text; "" when required) and help."""

    name: str
    type_text: str
    default_text: str
    help: str


def describe(cls: type[Any]) -> list[PassOption]:
    """The options of a pass class (or of any dataclass whose fields are options, such as a form), in order."""
    hints = get_type_hints(cls, include_extras=True)
    found = []
    for f in fields(cls):
        hint, text = hints[f.name], ""
        if get_origin(hint) is Annotated:
            hint, *extras = get_args(hint)
            text = next((e for e in extras if isinstance(e, str)), "")
        found.append(PassOption(f.name, _type_name(hint), "" if _default(f) is MISSING else _write(_default(f)), text))
    return found


def format_options(plugin: Any) -> str:
    """`{option=value,...}` of a pass, a form or any dataclass, with what differs from the defaults; "" when nothing."""
    changed = [f"{f.name}={_write(getattr(plugin, f.name))}" for f in fields(plugin) if not is_default(plugin, f)]
    return f"{{{','.join(changed)}}}" if changed else ""


def is_default(plugin: Any, f: Field[Any]) -> bool:
    """Whether the option `f` of `plugin` has its default value."""
    return bool(getattr(plugin, f.name) == _default(f))


def parse_spelling(text: str) -> tuple[str, dict[str, str]]:
    """The name and the options, as text, in `name` or `name{option=value,...}`."""
    match = re.fullmatch(r"\s*([^\s{}]+)\s*(?:\{(.*)\})?\s*", text, re.DOTALL)
    if match is None:
        raise UsageError(f"'{text.strip()}' is not a pass; allowed: name or name{{option=value,...}}")
    values: dict[str, str] = {}
    for item in split(match[2] or ""):
        key, equals, value = item.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"'{item.strip()}' in '{text.strip()}' is not an option; allowed: option=value")
        if key in values:
            raise UsageError(f"option '{key}' is given twice in '{text.strip()}'")
        values[key] = value.strip()
    return match[1], values


@functools.cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    """The types of a class's fields; to resolve them takes longer than all the rest of reading a recipe."""
    return get_type_hints(cls)


def build(cls: type[T], values: dict[str, Any]) -> T:
    """An instance of `cls`; strings are parsed by the field's type, other values (from TOML) are checked against it."""
    hints = _hints(cls)  # type: ignore[arg-type]  # classes are hashable
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]  # T is a dataclass
    name = getattr(cls, "name", cls.__name__)
    given: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            tail = did_you_mean(key, known) if known else "; it has no options"
            raise UsageError(f"pass '{name}' has no option '{key}'{tail}")
        try:
            given[key] = _read(value, hints[key])
        except ValueError:
            allowed = _type_name(hints[key])
            raise UsageError(f"option '{key}' of pass '{name}' is '{value}'; allowed: {allowed}") from None
    missing = [name for name, f in known.items() if name not in given and _default(f) is MISSING]
    if missing:
        raise UsageError(f"pass '{name}' needs option '{missing[0]}'")
    return cls(**given)


def split(text: str, separator: str = ",") -> list[str]:
    """The parts of `text` between separators that stand outside quotes and brackets; blank text has none."""
    parts, depth, quoted, start, position = [], 0, False, 0, 0
    while position < len(text):
        char = text[position]
        if quoted:
            if char == "\\":
                position += 1
            elif char == '"':
                quoted = False
        elif char == '"':
            quoted = True
        elif char in _OPEN:
            depth += 1
        elif char in _CLOSE:
            depth -= 1
        elif char == separator and depth == 0:
            parts.append(text[start:position])
            start = position + 1
        if depth < 0:
            break
        position += 1
    if depth or quoted:
        raise UsageError(f"'{text.strip()}' has an unclosed {'quote' if quoted else 'bracket'}")
    parts.append(text[start:])
    return parts if text.strip() else []


def _default(f: Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not MISSING else f.default


def _write(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value not in ("none", "true", "false")
        return value if plain else json.dumps(value)
    if isinstance(value, (tuple, list)):
        return f"[{','.join(_write(v) for v in value)}]"
    raise TypeError(f"an option cannot hold a {type(value).__name__}")


def _read(value: Any, hint: Any) -> Any:
    """`value`, a string from the command line or a TOML value, as `hint`; ValueError when it is not one."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _read(value, arguments[0])
    if origin in (Union, types.UnionType):
        for member in sorted(arguments, key=lambda m: m is str):  # a string accepts anything, so it comes last
            try:
                return _read(value, member)
            except ValueError:
                continue
        raise ValueError
    if origin is Literal:
        for member in arguments:
            if _write(member) == value or member == value:
                return member
        raise ValueError
    if origin in (tuple, list, Sequence):
        return _read_items(value, origin, arguments)
    if hint is type(None):
        return _expect(None, value in (None, "none"))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        names = {member.name.lower(): member for member in hint}
        return _expect(names.get(str(value).lower()), str(value).lower() in names)
    if hint is bool:
        return _expect(value in _TRUE, value in _TRUE or value in _FALSE)
    if hint is int:
        return int(value, 0) if isinstance(value, str) else _expect(value, type(value) is int)
    if hint is float:
        number = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else math.nan
        return _expect(number, not math.isnan(number))
    if hint is str:
        return _unquote(_expect(value, isinstance(value, str)))
    raise TypeError(f"an option cannot be annotated {hint}")


def _read_items(value: Any, origin: Any, arguments: tuple[Any, ...]) -> Any:
    if isinstance(value, str):
        bracketed = len(value) > 1 and value[0] in "[(" and value[-1] in "])"
        items: list[Any] = [item.strip() for item in split(value[1:-1] if bracketed else value)]
    else:
        items = list(_expect(value, isinstance(value, (list, tuple))))
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        if len(items) != len(arguments):
            raise ValueError
        return tuple(_read(item, kind) for item, kind in zip(items, arguments, strict=True))
    made = [_read(item, arguments[0] if arguments else str) for item in items]
    return made if origin is list else tuple(made)


def _expect(value: Any, ok: bool) -> Any:
    if not ok:
        raise ValueError
    return value


def _unquote(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] == '"':
        return str(json.loads(text))
    return text


def _type_name(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_type_name(m) for m in arguments)
    if origin is Literal:
        return " or ".join(_write(m) for m in arguments)
    if origin in (tuple, list, Sequence):
        if origin is tuple and Ellipsis not in arguments:
            return "[" + ",".join(_type_name(m) for m in arguments) + "]"
        return f"a list of {_type_name(arguments[0]) if arguments else 'str'}"
    if hint is type(None):
        return "none"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return " or ".join(member.name.lower() for member in hint)
    return {bool: "true or false", int: "an integer", float: "a number", str: "text"}.get(hint, str(hint))
