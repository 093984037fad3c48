"""The coupling of channels as a picture: layers across in the order of the model, one row for each group."""

from __future__ import annotations

from html import escape
from typing import Any

from lwgraph.report.record import Report

ROWS, LABEL, WIDTH, STEP = 60, 260, 1040, 18


def coupling(report: Report) -> str:
    """The groups in `details["coupling"]`: `{"layers": [name], "groups": [{name, channels, parameters, makers, readers,
    frozen}]}`. Of a large model the ROWS groups with most parameters are drawn, the others counted.
    """
    found = report.details.get("coupling")
    if not found or not found["groups"]:
        return ""
    groups: list[dict[str, Any]] = found["groups"]
    weights = [group["channels"] * group["parameters"] for group in groups]
    chosen = sorted(sorted(range(len(groups)), key=lambda i: -weights[i])[:ROWS])
    shown = [groups[i] for i in chosen]
    touched = {name for group in shown for name in (*group["makers"], *group["readers"])}
    layers = [name for name in found["layers"] if name in touched]
    place = {name: LABEL + 12 + (WIDTH - LABEL - 24) * i / max(1, len(layers) - 1) for i, name in enumerate(layers)}
    rows = "".join(_row(group, place, 14 + STEP * row) for row, group in enumerate(shown))
    height = STEP * len(shown) + 12
    picture = f'<div class="chart"><svg viewBox="0 0 {WIDTH} {height}" width="100%" role="img">{rows}</svg></div>'
    hidden = len(groups) - len(shown)
    more = f" The {len(shown)} largest of {len(groups)} groups are drawn." if hidden else ""
    return (
        "<h2>Channels that can only be removed together</h2><p>One row for each group of channels: full dots are "
        "the layers that make them, rings those that read them, from the first layer on the left to the last. "
        f"Pale groups cannot be pruned; hover over a row for the reason.{more}</p>{picture}"
    )


def _row(group: dict[str, Any], place: dict[str, float], y: int) -> str:
    known = [place[name] for name in (*group["makers"], *group["readers"]) if name in place]
    about = f"{group['name']}: {group['channels']} channels, {group['parameters']:,} parameters each"
    about += f"; frozen: {group['frozen']}" if group["frozen"] else ""
    name = group["name"] if len(group["name"]) <= 30 else "..." + group["name"][-28:]
    line = ""
    if known:
        ends = f'x1="{min(known):.1f}" x2="{max(known):.1f}" y1="{y}" y2="{y}"'
        line = f'<line {ends} stroke="var(--bar)" stroke-width="2"/>'
    dots = "".join(
        f'<circle cx="{place[n]:.1f}" cy="{y}" r="4" fill="var(--paper)" stroke="var(--bar)" stroke-width="2"/>'
        for n in group["readers"]
        if n in place
    )
    dots += "".join(
        f'<circle cx="{place[n]:.1f}" cy="{y}" r="4.5" fill="var(--bar)"/>' for n in group["makers"] if n in place
    )
    pale = ' opacity="0.35"' if group["frozen"] else ""
    return (
        f'<g{pale}><title>{escape(about)}</title><text x="0" y="{y + 4}">{escape(name)}</text>'
        f'<text x="{LABEL - 10}" y="{y + 4}" text-anchor="end">{group["channels"]}</text>{line}{dots}</g>'
    )
