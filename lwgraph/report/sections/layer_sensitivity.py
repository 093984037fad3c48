"""How much the network loses by each layer alone: a bar for each, on a logarithmic scale.

Shows `details["quantization"]["layers"]` ("output" and "sqnr" in decibels) and the predicted errors of the forms in
`sites`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from lwgraph.report.record import Report

ROWS, STEP, NAMES, BAR = 40, 22, 270, 420
Row = tuple[str, float, str]  # the layer, its relative squared error, what its tooltip tells


def layer_sensitivity(report: Report) -> str:
    """The charts of what was measured in integers, and of what was predicted of forms; "" where neither is known."""
    layers = (report.details.get("quantization") or {}).get("layers") or ()
    alone, there = (
        [(n["name"], 10 ** (-n[key] / 10), f"{n[key]:.1f} dB") for n in layers if n.get(key) is not None]
        for key in ("output", "sqnr")
    )
    forms = [(s.name, s.predicted_error, str(s.form)) for s in report.sites if s.predicted_error]
    parts = [
        _chart("Integers: error at the network's outputs with this layer alone in integers", alone),
        "" if alone else _chart("Integers: error at the layer, with all that was lost before it", there),
        _chart("Lighter forms and fewer channels: predicted error of the layer", forms),
    ]
    if not any(parts):
        return ""
    return (
        "<h2>Sensitivity of the layers</h2><p>Relative squared errors, on a logarithmic scale, the worst first. "
        f"What costs most is where more bits or the dense layer help most.</p>{''.join(parts)}"
    )


def _chart(title: str, rows: Sequence[Row]) -> str:
    shown = sorted((row for row in rows if row[1] > 0 and math.isfinite(row[1])), key=lambda row: -row[1])[:ROWS]
    if not shown:
        return ""
    low, high = math.log10(shown[-1][1]) - 0.3, math.log10(shown[0][1])
    bars = "".join(_bar(row, (math.log10(row[1]) - low) / (high - low), STEP * at) for at, row in enumerate(shown))
    more = f" (the {ROWS} worst of {len(rows)})" if len(rows) > len(shown) else ""
    box = f'<svg viewBox="0 0 760 {STEP * len(shown)}" width="100%" role="img">'
    return f'<h3>{title}{more}</h3><div class="chart">{box}{bars}</svg></div>'


def _bar(row: Row, share: float, top: float) -> str:
    name, error, about = row
    shown = name if len(name) <= 36 else "\u2026" + name[-34:]
    width = BAR * share
    return (
        f"<g><title>{escape(f'{name}: {error:.3g} ({about})')}</title>"
        f'<text x="0" y="{top + 15}">{escape(shown)}</text>'
        f'<rect x="{NAMES}" y="{top + 4}" width="{width:.1f}" height="{STEP - 7}" rx="2" fill="var(--bar)"/>'
        f'<text x="{NAMES + width + 6:.1f}" y="{top + 15}">{error:.2g}</text></g>'
    )


__all__ = ["layer_sensitivity"]
