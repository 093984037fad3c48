"""The choice at each dense layer."""

from __future__ import annotations

from html import escape

from lwgraph.report.parts import table
from lwgraph.report.record import Report
from lwgraph.report.words import speed


def layers(report: Report) -> str:
    """Form, error and time of each layer, or why it stayed."""
    if not report.sites:
        return ""
    rows = [
        [
            f"<code>{escape(s.name)}</code>",
            escape(s.operator),
            escape(s.shape),
            f"<code>{escape(s.form or 'dense')}</code>",
            "" if s.predicted_error is None else f"{100 * s.predicted_error:.3g} %",
            "" if s.dense_ms is None else f"{s.dense_ms:.4g}",
            "" if s.form_ms is None else f"{s.form_ms:.4g}",
            "" if not s.dense_ms or not s.form_ms else speed(s.form_ms / s.dense_ms),
            escape(s.reason),
        ]
        for s in report.sites
    ]
    head = [
        ("layer", False),
        ("operator", False),
        ("shape", False),
        ("form", False),
        ("predicted error", True),
        ("dense, ms", True),
        ("form, ms", True),
        ("speed alone", True),
        ("why", False),
    ]
    return "<h2>Layer by layer</h2>" + table(head, rows)
