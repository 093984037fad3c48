"""The figures that matter most, large."""

from __future__ import annotations

from html import escape

from lwgraph.report.record import Report
from lwgraph.report.words import percent


def tiles(report: Report) -> str:
    """Speed, size, work and score of the result."""
    if len(report.stages) < 2:
        return ""
    first, last = report.stages[0], report.stages[-1]
    tiles = []
    if last.speed.startswith("not settled"):
        tiles.append(("?", f"speed {last.speed}"))
    elif last.speed:
        tiles.append((last.speed, "as fast as the input"))
    tiles.append((percent(last.facts.bytes / max(1, first.facts.bytes)), "of the input's bytes"))
    if first.facts.macs and last.facts.macs is not None:
        tiles.append((percent(last.facts.macs / first.facts.macs), "of the input's multiply-adds"))
    if report.score:
        tiles.append((f"{report.score.after:.4g}", f"{report.score.name}, was {report.score.before:.4g}"))
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in tiles)
        + "</div>"
    )
