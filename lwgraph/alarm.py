"""Ends work that does not end by itself, such as a loop of a plug-in: an exception is raised where it is."""

from __future__ import annotations

import ctypes
import math
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

AGAIN = 5.0  # seconds after which it is raised once more, where the work swallowed it


class OutOfTime(BaseException):
    """Raised where work goes on after its time; the run catches it and delivers what it has."""


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Within: OutOfTime is raised in this thread after so many seconds, wherever it is; inf: never.

    In the main thread a signal does it, which also ends a sleep or a wait; where the program has its own use for that
    signal, and in other threads, it is raised between two steps of Python. Alarms may be nested. Work inside a library
    that does not return to Python goes on.
    """
    if math.isinf(seconds):
        yield
    elif threading.current_thread() is threading.main_thread() and _free():
        with _signalled(seconds):
            yield
    else:
        with _raised(seconds):
            yield


class _End:
    """When an alarm rings. It is gone with the frame that holds it, however that is left."""

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds


_ends: weakref.WeakSet[_End] = weakref.WeakSet()  # of the main thread


def _free() -> bool:
    return hasattr(signal, "setitimer") and signal.getsignal(signal.SIGALRM) in (signal.SIG_DFL, _ring)


def _ring(number: int, frame: Any) -> None:
    if any(time.monotonic() >= end.at for end in _ends):
        raise OutOfTime


@contextmanager
def _signalled(seconds: float) -> Iterator[None]:
    end, before = _End(seconds), signal.signal(signal.SIGALRM, _ring)
    _ends.add(end)
    _set()
    try:
        yield
    finally:
        _ends.discard(end)
        _set()
        signal.signal(signal.SIGALRM, before)


def _set() -> None:
    """Set the timer to the next end; to none where there is none."""
    left = min((end.at - time.monotonic() for end in _ends), default=0.0)
    signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3) if _ends else 0.0, AGAIN)


@contextmanager
def _raised(seconds: float) -> Iterator[None]:
    end, over, thread = _End(seconds), threading.Event(), threading.get_ident()
    watcher = threading.Thread(target=_watch, args=(weakref.ref(end), over, thread, seconds), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        del end


def _watch(end: weakref.ref[_End], over: threading.Event, thread: int, seconds: float) -> None:
    wait = max(seconds, 0.0)
    while not over.wait(wait) and end() is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(OutOfTime))
        wait = AGAIN


__all__ = ["OutOfTime", "alarm"]
