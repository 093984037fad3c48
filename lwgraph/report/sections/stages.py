"""Input, cleaned model and result in one table."""

from __future__ import annotations

from html import escape

from lwgraph.report.parts import table
from lwgraph.report.record import Report, Stage
from lwgraph.report.words import count, download, size, speed


def stages(report: Report) -> str:
    """The table before and after."""
    rows = [
        [
            escape(s.name),
            count(s.facts.nodes),
            count(s.facts.parameters),
            size(s.facts.bytes),
            count(s.facts.macs),
            "" if s.milliseconds is None else f"{s.milliseconds:.3f}",
            escape(s.speed),
            _spread(s),
            "" if s.score is None else f"{s.score:.4f}",
        ]
        for s in report.stages
    ]
    head = [
        ("model", False),
        ("nodes", True),
        ("parameters", True),
        ("size", True),
        ("multiply-adds", True),
        ("ms", True),
        ("speed", True),
        ("95 % interval", True),
        ("score", True),
    ]
    told = download(report.details)
    return "<h2>Before and after</h2>" + table(head, rows) + (f"<p>{escape(told)}</p>" if told else "")


def _spread(stage: Stage) -> str:
    return "" if stage.ratio_spread is None else f"{speed(stage.ratio_spread[1])} to {speed(stage.ratio_spread[0])}"
