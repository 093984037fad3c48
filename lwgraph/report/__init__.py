"""JSON and HTML reports of an optimization."""

from lwgraph.report.html import to_html
from lwgraph.report.record import Check, Facts, Layer, PassRun, Report, ScoreRecord, SiteChoice, Stage, StageRun
from lwgraph.report.write import write

__all__ = [
    "Check",
    "Facts",
    "Layer",
    "PassRun",
    "Report",
    "ScoreRecord",
    "SiteChoice",
    "Stage",
    "StageRun",
    "to_html",
    "write",
]
