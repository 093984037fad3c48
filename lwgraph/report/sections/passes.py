"""The passes that ran."""

from __future__ import annotations

from html import escape

from lwgraph.report.parts import table
from lwgraph.report.record import Report
from lwgraph.report.words import count


def passes(report: Report) -> str:
    """Rewrites and seconds of each pass."""
    rows = [
        [f"<code>{escape(p.name)}</code>", escape(p.contract), count(p.rewrites), f"{p.seconds:.3f}"]
        for p in report.passes
    ]
    return (
        ""
        if not rows
        else "<h2>Passes</h2>"
        + table([("pass", False), ("contract", False), ("rewrites", True), ("seconds", True)], rows)
    )
