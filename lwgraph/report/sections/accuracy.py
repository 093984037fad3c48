"""The judged metric and the promise made on it."""

from __future__ import annotations

from html import escape

from lwgraph.report.record import Report


def accuracy(report: Report) -> str:
    """The metric before and after, its interval, and whether the promise holds."""
    score = report.score
    if score is None:
        return ""
    kept = score.max_drop is None or score.drop <= score.max_drop
    asked = "" if score.max_drop is None else f", at most {score.max_drop:g} allowed"
    samples = "" if score.samples is None else f" on {score.samples} samples"
    interval = ""
    if score.drop_interval is not None:
        interval = f" (95 % interval of the loss: {score.drop_interval[0]:.4g} to {score.drop_interval[1]:.4g})"
    looks = "" if score.looks < 2 else f" {score.looks} candidates were judged on this data."
    return (
        f"<h2>Accuracy{', unproven' * report.unproven}</h2><p>{escape(score.name)}{samples}: "
        f"{score.before:.4f} before, {score.after:.4f} after{interval}; "
        f'<span class="{"good" if kept else "bad"}">{score.drop:.4g} {escape(score.unit)} lost{asked}</span>. '
        f"{escape(score.judged_on)}{looks}</p>"
    )
