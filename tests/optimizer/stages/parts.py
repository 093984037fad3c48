"""What a stage needs of the work, and nothing else."""

from __future__ import annotations

from dataclasses import make_dataclass
from typing import Any


def parts(**given: Any) -> Any:
    """A dataclass of these, so that a stage can hand on a changed copy."""
    return make_dataclass("Parts", list(given))(**given)
