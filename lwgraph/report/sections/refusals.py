"""The places that passes skipped, and why."""

from __future__ import annotations

from html import escape

from lwgraph.report.parts import table
from lwgraph.report.record import Report


def refusals(report: Report) -> str:
    """Each refusal with its place and reason, folded away."""
    if not report.skipped:
        return ""
    rows = [
        [f"<code>{escape(s['pass'])}</code>", f"<code>{escape(s['place'])}</code>", escape(s["reason"])]
        for s in report.skipped
    ]
    rows_html = table([("pass", False), ("place", False), ("reason", False)], rows)
    return f"<h2>What was left alone</h2><details><summary>{len(rows)} refusals</summary>{rows_html}</details>"
