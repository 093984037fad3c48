"""What the user asks for, checked before any work is done."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from lwgraph.errors import UsageError, did_you_mean
from lwgraph.optimizer.target import TARGETS, check_target

OBJECTIVES = ("latency", "bytes", "macs")
BUDGET = 60.0  # seconds of trials, when none are stated
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_SIZES = {
    "": 1,
    "k": 10**3,
    "kb": 10**3,
    "m": 10**6,
    "mb": 10**6,
    "g": 10**9,
    "gb": 10**9,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
}
SLACK = 1.02  # a measured time within this factor of a limit keeps it: no clock tells more


@dataclass(frozen=True)
class Goal:
    """The promises and where they must hold.

    Attributes:
        max_drop: largest loss allowed, in the metric's unit; None: the metric's own default.
        speedup: speed asked for, relative to the input; None: as fast as the accuracy allows.
        target: a key of TARGETS, a machine whose prices were imported, or the file of a table of prices.
        threads: of the runtime, when timed and when judged.
        seed: of every random choice.
        max_latency: milliseconds of one run; None: no limit.
        max_bytes: of the model; None: no limit.
        max_macs: multiply-accumulates of one run; None: no limit.
        objective: what is made little among the plans that keep all promises, of OBJECTIVES.
        budget: seconds of trials in the search.
        drop_factor: multiple of the metric's default promise, where max_drop is None.
        training: seconds of training the chosen plan; 0: none.
        approximate: whether anything that changes the outputs by more than rounding may be searched for.

    Raises:
        UsageError: a value is out of range.
    """

    max_drop: float | None = None
    speedup: float | None = None
    target: str = "ort-cpu"
    threads: int = 1
    seed: int = 0
    max_latency: float | None = None
    max_bytes: float | None = None
    max_macs: float | None = None
    objective: str = "latency"
    budget: float = BUDGET
    drop_factor: float = 1.0
    approximate: bool = True
    training: float = 0.0

    def __post_init__(self) -> None:
        if self.max_drop is not None and not (math.isfinite(self.max_drop) and self.max_drop >= 0):
            raise UsageError(f"--max-drop is {self.max_drop}; allowed: a number of at least 0, in the metric's unit")
        for option, value, meaning in (
            ("--speedup", self.speedup, "2 = half the time"),
            ("--max-latency", self.max_latency, "milliseconds of one run"),
            ("--max-bytes", self.max_bytes, "bytes of the model"),
            ("--max-macs", self.max_macs, "multiply-accumulates of one run"),
        ):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"{option} is {value}; allowed: a number over 0 ({meaning})")
        if self.objective not in OBJECTIVES:
            raise UsageError(f"--objective is '{self.objective}'{did_you_mean(self.objective, OBJECTIVES)}")
        if not (math.isfinite(self.budget) and self.budget >= 0):
            raise UsageError(f"--budget is {self.budget}; allowed: seconds, at least 0, or such as 90s, 10m, 1h")
        if not (math.isfinite(self.training) and self.training >= 0):
            raise UsageError(f"--budget is {self.training}; allowed: seconds, over 0, or such as 90s, 10m, 1h")
        if self.threads < 1:
            raise UsageError(f"--threads is {self.threads}; allowed: at least 1")
        check_target(self.target, self.threads)
        if self.seed < 0:
            raise UsageError(f"--seed is {self.seed}; allowed: at least 0")

    @property
    def limited(self) -> bool:
        """Whether anything but accuracy is promised."""
        return any(v is not None for v in (self.speedup, self.max_latency, self.max_bytes, self.max_macs))

    def limits(self, base_ms: float) -> dict[str, float]:
        """The limits by resource: "latency" in milliseconds, "bytes", "macs"."""
        times = [self.max_latency, None if self.speedup is None else base_ms / self.speedup]
        latency = min((t for t in times if t is not None), default=None)
        found = {"latency": latency, "bytes": self.max_bytes, "macs": self.max_macs}
        return {resource: limit for resource, limit in found.items() if limit is not None}

    def allows(self, milliseconds: float, base_ms: float, size: float, macs: float) -> bool:
        """Whether a plan of such figures keeps every limit; `base_ms` is the time that `speedup` is relative to."""
        return not self.violations(milliseconds, base_ms, size, macs)

    def violations(self, milliseconds: float, base_ms: float, size: float, macs: float) -> list[str]:
        """The limits that such figures break, in words."""
        found = []
        if self.speedup is not None and milliseconds * self.speedup > base_ms * SLACK:
            reached = base_ms / max(milliseconds, 1e-12)
            found.append(f"--speedup {self.speedup:g} was not reached; the best found is {reached:.2f}")
        if self.max_latency is not None and milliseconds > self.max_latency * SLACK:
            found.append(f"--max-latency {self.max_latency:g} was not reached; the best found is {milliseconds:.3g} ms")
        if self.max_bytes is not None and size > self.max_bytes:
            found.append(f"--max-bytes {self.max_bytes:,.0f} was not reached; the best found is {size:,.0f}")
        if self.max_macs is not None and macs > self.max_macs:
            found.append(f"--max-macs {self.max_macs:,.0f} was not reached; the best found is {macs:,.0f}")
        return found


def parse_seconds(text: str | float) -> float:
    """Seconds from `90`, `90s`, `10m` or `1h`; UsageError for anything else."""
    if isinstance(text, (int, float)):
        return float(text)
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-z]*)\s*", text)
    if found is None or found[2] not in _UNITS:
        raise UsageError(f"--budget is '{text}'; allowed: a number of seconds, or e.g. 90s, 10m, 1h")
    return float(found[1]) * _UNITS[found[2]]


def parse_amount(text: str | float | None, option: str) -> float | None:
    """A number from `1500000`, `1.5M`, `600kB` or `2MiB`; UsageError for anything else."""
    if text is None or isinstance(text, (int, float)):
        return None if text is None else float(text)
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?(?:e\d+)?)\s*([a-z]*)\s*", text.lower())
    if found is None or found[2] not in _SIZES:
        raise UsageError(f"{option} is '{text}'; allowed: a number, or e.g. 600k, 1.5MB, 2MiB, 3G")
    return float(found[1]) * _SIZES[found[2]]


__all__ = ["BUDGET", "OBJECTIVES", "TARGETS", "Goal", "parse_amount", "parse_seconds"]
