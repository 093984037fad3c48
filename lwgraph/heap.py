"""Memory that was freed goes back to the system, where the allocator would keep it."""

from __future__ import annotations

import ctypes
import functools
import gc
from collections.abc import Callable
from typing import Any


def trim() -> None:
    """Give free pages back, in microseconds where there are none; only glibc can (`malloc_trim`)."""
    if (give_back := _malloc_trim()) is not None:
        give_back(0)


def collect() -> None:
    """Free what only cycles hold, and give it back."""
    gc.collect()
    trim()


@functools.cache
def _malloc_trim() -> Callable[[int], Any] | None:
    try:
        found: Any = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    found.argtypes = [ctypes.c_size_t]
    return found  # type: ignore[no-any-return]


__all__ = ["collect", "trim"]
