"""Measured prices on disk: SQLite, so that several processes may read and write at once."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

VERSION = 1  # part of the file name: raise it when the meaning of a row changes
SCHEMA = """
CREATE TABLE IF NOT EXISTS prices (
    key TEXT PRIMARY KEY, dense_ms REAL NOT NULL, form_ms REAL NOT NULL, rounds INTEGER NOT NULL
) WITHOUT ROWID
"""
SELECT = "SELECT dense_ms, form_ms, rounds FROM prices WHERE key = ?"
INSERT = "INSERT OR REPLACE INTO prices VALUES (?, ?, ?, ?)"


def cache_folder() -> Path:
    """LWGRAPH_CACHE when set, else the platform's folder for caches, /lwgraph."""
    chosen = os.environ.get("LWGRAPH_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "lwgraph" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "lwgraph"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lwgraph"


class PriceCache:
    """Prices by key. Never fails: where the file cannot be used, prices are kept in memory and `warning` says why."""

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or cache_folder()) / f"prices-{VERSION}.sqlite"
        self.warning = ""
        self._memory: dict[str, tuple[float, float, int]] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._connect()) as connection, connection:
                connection.execute(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    def get(self, key: str) -> tuple[float, float, int] | None:
        """(dense ms, form ms, rounds), or None when not measured yet."""
        if key in self._memory:
            return self._memory[key]
        if self.warning:
            return None
        try:
            with closing(self._connect()) as connection:
                row = connection.execute(SELECT, (key,)).fetchone()
        except sqlite3.Error as error:
            self._give_up(error)
            return None
        if row is not None:
            self._memory[key] = (float(row[0]), float(row[1]), int(row[2]))
        return self._memory.get(key)

    def put(self, key: str, dense_ms: float, form_ms: float, rounds: int) -> None:
        """Store a price; of two processes that measured the same, the later wins."""
        self._memory[key] = (dense_ms, form_ms, rounds)
        if self.warning:
            return
        try:
            with closing(self._connect()) as connection, connection:
                connection.execute(INSERT, (key, dense_ms, form_ms, rounds))
        except sqlite3.Error as error:
            self._give_up(error)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=30)

    def _give_up(self, error: Exception) -> None:
        self.warning = f"measured prices are not kept: '{self.path}' cannot be used ({error}); set LWGRAPH_CACHE"


def processor() -> str:
    """The processor's name, as precisely as the platform tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
        names = {key.strip(): value.strip() for key, value in fields.items()}
        if names.get("model name"):
            return names["model name"]
    except OSError:
        pass
    return platform.processor() or platform.machine()


__all__ = ["PriceCache", "cache_folder", "processor"]
