"""Formats numbers for people."""

from __future__ import annotations


def count(number: int | None) -> str:
    """1234567 -> "1,234,567"; None -> "unknown"."""
    return "unknown" if number is None else f"{number:,}"


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


def loss(drop: float, unit: str) -> str:
    """What a metric of a unit ("of 1", "dB" or none) lost: 0.0043 of 1 -> "0.43 points"; 0.12 dB -> "0.12 dB"."""
    if unit == "of 1":
        return f"{100 * drop:.2f} points"
    return f"{drop:.3g} {unit}".rstrip()


def times(speed: float | None) -> str:
    """A speed-up: 2 -> "2.00x"; None, where nothing was timed -> ""."""
    return "" if speed is None else f"{speed:.2f}x"
