"""Presets: what is asked for where the user states nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from lwgraph.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Preset:
    """One way to ask. Every option that the user states wins over it.

    Attributes:
        summary: for people.
        objective: what is minimized among the plans that keep all promises; see `Request.objective`.
        trials: seconds of running trial plans in the search, at most.
        drop_factor: the promise on the metric, as a multiple of the metric's default: of one point, of 0.1 dB, or, in
            dB against the original, of the noise.
        approximate: whether anything that changes the outputs by more than rounding may be done at all.
    """

    summary: str
    objective: str = "latency"
    trials: float = 60.0
    drop_factor: float = 1.0
    approximate: bool = True


DEFAULT = "balanced"
PRESETS = {
    "fast": Preset(
        "as fast as two points of accuracy allow; searches for three minutes at most", "latency", 180.0, 2.0
    ),
    "balanced": Preset("as fast as one point of accuracy allows; searches for one minute at most"),
    "small": Preset("as few bytes as one point of accuracy allows; searches for one minute at most", objective="bytes"),
    "lossless": Preset("exact and rounding passes only; searches nothing", "latency", 0.0, approximate=False),
}


def find_preset(name: str | None) -> Preset:
    """The preset of this name, None for the default; UsageError with a near miss when there is none."""
    name = DEFAULT if name is None else name
    if name not in PRESETS:
        raise UsageError(f"--preset is '{name}'{did_you_mean(name, PRESETS)}")
    return PRESETS[name]


__all__ = ["DEFAULT", "PRESETS", "Preset", "find_preset"]
