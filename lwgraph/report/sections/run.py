"""The run: how the best result changed with time, what each stage did, and what failed on the way.

Shows `runs`, `failures`, and `details["progress"]`: a list of "seconds", "origin", "speed" and "score", one entry for
each model that was the best so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from lwgraph.report.chart import ChartAxis, Point, Series, scatter
from lwgraph.report.parts import table
from lwgraph.report.record import Report
from lwgraph.report.words import times


def run(report: Report) -> str:
    """The picture of the best speed so far, the stages, and the failures; "" when there were none of them."""
    failures = "".join(f"<li>{escape(each)}</li>" for each in report.failures)
    parts = [_picture(report), _stages(report), f"<h3>Failures</h3><ul>{failures}</ul>" if failures else ""]
    return "<h2>The run</h2>" + "".join(parts) if any(parts) else ""


def _picture(report: Report) -> str:
    """A step for each model that became the best so far, up to the end of the run."""
    timed = [each for each in report.details.get("progress", []) if each["speed"] is not None]
    if len(timed) < 2:
        return ""
    points = [Point(each["seconds"], each["speed"], _title(each)) for each in timed]
    end = max(sum(report.seconds.values()), points[-1].x)
    points.append(Point(end, points[-1].y, f"the run ended after {end:.1f} s"))
    series = Series("best so far", points, "var(--good)", line=True, steps=True)
    return scatter(
        [series], ChartAxis("seconds since the run began"), ChartAxis("speed over the cleaned model, at first sight")
    )


def _title(moment: Mapping[str, Any]) -> str:
    score = "" if moment["score"] is None else f", score {moment['score']:.4g}"
    return f"{moment['origin']}: about {times(moment['speed'])} after {moment['seconds']:.1f} s{score}"


def _stages(report: Report) -> str:
    if not report.runs:
        return ""
    rows = [
        [
            escape(r.name),
            "" if r.predicted is None else f"{r.predicted:.1f}",
            "" if r.passes is None else f"{r.passes:.1f}",
            f"{r.seconds:.1f}",
            str(r.candidates),
            escape(r.outcome),
        ]
        for r in report.runs
    ]
    head = [("stage", False), ("passes predicted", True), ("passes", True), ("seconds", True), ("candidates", True)]
    unit = report.pass_seconds
    told = "" if unit is None else f"<p>One pass over the data took {unit:.3g} s at the start.</p>"
    return table([*head, ("outcome", False)], rows) + told


__all__ = ["run"]
