"""The page of what forms cost and gain: FORMS.md from the records of `python -m benchmarks.forms`."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks import tables

PAGE = Path(__file__).with_name("FORMS.md")
STATED = {
    "low-rank{ratio=0.5,split=spatial}": 0.003,
    "depthwise{terms=2,order=dw-pw}": 0.015,
    "shift{kind=free,ratio=1.0}": 0.05,
}


def write(results: dict[str, Any]) -> None:
    """Put all tables into the page."""
    tables.write("conditions", tables.conditions(), PAGE)
    for marker, text in (("summary", summary(results)), ("stated", stated(results)), ("details", details(results))):
        tables.write(marker, text, PAGE)


def dominated(name: str, records: dict[str, Any], precision: str) -> bool:
    """Whether another form at the layer errs no more and is no slower, one of both clearly."""
    mine = records[name]
    for other, theirs in records.items():
        if other == name or precision not in theirs or precision not in mine:
            continue
        faster, better = theirs[precision] / mine[precision], mine["fitted"] / max(theirs["fitted"], 1e-12)
        if faster >= 1 and better >= 1 and max(faster, better) > 1.05:
            return True
    return False


def timed(layer: dict[str, Any]) -> dict[str, Any]:
    """The records of a layer's forms with the speeds that were taken of these very forms."""
    found = {}
    for name, record in layer["forms"].items():
        speeds = layer.get("speeds", {}).get(name, {})
        found[name] = record | (speeds if speeds.get("form") == record["form"] else {})
    return found


def summary(results: dict[str, Any]) -> str:
    """One row per family over all layers."""
    by_family: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for case in results.values():
        for layer in case.values():
            forms = timed(layer)
            for name, record in forms.items():
                by_family.setdefault(name, []).append((record, layer | {"forms": forms}))
    rows, everything = [], []
    for name, found in sorted(by_family.items()):
        ratios = [r["fitted"] / max(r["free"], 1e-12) for r, _ in found if r["free"] > 1e-6]
        everything += ratios
        row = [
            name,
            str(len(found)),
            _percent(statistics.median(r["free"] for r, _ in found)),
            _percent(statistics.median(r["fitted"] for r, _ in found)),
        ]
        row += [f"{statistics.median(ratios):.2f}", f"{max(ratios):.2f}"] if ratios else ["", ""]
        row.append(f"{statistics.median(r['parameters'] / layer['dense'] for r, layer in found):.2f}")
        for precision in ("fp32", "int8"):
            speeds = [r[precision] for r, _ in found if precision in r]
            row.append(f"{statistics.median(speeds):.2f}" if speeds else "")
        for precision in ("fp32", "int8"):
            marks = [dominated(name, layer["forms"], precision) for r, layer in found if precision in r]
            row.append(f"{sum(marks)} of {len(marks)}")
        rows.append(row)
    header = [
        "form",
        "layers",
        "error without data",
        "refitted",
        "ratio, median",
        "ratio, worst",
        "parameters",
        "speed-up fp32",
        "speed-up int8",
        "dominated fp32",
        "dominated int8",
    ]
    text = tables.table(header, rows)
    return (
        f"{text}\n\nOver all {len(everything)} pairs: median ratio {statistics.median(everything):.2f}, "
        f"worst {max(everything):.2f}."
    )


def details(results: dict[str, Any]) -> str:
    """One table per layer."""
    parts = []
    for case, layers in results.items():
        for name, layer in layers.items():
            enough = "" if layer["samples"] >= 5 * layer["unknowns"] else ", fewer samples than five per unknown"
            rows = []
            for r in timed(layer).values():
                speeds = [f"{r[p]:.2f}" if p in r else "" for p in ("fp32", "int8")]
                ratio = f"{r['fitted'] / max(r['free'], 1e-12):.2f}"
                rows.append(
                    [
                        f"`{r['form']}`",
                        _percent(r["free"]),
                        _percent(r["fitted"]),
                        ratio,
                        f"{r['parameters']:,}",
                        *speeds,
                    ]
                )
            title = f"**{case}**, `{name}`, {layer['shape']}, {layer['dense']:,} parameters, "
            title += f"{layer['samples']:,} samples"
            header = ["form", "error without data", "refitted", "ratio", "parameters", "fp32", "int8"]
            parts.append(f"{title}{enough}\n\n{tables.table(header, rows)}")
    return "\n\n".join(parts)


def stated(results: dict[str, Any]) -> str:
    """The stated bounds on 3 x 3 layers of 128 channels and more."""
    rows = []
    for case, layers in results.items():
        for name, layer in layers.items():
            if layer["stated"]:
                cells = [
                    f"{_percent(layer['stated'][t])}{'' if layer['stated'][t] <= bound else ' *'}"
                    if t in layer["stated"]
                    else ""
                    for t, bound in STATED.items()
                ]
                rows.append([f"{case} `{name}`", layer["shape"], *cells])
    header = ["layer", "shape", *(f"`{text}` under {_percent(bound)}" for text, bound in STATED.items())]
    return tables.table(header, rows) + "\n\n\\* misses the bound."


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"
