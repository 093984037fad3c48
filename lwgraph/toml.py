"""Reads TOML, for which Python 3.10 has no module."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from lwgraph.errors import UsageError


def read(path: Path, what: str) -> dict[str, Any]:
    """The table of a TOML file.

    Args:
        path: the file, UTF-8.
        what: the option that names it, to start the error message ("--recipe").

    Raises:
        UsageError: the file cannot be read or is not TOML.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"{what} '{path}' cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{what} '{path}' is not TOML: {error}") from error
    return parse(text, f"{what} '{path}'")


def parse(text: str, what: str) -> dict[str, Any]:
    """The table of a TOML text; UsageError, starting with `what`, when it is not TOML."""
    tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except ValueError as error:
        raise UsageError(f"{what} is not TOML: {error}") from error
    except RecursionError:
        raise UsageError(f"{what} is nested too deep to be read") from None
    return table
