"""Every model that was found, on every target: what it loses there, what it takes, and how the best is run.

Shows `details["runtimes"]`: "rows", each with "target", "model", "lost", "unit", "verdict", "milliseconds", "speed",
"bytes" and "chosen"; "code", that runs the best; see `lwgraph.optimizer.several.Row`.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from lwgraph.report.parts import table
from lwgraph.report.record import Report
from lwgraph.report.words import loss, size

HEAD = ("runtime", "model", "lost", "ms", "speed", "size", "promise")


def cells(row: Mapping[str, Any]) -> list[str]:
    """The text of a row, under HEAD."""
    lost = "not judged" if row["lost"] is None else loss(row["lost"], row["unit"])
    made = "as it is" if row["model"] == "input" else f"made for {row['model']}"
    verdict = ", ".join(word for word in (row["verdict"], "recommended" * row["chosen"]) if word)
    speed = row["speed"].partition(" (")[0]
    return [row["target"], made, lost, f"{row['milliseconds']:.3f}", speed, size(row["bytes"]), verdict]


def runtimes(report: Report) -> str:
    """The table, and the code; "" where there was one target."""
    found = report.details.get("runtimes")
    if not found:
        return ""
    head = [(name, name in ("lost", "ms", "speed", "size")) for name in HEAD]
    rows = [[escape(cell) for cell in cells(row)] for row in found["rows"]]
    return (
        "<h2>Runtimes</h2><p>Speeds are relative to the first row. What is lost is lost against the input in the types "
        f"that its graph states.</p>{table(head, rows)}<pre>{escape(found['code'])}</pre>"
    )


__all__ = ["HEAD", "cells", "runtimes"]
