"""The plans that can be had: what each loses, how fast it is, and how it is picked.

Shows `details["front"]`: a list of "number", "drop", "said" (the speed), "bytes", "verdict", "why" and "chosen".
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from lwgraph.report.parts import table
from lwgraph.report.record import Report
from lwgraph.report.words import loss, size


def front(report: Report) -> str:
    """The table of plans, fastest first; "" when there is none to pick."""
    found = report.details.get("front")
    if not found:
        return ""
    unit = report.score.unit if report.score else ""
    rows = [
        [str(p["number"]), escape(loss(p["drop"], unit)), escape(p["said"]), size(p["bytes"]), _verdict(p)]
        for p in found
    ]
    head = [("plan", True), ("estimated loss", True), ("speed", True), ("size", True), ("promise", False)]
    return (
        "<h2>Available plans</h2><p>Each loses less than every faster one. Speeds are relative to "
        "the input. <code>lwgraph plan pick N MODEL</code> writes plan N.</p>" + table(head, rows)
    )


def _verdict(plan: Mapping[str, Any]) -> str:
    colour = {"kept": "good", "broken": "bad"}.get(plan["verdict"], "open")
    words = f'<span class="{colour}" title="{escape(plan["why"])}">{plan["verdict"]}</span>'
    return f"{words}, delivered" if plan["chosen"] else words


__all__ = ["front"]
