"""Formats numbers, and what a file holds, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lwgraph.report.record import Layer, SiteChoice


def count(number: int | None) -> str:
    """1234567 -> "1,234,567"; None -> "unknown"."""
    return "unknown" if number is None else f"{number:,}"


def short(number: float | None) -> str:
    """In three digits: 80512345 -> "80.5 M", 10570 -> "10.6 k", 999 -> "999"; None -> "unknown"."""
    if number is None:
        return "unknown"
    for unit in ("", " k", " M", " G"):
        if abs(number) < 999.5:
            return f"{number:.0f}" if not unit else f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} T"


def size(number: float) -> str:
    """Bytes with a unit: 2785168 -> "2.79 MB"."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}" if unit != "B" else f"{number:.0f} B"
        number /= 1000
    return f"{number:.3g} GB"


def speed(ratio: float) -> str:
    """Latency over the input's -> speed-up: 0.5 -> "2.00x"."""
    return f"{1 / ratio:.2f}x"


def percent(share: float) -> str:
    """0.4321 -> "43 %"."""
    return f"{100 * share:.0f} %"


def download(details: Mapping[str, Any]) -> str:
    """What `details["download"]` says: "Compressed: 2.58 MB before, 310 kB after (zstd)"; "" where it is not there."""
    found = details.get("download")
    if not found:
        return ""
    ways = ", ".join(
        f"{size(found['input'][codec])} before, {size(after)} after ({codec})"
        for codec, after in found["result"].items()
    )
    return f"Compressed, as for a download: {ways}."


def loss(drop: float, unit: str) -> str:
    """What a metric of a unit ("of 1", "dB" or none) lost: 0.0043 of 1 -> "0.43 points"; 0.12 dB -> "0.12 dB"."""
    if unit == "of 1":
        return f"{100 * drop:.2f} points"
    return f"{drop:.3g} {unit}".rstrip()


def times(speed: float | None) -> str:
    """A speed-up: 2 -> "2.00x"; None, where nothing was timed -> ""."""
    return "" if speed is None else f"{speed:.2f}x"


def several(number: int, noun: str, plural: str = "s") -> str:
    """A number with its noun: "1 layer", "3 layers"."""
    return f"{number} {noun}{plural * (number != 1)}"


def precisions(layers: Iterable[Layer]) -> str:
    """What the layers of a file compute in: "17 of 20 layers compute in int8, 3 in float32."; "" without layers."""
    found = Counter(layer.precision for layer in layers)
    total = sum(found.values())
    if len(found) < 2:
        return "".join(f"All {several(total, 'layer')} compute in {_in(precision)}." for precision in found)
    (first, number), *others = found.most_common()
    more = ", ".join(f"{n} in {_in(precision)}" for precision, n in others)
    return f"{number} of {several(total, 'layer')} compute in {_in(first)}, {more}."


def codes(layers: Sequence[Layer]) -> str:
    """What is stored as codes, and what needs no multiplier: "The weights of 9 layers are stored as 4-bit codes."."""
    kinds = Counter(layer.codes for layer in layers if layer.codes)
    if not kinds:
        return ""
    words = ", of ".join(f"{several(number, 'layer')} as {kind}" for kind, number in kinds.most_common())
    words = words.replace(" as ", " are stored as ", 1)
    shifted, work = sum(each.macs or 0 for each in layers if each.shifts), sum(layer.macs or 0 for layer in layers)
    shifts = sum((layer.macs or 0) * layer.shifts for layer in layers)
    free = f" {count(shifted)} of {count(work)} multiply-adds are {count(shifts)} shifts." if shifted else ""
    return f"The weights of {words}.{free}"


def _in(precision: str) -> str:
    stored = precision.removesuffix(" weights")
    return precision if stored == precision else f"floats from {stored} weights"


def forms(sites: Iterable[SiteChoice]) -> str:
    """How many layers have which lighter form: "3 of 20 layers have a lighter form: low-rank 2, ghost 1."."""
    layers = [site for site in sites if site.operator not in ("channels", "block")]
    names = Counter(site.form.partition("{")[0] for site in layers if site.form)
    if not names:
        return ""
    which = ", ".join(f"{name} {number}" for name, number in names.most_common())
    verb = "has" if sum(names.values()) == 1 else "have"
    return f"{sum(names.values())} of {several(len(layers), 'layer')} {verb} a lighter form: {which}."
