"""The peak of resident memory of a piece of work, file pages included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
measured = pytest.mark.skipif(not _CLEAR.exists(), reason="only Linux tells the peak of a piece of work")


def peak(work: Callable[[], object]) -> int:
    """By how many bytes this process grew meanwhile, at most; what `work` returns is held until then."""
    _CLEAR.write_text("5", encoding="utf8")  # the peak begins anew
    before = _of("VmRSS")
    kept = work()
    found = _of("VmHWM") - before
    del kept
    return found


def _of(what: str) -> int:
    lines = dict(line.split(":", 1) for line in _STATUS.read_text("utf8").splitlines() if ":" in line)
    return int(lines[what].split()[0]) << 10


__all__ = ["measured", "peak"]
