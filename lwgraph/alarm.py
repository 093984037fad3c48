"""Ends work that does not end by itself, such as a loop of a plug-in: an exception is raised where it is."""

from __future__ import annotations

import ctypes
import math
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
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
        return
    main = threading.current_thread() is threading.main_thread() and _free()
    with _heard(), _signalled(seconds) if main else _raised(seconds):
        yield


class _End:
    """When an alarm rings. It is gone with the frame that holds it, however that is left."""

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds


_ends: weakref.WeakSet[_End] = weakref.WeakSet()  # of the main thread


_hook = threading.Lock()  # held where the hook of unraisable exceptions is put in its place or taken out
_before: list[Callable[[sys.UnraisableHookArgs], object]] = []  # one for each alarm that is set: the hook before ours
_lost: set[int] = set()  # threads in which it was raised where Python drops what is raised
MOMENT = 0.01  # seconds after which it is raised once more there


@contextmanager
def _heard() -> Iterator[None]:
    """Python drops what is raised in a weak reference's callback or in __del__: there it is raised a moment later."""
    with _hook:
        _before.append(_before[0] if _before else sys.unraisablehook)
        sys.unraisablehook = _dropped
    try:
        yield
    finally:
        with _hook:
            before = _before.pop()
            if not _before and sys.unraisablehook is _dropped:
                sys.unraisablehook = before


def _dropped(what: sys.UnraisableHookArgs) -> None:
    if what.exc_type is not OutOfTime:
        (_before[0] if _before else sys.__unraisablehook__)(what)
    elif threading.current_thread() is threading.main_thread() and _ends:
        signal.setitimer(signal.ITIMER_REAL, MOMENT, AGAIN)
    else:
        _lost.add(threading.get_ident())


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
    _lost.discard(thread)
    watcher = threading.Thread(target=_watch, args=(weakref.ref(end), over, thread, seconds), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        del end


def _watch(end: weakref.ref[_End], over: threading.Event, thread: int, seconds: float) -> None:
    wait, due = max(seconds, 0.0), 0.0
    while not over.wait(wait) and end() is not None:
        if thread in _lost or time.monotonic() >= due:
            _lost.discard(thread)
            due = time.monotonic() + AGAIN
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(OutOfTime))
        wait = MOMENT


__all__ = ["OutOfTime", "alarm"]
