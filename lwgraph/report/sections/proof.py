"""The checks of the result."""

from __future__ import annotations

from html import escape

from lwgraph.report.parts import table
from lwgraph.report.record import Report


def proof(report: Report) -> str:
    """Each check, its executor, its contract and its result."""
    if not report.checks:
        return ""
    rows = [
        [
            escape(c.what),
            escape(c.executor),
            escape(c.contract),
            f'<span class="{"good" if c.ok else "bad"}">{"holds" if c.ok else "fails"}</span>',
            escape(c.detail),
        ]
        for c in report.checks
    ]
    return "<h2>Proof</h2>" + table(
        [("what", False), ("executor", False), ("contract", False), ("result", False), ("detail", False)], rows
    )
