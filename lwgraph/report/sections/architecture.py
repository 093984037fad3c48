"""Before and after as a graph of layers: a row for each layer of the cleaned model, what stands for it beside it.

Shows `sites`, `layers`, and `details["layer_times"]`: "before" and "after" (node name -> [operator, ms]) and "edges"
(pairs of layers).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lwgraph.report.chart import Series, legend
from lwgraph.report.record import Layer, Report, SiteChoice
from lwgraph.report.words import several

WIDTH, STEP, THICK, TOP = 420, 36, 14, 22
BAR, SPINE = 185, 50  # widths: of the longest block of each side, of the graph between them
MIDDLE = BAR + SPINE / 2
LEAST = 3  # width of a block that takes next to no time
COLOURS = {"float32": "var(--bar)", "float64": "var(--bar)", "int8": "var(--good)"}


def architecture(report: Report) -> str:
    """The picture; "" where no choice was made for any layer."""
    sites = [site for site in report.sites if site.operator not in ("channels", "block")]
    if not sites:
        return ""
    standing: dict[str, list[Layer]] = {}
    for layer in report.layers:
        standing.setdefault(layer.stands_for or layer.name, []).append(layer)
    times: Mapping[str, Any] = report.details.get("layer_times") or {}
    before, after = ({name: row[1] for name, row in (times.get(key) or {}).items()} for key in ("before", "after"))
    timed = bool(before and after)
    taken = [max(before.get(s.name, 0.0), sum(after.get(x.name, 0.0) for x in standing.get(s.name, ()))) for s in sites]
    longest = max(taken)
    scale = (BAR - 10) / longest if timed and longest > 0 else 0.0
    rows = {site.name: TOP + STEP * (number + 0.7) for number, site in enumerate(sites)}
    narrower = {site.name: site.form or "" for site in report.sites if site.operator == "channels"}
    parts = [_heads(timed), *(_edge(rows[a], rows[b]) for a, b in times.get("edges") or () if a in rows and b in rows)]
    for site in sites:
        parts.append(_row(site, standing.get(site.name, []), rows[site.name], before, after, scale, narrower))
    height = TOP + STEP * len(sites) + 8
    width = (
        "The width of a block is its time in the runtime's own profile"
        if timed
        else "The times of the layers are not known: all blocks are equally wide"
    )
    return (
        f"<h2>Layers before and after</h2><p>{several(len(sites), 'layer')}, from the input at the top to the output. "
        f"{width}. The colour of a block is what the layer computes in, and a frame marks a lighter form. "
        "Rest on a block, or tap it, for its facts.</p>"
        f'<div class="chart zoomable" tabindex="0"><svg viewBox="0 0 {WIDTH} {height}" width="100%" role="img" '
        f'aria-label="layers before and after">{"".join(parts)}</svg></div>{_legend(report.layers)}'
    )


def colour(precision: str) -> str:
    """The colour of what a layer computes in."""
    if precision in COLOURS:
        return COLOURS[precision]
    if "16" in precision:
        return "var(--half)"
    return "var(--small)"


def _heads(timed: bool) -> str:
    unit = ", ms" if timed else ""
    return (
        f'<text x="{MIDDLE - SPINE / 2}" y="14" text-anchor="end">before{unit}</text>'
        f'<text x="{MIDDLE + SPINE / 2}" y="14">after{unit}</text>'
    )


def _edge(above: float, below: float) -> str:
    """A line between neighbours; an arc around the layers between others."""
    far = round(abs(below - above) / STEP)
    if far <= 1:
        return f'<line class="edge" x1="{MIDDLE}" y1="{above}" x2="{MIDDLE}" y2="{below}"/>'
    bend = MIDDLE + min(SPINE / 2 - 4, 8 + 4 * far) * 4 / 3
    path = f"M{MIDDLE} {above}C{bend:.1f} {above + 6} {bend:.1f} {below - 6} {MIDDLE} {below}"
    return f'<path class="edge" d="{path}"/>'


def _row(
    site: SiteChoice,
    there: Sequence[Layer],
    y: float,
    before: Mapping[str, float],
    after: Mapping[str, float],
    scale: float,
    narrower: Mapping[str, str],
) -> str:
    shown = site.name if len(site.name) <= 56 else "\u2026" + site.name[-54:]
    parts = [
        f'<text class="name" x="0" y="{y - THICK / 2 - 4}"><title>{escape(site.name)}</title>{escape(shown)}</text>'
    ]
    ms = before.get(site.name)
    width = _width(ms, scale)
    about = f"before: {site.name} ({site.operator} {site.shape}){_told(ms)}"
    right = MIDDLE - SPINE / 2
    parts.append(_block(right - width, y, width, "var(--other)", about, framed=False))
    left = MIDDLE + SPINE / 2
    for layer in there:
        ms = after.get(layer.name)
        width = _width(ms, scale) / (1 if scale else len(there))
        words = [f"after: {layer.name} ({layer.operator} {layer.shape}), {layer.precision}", layer.codes, layer.form]
        words.append(narrower.get(site.name, ""))
        framed = bool(layer.form or narrower.get(site.name))
        about = ", ".join(word for word in words if word) + _told(ms) + (f". {site.reason}" if site.reason else "")
        parts.append(_block(left, y, width - 1, colour(layer.precision), about, framed=framed))
        left += width
    if not there:
        parts.append(f'<text x="{left}" y="{y + 4}">removed</text>')
    parts.append(f'<circle cx="{MIDDLE}" cy="{y}" r="3.5" fill="var(--soft)"/>')
    return f"<g>{''.join(parts)}</g>"


def _width(ms: float | None, scale: float) -> float:
    return BAR / 3 if not scale else max(LEAST, scale * (ms or 0.0))


def _told(ms: float | None) -> str:
    return "" if ms is None else f": {ms:.3g} ms"


def _block(x: float, y: float, width: float, fill: str, about: str, *, framed: bool) -> str:
    frame = ' stroke="var(--ink)" stroke-width="2"' if framed else ""
    place = f'x="{x:.1f}" y="{y - THICK / 2}" width="{max(width, 2):.1f}" height="{THICK}"'
    return f'<rect {place} rx="2" fill="{fill}"{frame}><title>{escape(about)}</title></rect>'


def _legend(layers: Sequence[Layer]) -> str:
    found = dict.fromkeys(layer.precision for layer in layers)
    return legend([Series("before", (), "var(--other)"), *(Series(name, (), colour(name)) for name in found)])


__all__ = ["architecture", "colour"]
