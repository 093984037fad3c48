"""The public face: the names of six packages, how they are called, and that each is documented.

Everything else may change from one version to the next. `LWGRAPH_UPDATE_FACE=1 pytest tests/test_public_face.py`
writes what is found into public_face.txt, and fails, for a person to read the difference.
"""

from __future__ import annotations

import difflib
import enum
import functools
import importlib
import inspect
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any, get_origin

import pytest

UPDATE = "LWGRAPH_UPDATE_FACE=1 pytest tests/test_public_face.py"
FACE = Path(__file__).with_name("public_face.txt")
PACKAGES = (
    "lwgraph",
    "lwgraph.calibrate",
    "lwgraph.layers",
    "lwgraph.measure",
    "lwgraph.rewrite",
    "lwgraph.testing",
)


class Written(str):
    """An annotation that prints as it is written."""

    __slots__ = ()

    __repr__ = str.__str__


def called(value: Any) -> str:
    """The signature as it is written, "" where there is none; for a default without a literal `...` stands."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return ""

    def plain(parameter: inspect.Parameter) -> inspect.Parameter:
        note, default = parameter.annotation, parameter.default
        return parameter.replace(
            annotation=Written(note) if isinstance(note, str) else note,
            default=Written("...") if " at 0x" in repr(default) else default,
        )

    note = signature.return_annotation
    whole = signature.replace(
        parameters=[plain(parameter) for parameter in signature.parameters.values()],
        return_annotation=Written(note) if isinstance(note, str) else note,
    )
    return str(whole).replace("pathlib._local.", "pathlib.")  # where Python 3.13 has it


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """Public methods (bound where they are class or static methods) and properties that the class itself defines."""
    for name, value in sorted(vars(kind).items()):
        if isinstance(value, property | functools.cached_property):
            yield name, value
        elif isinstance(value, classmethod | staticmethod | FunctionType) and value.__name__ == name:  # no lambda
            yield name, getattr(kind, name)


def documented(text: str, value: Any, name: str) -> str:
    """The line, with `undocumented` behind it where there is no docstring; what a dataclass writes itself is none."""
    doc = value.__doc__ or ""
    return text if doc and not doc.startswith(f"{name}(") else f"{text}  undocumented"


def described(name: str, value: Any) -> Iterator[str]:
    """The lines of one public name."""
    if inspect.isclass(value):
        enumerated = issubclass(value, enum.Enum)
        made = not enumerated and not getattr(value, "_is_protocol", False)
        yield documented(f"class {name}{called(value) if made else ''}", value, name)
        if enumerated:
            yield from (f"    {member.name} = {member.value!r}" for member in value)
        for member, shown in members(value):
            if not member.startswith("_"):
                yield documented(f"    {member}{called(shown) if callable(shown) else ''}", shown, member)
    elif inspect.isroutine(value):
        yield documented(f"def {name}{called(value)}", value, name)
    else:
        yield f"{name}: {value if get_origin(value) else type(value).__name__}"


def face() -> str:
    """Each package's names; `lwgraph` only names what is described with the package that it comes from."""
    packages = [importlib.import_module(name) for name in PACKAGES]
    lines = []
    for package in packages:
        lines += [f"== {package.__name__}"]
        for name in sorted(package.__all__):
            value = getattr(package, name)
            homes = [p.__name__ for p in packages[1:] if package is packages[0] and name in p.__all__]
            lines += [f"{name}: see {homes[0]}"] if homes else described(name, value)
        lines.append("")
    return "\n".join(lines)


def test_the_face_is_the_one_that_is_written_down() -> None:
    before, now = FACE.read_text("utf8") if FACE.exists() else "", face()
    if os.environ.get("LWGRAPH_UPDATE_FACE") == "1":
        FACE.write_text(now, "utf8")
    change = difflib.unified_diff(before.splitlines(), now.splitlines(), "written down", "now", lineterm="", n=0)
    assert before == now, "\n".join(
        [*change, "if this is meant, run: LWGRAPH_UPDATE_FACE=1 pytest tests/test_public_face.py"]
    )


def test_what_is_not_documented_is_seen() -> None:
    @dataclass
    class Bare:
        size: int = 1

        def grow(self, by: float = 2.0) -> int:
            return round(self.size * by)

    assert list(described("Bare", Bare))[1:] == ["    grow(self, by: float = 2.0) -> int  undocumented"]
    Bare.__doc__ = "Bare(size: int = 1)"  # as a dataclass describes itself
    assert next(described("Bare", Bare)).endswith("  undocumented")


def test_everything_in_the_face_is_documented() -> None:
    assert "undocumented" not in FACE.read_text("utf8")


@pytest.mark.parametrize("name", PACKAGES)
def test_what_is_listed_is_there_once_and_in_order(name: str) -> None:
    package = importlib.import_module(name)
    assert len(set(package.__all__)) == len(package.__all__)
    assert all(hasattr(package, public) for public in package.__all__)
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match=f"'{name}' has no attribute 'nothing'"):
        _ = package.nothing
