"""JSON Schemas (draft 2020-12) of what lwgraph writes and reads."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

NAMES = ("output", "plan")


def schema(name: str) -> dict[str, Any]:
    """The schema "output", of what every command prints with `--json`, or "plan", of a plan.json.

    `schema("output")["$defs"]` has one for each command. KeyError for any other name.
    """
    if name not in NAMES:
        raise KeyError(name)
    found: dict[str, Any] = json.loads((files(__name__) / f"{name}.schema.json").read_text("utf8"))
    return found


__all__ = ["NAMES", "schema"]
