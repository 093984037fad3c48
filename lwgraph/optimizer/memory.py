"""How much memory a run may take for statistics, fits and trials."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field

import psutil

from lwgraph import heap

SHARE = 0.5  # of what is free, where nothing is stated
LEAST = 256 << 20  # bytes with which any run can work


def allowance(stated: float | None) -> int:
    """Bytes that a run may take together: what was stated, else half of what is free."""
    found = SHARE * psutil.virtual_memory().available if stated is None else stated
    return max(LEAST, int(found))


@dataclass
class Garbage:
    """Frees models that were let go, once they may hold more than an allowance has room for.

    Graphs are cycles, which the collector finds by the number of objects, whatever the arrays in them take: of models
    with 400 MB of weights it leaves several.

    Attributes:
        most: bytes by which this process may grow before the collector is called.
    """

    most: int
    _least: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._least = resident()

    def check(self) -> None:
        """Call the collector where the process grew by that much since its least size, or since the last call."""
        now = resident()
        if now > self._least + self.most:
            heap.collect()
            self._least = resident()
        self._least = min(self._least, now)


def resident() -> int:
    """Bytes of this process that are in memory."""
    found: int = _process(os.getpid()).memory_info().rss
    return found


@functools.cache
def _process(pid: int) -> psutil.Process:
    """To find out about a process takes longer than to ask it; a child that was forked is another one."""
    return psutil.Process(pid)


__all__ = ["LEAST", "SHARE", "Garbage", "allowance", "resident"]
