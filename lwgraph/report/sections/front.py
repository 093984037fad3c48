"""The plans that can be had: what each loses, how fast it is, and how it is picked.

Shows `details["front"]`: a list of "number", "drop", "said" (the speed), "bytes", "verdict", "why" and "chosen".
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lwgraph.report.chart import ChartAxis, Point, Series, scatter
from lwgraph.report.parts import table
from lwgraph.report.record import Report
from lwgraph.report.words import loss, size


def front(report: Report) -> str:
    """The table of plans, fastest first; "" when there is none to pick."""
    found = report.details.get("front")
    if not found:
        return ""
    unit = report.score.unit if report.score else ""
    rows = [
        [
            str(p["number"]),
            escape(loss(p["drop"], unit)),
            escape(p["said"]),
            size(p["bytes"]),
            _verdict(p),
            f"<code>lwgraph plan pick {p['number']} {escape(shlex.quote(report.source))}</code>",
        ]
        for p in found
    ]
    numbers = [(name, True) for name in ("plan", "estimated loss", "speed", "size")]
    head = [*numbers, ("promise", False), ("how to get this one", False)]
    return (
        "<h2>Available plans</h2><p>Each loses less than every faster one. Speeds are relative to "
        "the input. To get one, run its line in the folder of the model, on the machine of this run.</p>"
        f"{picture(found, unit)}{table(head, rows)}"
    )


def picture(found: Sequence[Mapping[str, Any]], unit: str) -> str:
    """Loss against speed of the plans whose speed is known, once there are two of them."""
    timed = [p for p in found if p["speed"] is not None]
    if len(timed) < 2:
        return ""
    scale = 100 if unit == "of 1" else 1

    def points(some: Sequence[Mapping[str, Any]]) -> list[Point]:
        return [Point(p["speed"], scale * p["drop"], _title(p, unit)) for p in some]

    series = [
        Series("plan", points(timed), line=True),
        Series("delivered", points([p for p in timed if p["chosen"]]), "var(--good)", 9, hollow=True),
    ]
    lost = "estimated loss, " + ("points" if unit == "of 1" else unit)
    return scatter(series, ChartAxis("speed, relative to the input"), ChartAxis(lost.removesuffix(", ")))


def _title(plan: Mapping[str, Any], unit: str) -> str:
    lost = loss(plan["drop"], unit)
    return f"plan {plan['number']}: {plan['said']}, {lost} lost, {size(plan['bytes'])}; promise {plan['verdict']}"


def _verdict(plan: Mapping[str, Any]) -> str:
    colour = {"kept": "good", "broken": "bad"}.get(plan["verdict"], "open")
    words = f'<span class="{colour}" title="{escape(plan["why"])}">{plan["verdict"]}</span>'
    return f"{words}, delivered" if plan["chosen"] else words


__all__ = ["front", "picture"]
