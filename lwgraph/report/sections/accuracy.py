"""The judged metric and the promise made on it."""

from __future__ import annotations

from html import escape

from lwgraph.report.record import Report


def accuracy(report: Report) -> str:
    """The metric before and after, and what is known of the promise."""
    score = report.score
    if score is None:
        return ""
    colour = {"kept": "good", "broken": "bad"}.get(score.verdict, "open")
    samples = "" if score.samples is None else f" on {score.samples} samples"
    promise = "" if not score.verdict else f'<span class="{colour}">The promise is {score.verdict}</span>: '
    method = f" Bounds: {score.method}." if score.method else ""
    judged = f" {score.judged}." if score.judged else ""
    beside = "".join(f" {name}: {value:.4f}." for name, value in score.beside.items())
    looks = "" if score.looks < 2 else f" {score.looks} candidates were compared."
    return (
        f"<h2>Accuracy{', unproven' * report.unproven}</h2><p>{escape(score.name)}{samples}: "
        f"{score.before:.4f} before, {score.after:.4f} after, {score.drop:.4g} {escape(score.unit)} lost. "
        f"{promise}{escape(score.text)}.{escape(method)} {escape(score.judged_on)}{looks}"
        f"{escape(judged)}{escape(beside)}</p>"
    )
