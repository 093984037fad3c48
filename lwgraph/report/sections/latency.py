"""Latency of each stage as bars."""

from __future__ import annotations

from html import escape

from lwgraph.report.record import Report, Stage
from lwgraph.report.words import percent


def latency(report: Report) -> str:
    """One bar per stage that was timed."""
    timed = [s for s in report.stages if s.ratio is not None]
    if len(timed) < 2:
        return ""
    longest = max(s.ratio or 0 for s in timed)
    bars = ""
    for row, stage in enumerate(timed):
        width, top = 210 * (stage.ratio or 0) / longest, 24 * row
        bars += (
            f'<text x="0" y="{top + 16}">{escape(stage.name)}</text>'
            f'<rect x="90" y="{top + 4}" width="{width:.1f}" height="16" rx="3" fill="var(--bar)"/>'
            f'<text x="{98 + width:.1f}" y="{top + 16}">{_told(stage)}</text>'
        )
    box = f'<svg viewBox="0 0 400 {24 * len(timed)}" width="100%" role="img">'
    return f'<h2>Latency, relative to the input</h2><div class="chart small">{box}{bars}</svg></div>'


def _told(stage: Stage) -> str:
    return "not settled" if stage.speed.startswith("not settled") else percent(stage.ratio or 0)
