"""How much memory a run may take for statistics, fits and trials."""

from __future__ import annotations

import psutil

SHARE = 0.5  # of what is free, where nothing is stated
LEAST = 256 << 20  # bytes with which any run can work


def allowance(stated: float | None) -> int:
    """Bytes that a run may take together: what was stated, else half of what is free."""
    found = SHARE * psutil.virtual_memory().available if stated is None else stated
    return max(LEAST, int(found))


__all__ = ["LEAST", "SHARE", "allowance"]
