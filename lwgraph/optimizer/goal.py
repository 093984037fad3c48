"""What the user asks for, checked before any work is done."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lwgraph.errors import UsageError, did_you_mean

TARGETS = {"ort-cpu": "ort"}  # target: the executor that stands for it


@dataclass(frozen=True)
class Goal:
    """The promises and where they must hold.

    Attributes:
        max_drop: largest loss allowed, in the metric's unit; None: the metric's own default.
        speedup: speed asked for, relative to the input; None: as fast as the accuracy allows.
        target: a key of TARGETS.
        threads: of the runtime, when timed and when judged.
        seed: of every random choice.

    Raises:
        UsageError: a value is out of range.
    """

    max_drop: float | None = None
    speedup: float | None = None
    target: str = "ort-cpu"
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_drop is not None and not (math.isfinite(self.max_drop) and self.max_drop >= 0):
            raise UsageError(f"--max-drop is {self.max_drop}; allowed: a number of at least 0, in the metric's unit")
        if self.speedup is not None and not (math.isfinite(self.speedup) and self.speedup > 0):
            raise UsageError(f"--speedup is {self.speedup}; allowed: a number over 0 (2 = half the time)")
        if self.target not in TARGETS:
            raise UsageError(f"--target is '{self.target}'{did_you_mean(self.target, TARGETS)}")
        if self.threads < 1:
            raise UsageError(f"--threads is {self.threads}; allowed: at least 1")
        if self.seed < 0:
            raise UsageError(f"--seed is {self.seed}; allowed: at least 0")
