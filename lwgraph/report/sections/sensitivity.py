"""The effect of each removal on the network's output, as cells: one row per item, one cell per size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from lwgraph.report.record import Report

ROWS, LABEL, CELL, STEP = 60, 300, 84, 20
LOWEST, HIGHEST = 1e-5, 1.0  # losses at which a cell is empty, and full


def sensitivity(report: Report) -> str:
    """The measurements in `details["sensitivity"]`, as `Sensitivity.to_dict` gives them.

    Of many items the ROWS that matter most are drawn, and all are in the list below.
    """
    found: Sequence[dict[str, Any]] = report.details.get("sensitivity") or ()
    if not found:
        return ""
    items: dict[str, list[dict[str, Any]]] = {}
    for each in found:
        items.setdefault(each["item"], []).append(each)
    ranked = sorted(items, key=lambda name: -max(_loss(each) for each in items[name]))[:ROWS]
    shown = [name for name in items if name in set(ranked)]
    columns = max(len(items[name]) for name in shown)
    rows = "".join(_row(name, items[name], 14 + STEP * row) for row, name in enumerate(shown))
    width, height = LABEL + CELL * columns, STEP * len(shown) + 12
    more = f" The {len(shown)} of {len(items)} that matter most are drawn." if len(shown) < len(items) else ""
    return (
        "<h2>Sensitivity at the outputs</h2><p>One row for each group of channels or block, one cell for each size "
        "that was tried alone: channels kept, and the relative squared error of the network's outputs on calibration "
        f"samples that no fit has seen. Darker is worse, on a logarithmic scale.{more}</p>"
        f'<div class="chart"><svg viewBox="0 0 {width} {height}" width="{width}" style="max-width:100%" role="img">'
        f"{rows}</svg></div>"
    )


def _loss(each: dict[str, Any]) -> float:
    return math.inf if each["loss"] is None else float(each["loss"])


def _row(name: str, sizes: list[dict[str, Any]], y: int) -> str:
    short = name if len(name) <= 36 else "..." + name[-34:]
    cells = "".join(_cell(each, LABEL + CELL * column, y) for column, each in enumerate(sizes))
    return f'<text x="0" y="{y + 4}"><title>{escape(name)}</title>{escape(short)}</text>{cells}'


def _cell(each: dict[str, Any], x: int, y: int) -> str:
    loss = _loss(each)
    level = 0.0 if loss <= LOWEST else min(1.0, math.log(loss / LOWEST) / math.log(HIGHEST / LOWEST))
    text = f"{each['kept']}: {loss:.2g}" if math.isfinite(loss) else f"{each['kept']}: fails"
    about = f"{each['item']}: {each['kept']} of {each['width']} kept, {each['macs']:,} multiply-adds left, {text}"
    return (
        f'<g><title>{escape(about)}</title><rect x="{x}" y="{y - 9}" width="{CELL - 4}" height="{STEP - 3}" rx="3" '
        f'fill="var(--bad)" opacity="{0.04 + 0.6 * level:.2f}"/>'
        f'<text x="{x + 6}" y="{y + 4}">{escape(text)}</text></g>'
    )
