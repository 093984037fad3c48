"""Memory that was freed goes back to the system, where the allocator would keep it."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
from collections.abc import Callable
from typing import Any

import psutil

ENOUGH = 64 << 20  # bytes by which the process must have grown since: free pages are looked for one by one

_least = 0  # bytes that were resident after the last look, or fewer since


def trim() -> None:
    """Give free pages back where the process has grown by ENOUGH since it last did so; only glibc can (`malloc_trim`).

    Looking takes milliseconds, and what is given back must be had anew: of small models that would take a tenth of a
    run.
    """
    global _least
    _least = min(_least, now := resident())
    if now >= _least + ENOUGH:
        _give_back()


def collect() -> None:
    """Free what only cycles hold, and give it back."""
    gc.collect()
    _give_back()


def resident() -> int:
    """Bytes of this process that are in memory."""
    found: int = _process(os.getpid()).memory_info().rss
    return found


def _give_back() -> None:
    global _least
    if (malloc_trim := _malloc_trim()) is not None:
        malloc_trim(0)
    _least = resident()


@functools.cache
def _process(pid: int) -> psutil.Process:
    """To find out about a process takes longer than to ask it; a child that was forked is another one."""
    return psutil.Process(pid)


@functools.cache
def _malloc_trim() -> Callable[[int], Any] | None:
    try:
        found: Any = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    found.argtypes = [ctypes.c_size_t]
    return found  # type: ignore[no-any-return]


__all__ = ["ENOUGH", "collect", "resident", "trim"]
