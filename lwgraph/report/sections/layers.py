"""The choice at each dense layer."""

from __future__ import annotations

from html import escape

from lwgraph.report.parts import table
from lwgraph.report.record import Report
from lwgraph.report.words import codes, forms, precisions, speed


def layers(report: Report) -> str:
    """What the file holds, and form, precision, error and time of each layer, or why it stayed."""
    words = escape(
        " ".join(line for line in (precisions(report.layers), codes(report.layers), forms(report.sites)) if line)
    )
    if not report.sites:
        return f"<h2>Layers</h2><p>{words}</p>" if words else ""
    rows = [
        [
            f"<code>{escape(s.name)}</code>",
            escape(s.operator),
            escape(s.shape),
            f"<code>{escape(s.form or 'dense')}</code>",
            escape(s.precision),
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
        ("computes in", False),
        ("predicted error", True),
        ("dense, ms", True),
        ("form, ms", True),
        ("speed alone", True),
        ("why", False),
    ]
    return f"<h2>Layer by layer</h2><p>{words}</p>" + table(head, rows)
