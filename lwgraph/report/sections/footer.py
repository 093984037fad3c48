"""Notes, recipe, times and versions."""

from __future__ import annotations

from html import escape

from lwgraph.report.record import Report


def footer(report: Report) -> str:
    """The notes, and how the result was made."""
    notes = "".join(f"<li>{escape(n)}</li>" for n in report.notes)
    facts = ", ".join(f"{k} {v}" for k, v in report.environment.items())
    times = ", ".join(f"{k} {v:.1f} s" for k, v in report.seconds.items())
    return (
        f"{'<h2>Notes</h2><ul>' + notes + '</ul>' if notes else ''}<h2>How it was made</h2>"
        f"<p>Recipe: <code>{escape(report.recipe)}</code></p><p>{escape(times)}</p><p>{escape(facts)}</p>"
    )
