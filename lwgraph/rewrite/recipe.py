"""Recipes: passes as TOML, also written into a model's metadata, so that every model says how it was made."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lwgraph import ir, toml
from lwgraph.errors import UsageError, did_you_mean
from lwgraph.rewrite.base import Pass, find_class, spelling
from lwgraph.rewrite.options import build, is_default

KEY = "lwgraph.recipe"  # the key in the model's metadata
_PACKAGES = ("lwgraph", "onnx", "onnx-ir", "numpy")
_SECTIONS = ("passes", "versions")


def write(passes: Iterable[Pass]) -> str:
    """TOML: the versions, then for each pass a `[[passes]]` table of its name and the options that are not default."""
    lines = ["[versions]", *(f"{package} = {json.dumps(_version(package))}" for package in _PACKAGES)]
    for p in passes:
        lines += ["", "[[passes]]", f"name = {json.dumps(spelling(type(p)))}"]
        lines += [f"{f.name} = {_toml(getattr(p, f.name))}" for f in fields(p) if not is_default(p, f)]
    return "\n".join(lines) + "\n"


def read(text: str, expand: Callable[[str], Sequence[Pass] | None] = lambda name: None) -> list[Pass]:
    """The passes of a recipe; the versions in it are for the reader and are not compared.

    Args:
        text: TOML.
        expand: the passes that a name stands for; None where it names a single one.

    Raises:
        UsageError: not TOML, an unknown section, pass, option or value.
    """
    table = toml.parse(text, "recipe")
    for section in table:
        if section not in _SECTIONS:
            raise UsageError(f"recipe has an unknown section '{section}'{did_you_mean(section, _SECTIONS)}")
    entries = table.get("passes", [])
    if not isinstance(entries, list) or not all(isinstance(e, dict) and type(e.get("name")) is str for e in entries):
        raise UsageError("recipe: 'passes' must be [[passes]] tables, each with a name")
    return [p for entry in entries for p in _read_entry(entry, expand)]


def record(model: ir.Model, passes: Iterable[Pass]) -> None:
    """Write the recipe into the model's metadata, after the passes that an earlier recipe there already lists."""
    earlier: list[Pass] = []
    if KEY in model.metadata_props:
        try:
            earlier = read(model.metadata_props[KEY])
        except UsageError:
            earlier = []  # a recipe of a version with other passes is dropped: a model's recipe must be readable
    model.metadata_props[KEY] = write([*earlier, *passes])


def _read_entry(entry: dict[str, Any], expand: Callable[[str], Sequence[Pass] | None]) -> Sequence[Pass]:
    values = {key.replace("-", "_"): value for key, value in entry.items() if key != "name"}
    several = expand(entry["name"])
    if several is None:
        return [build(find_class(entry["name"]), values)]
    if values:
        names = ", ".join(p.name for p in several)
        raise UsageError(
            f"recipe: '{entry['name']}' stands for several passes and has no option '{next(iter(values))}'; "
            f"name the pass that has it: {names}"
        )
    return several


@functools.cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)  # "inf" is TOML, too
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_toml(v) for v in value)}]"
    if value is None:
        return '"none"'
    return json.dumps(value if isinstance(value, str) else value.name.lower())
