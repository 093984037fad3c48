"""Temporary folders that do not outlive their process: what a killed one left goes when the next is made."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import tempfile
import time
import weakref
from pathlib import Path
from typing import IO, Any

PREFIX = "lwgraph-"
_LOCK = ".lock"  # in each folder, locked as long as its process lives
_YOUNG = 60.0  # seconds in which a folder may not be locked yet


class TemporaryFolder:
    """A new folder, `path`, until `remove`, the end of a `with` block, of this object, or of the process."""

    def __init__(self) -> None:
        _sweep()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = open(self.path / _LOCK, "w", encoding="utf8")  # noqa: SIM115 - open as long as the folder is used
        _try_lock(lock)
        self._end = weakref.finalize(self, _remove, self.path, lock)

    def remove(self) -> None:
        """Remove the folder with all that is in it; at once, and once only."""
        self._end()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()


def _remove(path: Path, lock: IO[str]) -> None:
    """The lock goes last: a folder without one is known to nobody."""
    for each in path.iterdir() if path.exists() else ():
        if each.is_dir():
            shutil.rmtree(each, ignore_errors=True)
        elif each.name != _LOCK:
            with contextlib.suppress(OSError):
                each.unlink()
    shutil.rmtree(path, ignore_errors=True)
    lock.close()


def _try_lock(lock: IO[str]) -> bool:
    """Lock an open file; whether nobody else has. Without file locks (Windows) never."""
    try:
        fcntl: Any = importlib.import_module("fcntl")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def _sweep() -> None:
    """Remove the folders of processes that are gone, whichever machine or container they ran in."""
    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError):
            if time.time() - lock.stat().st_mtime < _YOUNG:
                continue
            with open(lock, "a", encoding="utf8") as file:
                if _try_lock(file):
                    _remove(lock.parent, file)
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):  # its process was killed before it was locked
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime >= _YOUNG:
                path.rmdir()  # of empty folders only


__all__ = ["PREFIX", "TemporaryFolder"]
