"""Quantization: every layer and tensor, float against integers.

Shows `details["quantization"]`: "samples", "outputs" (name -> decibels), "layers" and "tensors" (lists in graph order),
"histograms" (of the worst layers, by name), "loss", "integer_loss", "float_ms", "ms", and "failed" (why a part is
missing). Decibels are 10 log10(signal power / error power); None: nothing lost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lwgraph.report.chart import ChartAxis, Point, Series, scatter
from lwgraph.report.parts import table
from lwgraph.report.record import Report

Dicts = Sequence[Mapping[str, Any]]


def quantization(report: Report) -> str:
    """Summary, a picture of the layers along the network, and tables: worst layers first, then every tensor."""
    found = report.details.get("quantization")
    if not found or not found.get("layers"):
        return ""
    layers: Dicts = found["layers"]
    return (
        f"<h2>Quantization</h2><p>{escape(_summary(found, layers))}</p>{_picture(layers)}"
        f"{_layers(layers, found.get('histograms') or {})}"
        f"{_tensors(found.get('tensors') or ())}"
    )


def _summary(found: Mapping[str, Any], layers: Dicts) -> str:
    integer = sum(layer["precision"] == "integer" for layer in layers)
    words = f"{integer} of {len(layers)} layers compute in integers."
    for name, value in (found.get("outputs") or {}).items():
        words += f" Output '{name}': " + ("no error." if value is None else f"{value:.1f} dB.")
    if found.get("samples"):
        words += f" Measured on {found['samples']} samples."
    if found.get("loss") is not None and found.get("integer_loss") is not None:
        words += (
            f" Relative squared error of the outputs {found['loss']:.3g}; with everything in integers "
            f"{found['integer_loss']:.3g}."
        )
    if found.get("float_ms") and found.get("ms"):
        words += f" {found['float_ms']:.3g} ms in float, {found['ms']:.3g} ms now."
    if found.get("failed"):
        words += f" {found['failed']}"
    return words


def _picture(layers: Dicts) -> str:
    """Decibels at each layer, from the input to the output."""

    def points(precision: str, key: str) -> list[Point]:
        return [
            Point(float(i), float(n[key]), f"{n['name']} ({n['op_type']}, {n['precision']}): {n[key]:.1f} dB")
            for i, n in enumerate(layers)
            if n.get(key) is not None and n["precision"] == precision
        ]

    series = [
        Series("at the layer, in integers", points("integer", "sqnr"), "var(--bar)", 3.5, line=True),
        Series("at the layer, in float", points("float", "sqnr"), "var(--good)", 4),
        Series("at the output, this layer alone", points("integer", "output"), "var(--soft)", 2.5, hollow=True),
    ]
    series = [s for s in series if s.points]
    if sum(len(s.points) for s in series) < 2:
        return ""
    return scatter(series, ChartAxis("layer"), ChartAxis("signal over error, dB"))


def _histogram(name: str, found: Mapping[str, Any]) -> str:
    """What a layer puts out, in float and in integers, as two rows of bars on one scale; counts as their square roots,
    so that tails show."""
    rows, tall, wide = (("float", "real", "var(--bar)"), ("integers", "integer", "var(--good)")), 64, 8
    most = max(1, *found["real"], *found["integer"])
    step = (found["high"] - found["low"]) / len(found["real"])
    parts = []
    for row, (word, key, fill) in enumerate(rows):
        bottom = (row + 1) * (tall + 20) - 4
        parts.append(f'<text x="0" y="{bottom - tall - 4}">{word}</text>')
        for at, count in enumerate(found[key]):
            height, start = tall * math.sqrt(count / most), found["low"] + at * step
            about = f"{word}, {start:.4g} to {start + step:.4g}: {count}"
            place = f'x="{at * wide}" y="{bottom - height:.1f}" width="{wide - 1}" height="{height:.1f}"'
            parts.append(f'<rect {place} fill="{fill}"><title>{escape(about)}</title></rect>')
    across, bottom = wide * len(found["real"]), 2 * (tall + 20)
    parts.append(f'<text x="0" y="{bottom + 12}">{found["low"]:.3g}</text>')
    parts.append(f'<text x="{across}" y="{bottom + 12}" text-anchor="end">{found["high"]:.3g}</text>')
    picture = f'<svg viewBox="0 0 {across} {bottom + 16}" width="{across}" role="img">{"".join(parts)}</svg>'
    return f"<details><summary><code>{escape(name)}</code></summary>{picture}</details>"


def _layers(layers: Dicts, histograms: Mapping[str, Mapping[str, Any]]) -> str:
    worst = sorted(layers, key=lambda n: math.inf if n.get("sqnr") is None else float(n["sqnr"]))
    rows = [
        [
            _histogram(n["name"], histograms[n["name"]])
            if n["name"] in histograms
            else f"<code>{escape(str(n['name']))}</code>",
            escape(str(n["op_type"])),
            escape(str(n["precision"])),
            _number(n.get("sqnr"), ".1f"),
            _number(n.get("output"), ".1f"),
            _number(n.get("weight"), ".1f"),
            _share(n.get("saturated")),
            _number(n.get("float_ms"), ".4g"),
            _number(n.get("integer_ms"), ".4g"),
            escape(str(n.get("reason") or "")),
        ]
        for n in worst
    ]
    head = [
        ("layer, worst first", False),
        ("operator", False),
        ("computes in", False),
        ("at the layer, dB", True),
        ("alone, at the output, dB", True),
        ("weights, dB", True),
        ("saturated", True),
        ("float, ms", True),
        ("integer, ms", True),
        ("why in float", False),
    ]
    told = "<p>Open a layer for the histogram of what it puts out, on the range of its grid.</p>" if histograms else ""
    return told + table(head, rows)


def _tensors(tensors: Dicts) -> str:
    if not tensors:
        return ""
    rows = [
        [
            f"<code>{escape(str(t['name']))}</code>",
            escape(str(t["type"])),
            f"{t['low']:.4g} to {t['high']:.4g}",
            f"{t['grid_low']:.4g} to {t['grid_high']:.4g}",
            f"{t['scale']:.4g}",
            str(t["zero"]),
            _share(t["saturated"]),
            f"{100 * t['used']:.0f} %",
            _number(t.get("rounding"), ".1f"),
            _number(t.get("sqnr"), ".1f"),
        ]
        for t in tensors
    ]
    head = [
        ("tensor", False),
        ("type", False),
        ("on the data", True),
        ("grid", True),
        ("scale", True),
        ("zero", True),
        ("saturated", True),
        ("grid used", True),
        ("own rounding, dB", True),
        ("in all, dB", True),
    ]
    return f"<details><summary>{len(rows)} quantized tensors</summary>{table(head, rows)}</details>"


def _number(value: Any, form: str) -> str:
    return "" if value is None else format(float(value), form)


def _share(value: Any) -> str:
    return "" if value is None else f"{100 * float(value):.2g} %"
