"""Scatter plots as inline SVG: axes with round ticks, points that tell their values, a legend."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from itertools import pairwise

WIDTH, HEIGHT = 760, 320
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 12, 46
TICKS = 6
_Place = Callable[[float, float], tuple[float, float]]  # maps data to pixels


@dataclass(frozen=True)
class Point:
    """A point and what it says when the pointer rests on it."""

    x: float
    y: float
    title: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one kind.

    Attributes:
        name: for the legend.
        points: finite; on logarithmic axes above 0, others are left out.
        colour: a CSS colour, such as `var(--good)`.
        radius: of the points, in pixels.
        line: whether to connect them, in order.
        steps: whether that line keeps each value until the next point, as of what changes at once.
        hollow: whether they are rings.
    """

    name: str
    points: Sequence[Point]
    colour: str = "var(--bar)"
    radius: float = 4
    line: bool = False
    steps: bool = False
    hollow: bool = False


@dataclass(frozen=True)
class ChartAxis:
    """A label, and whether the scale is logarithmic."""

    label: str
    log: bool = False

    def ticks(self, low: float, high: float) -> list[float]:
        """Round numbers from `low` to `high`; of a logarithmic axis 1, 2 and 5 times powers of ten, thinned."""
        if self.log:
            powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            for factors in ((1, 2, 5), (1,)):
                found = [f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high]
                if len(found) <= TICKS:
                    return found
            return found[:: math.ceil(len(found) / TICKS)]
        rough = (high - low) / TICKS
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(f * size for f in (1, 2, 5, 10) if f * size >= rough * (1 - 1e-9))
        first = math.ceil(low / step - 1e-9)
        return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]

    def bounds(self, values: Sequence[float]) -> tuple[float, float]:
        """A little more than the range of `values`."""
        low, high = min(values), max(values)
        if self.log:
            factor = max((high / low) ** 0.06, 1.1)
            return low / factor, high * factor
        margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        return low - margin, high + margin

    def share(self, value: float, low: float, high: float) -> float:
        """The position of `value` between the bounds, 0 to 1."""
        if self.log:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)


def scatter(
    series: Sequence[Series], x: ChartAxis, y: ChartAxis, *, diagonal: float | None = None, width: int = WIDTH
) -> str:
    """The plot, or "" when there is no point to show.

    Args:
        series: drawn in order, the last on top.
        x, y: the axes.
        diagonal: draw x = y, and a band of this relative width around it; both axes then have one scale.
        width: of the drawing, in pixels; it is scaled to what the page has.
    """
    kept = [(s, [p for p in s.points if _shown(p.x, x) and _shown(p.y, y)]) for s in series]
    points = [p for _, each in kept for p in each]
    if not points:
        return ""
    xs, ys = [p.x for p in points], [p.y for p in points]
    across, up = x.bounds(xs), y.bounds(ys)
    if diagonal is not None:
        across = up = x.bounds([*xs, *ys])

    def place(px: float, py: float) -> tuple[float, float]:
        left = LEFT + x.share(px, *across) * (width - LEFT - RIGHT)
        return left, TOP + (1 - y.share(py, *up)) * (HEIGHT - TOP - BOTTOM)

    parts = [_grid(x, y, across, up, place, width - RIGHT)]
    if diagonal is not None:
        parts.append(_diagonal(across, diagonal, place))
    for each, shown in kept:
        parts.append(_drawn(each, [(p, *place(p.x, p.y)) for p in shown]))
    box = f'<svg viewBox="0 0 {width} {HEIGHT}" width="100%" role="img">'
    names = legend([each for each, shown in kept if shown and each.name])
    return f'<div class="chart">{box}{"".join(parts)}</svg>{names}</div>'


def _shown(value: float, axis: ChartAxis) -> bool:
    return math.isfinite(value) and (value > 0 or not axis.log)


def _grid(
    x: ChartAxis, y: ChartAxis, across: tuple[float, float], up: tuple[float, float], place: _Place, right: int
) -> str:
    bottom = HEIGHT - BOTTOM
    parts = []
    for tick in x.ticks(*across):
        left = place(tick, up[0])[0]
        parts.append(f'<line class="grid" x1="{left:.1f}" y1="{TOP}" x2="{left:.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{left:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:.4g}</text>')
    for tick in y.ticks(*up):
        top = place(across[0], tick)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{top:.1f}" x2="{right}" y2="{top:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{top + 4:.1f}" text-anchor="end">{tick:.3g}</text>')
    middle = (TOP + bottom) / 2
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x.label)}</text>')
    parts.append(
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{escape(y.label)}</text>'
    )
    return "".join(parts)


def _diagonal(bounds: tuple[float, float], width: float, place: _Place) -> str:
    low, high = bounds
    (x1, y1), (x2, y2) = place(low, low), place(high, high)
    parts = [f'<line class="diagonal" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>']
    for factor in (1 - width, 1 + width):
        start, end = max(low, low / factor), min(high, high / factor)
        (x1, y1), (x2, y2) = place(start, start * factor), place(end, end * factor)
        parts.append(f'<line class="band" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')
    return "".join(parts)


def _drawn(series: Series, placed: Sequence[tuple[Point, float, float]]) -> str:
    parts = []
    if series.line and len(placed) > 1:
        corners = [(left, top) for _, left, top in placed]
        if series.steps:
            turns = [(after[0], before[1]) for before, after in pairwise(corners)]
            corners = [corners[0], *(c for both in zip(turns, corners[1:], strict=True) for c in both)]
        path = " ".join(f"{left:.1f},{top:.1f}" for left, top in corners)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{series.colour}" stroke-width="1.5"/>')
    fill = "none" if series.hollow else series.colour
    for point, left, top in placed:
        title = f"<title>{escape(point.title)}</title>" if point.title else ""
        parts.append(
            f'<circle cx="{left:.1f}" cy="{top:.1f}" r="{series.radius:g}" fill="{fill}" '
            f'stroke="{series.colour}" stroke-width="{2 if series.hollow else 0}">{title}</circle>'
        )
    return "".join(parts)


def standalone(chart: str) -> str:
    """The plot that `scatter` made as an SVG file, with the page's colours, light and dark; its legend is left out."""
    found = re.search(r"<svg (.*?)</svg>", chart, re.DOTALL)
    if found is None:
        return ""
    head, _, drawing = found[1].partition(">")
    style = files("lwgraph.report").joinpath("report.css").read_text("utf8")
    rules = re.findall(r"^(?::root|@media\(prefers-color-scheme|svg ).*?(?:\}\}|\})$", style, re.DOTALL | re.MULTILINE)
    paper = '<rect width="100%" height="100%" fill="var(--paper)"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {head}><style>{"".join(rules)}</style>{paper}{drawing}</svg>\n'


def legend(series: Sequence[Series]) -> str:
    """The names of series with their dots; "" for none."""
    entries = ""
    for each in series:
        fill = "none" if each.hollow else each.colour
        dot = f'<circle cx="6" cy="6" r="4" fill="{fill}" stroke="{each.colour}" stroke-width="2"/>'
        entries += f'<span><svg width="12" height="12" viewBox="0 0 12 12">{dot}</svg> {escape(each.name)}</span>'
    return f'<p class="legend">{entries}</p>' if entries else ""


__all__ = ["ChartAxis", "Point", "Series", "legend", "scatter", "standalone"]
