"""What the documents of commands are held to."""

from __future__ import annotations

from typing import Any

import jsonschema

from lwgraph.schemas import schema


def check(document: Any, name: str) -> None:
    """Against one definition of the schema, and against the whole."""
    whole = schema("output")
    for part in ({**whole["$defs"][name], "$defs": whole["$defs"]}, whole):
        jsonschema.validate(document, part, jsonschema.Draft202012Validator)
