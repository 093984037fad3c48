"""Measured prices on disk: SQLite, so that several processes may read and write at once."""

from __future__ import annotations

import json
import platform
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from lwgraph.cache import cache_folder, not_kept

VERSION = 1  # part of the file name: raise it when the meaning of a row changes
SCHEMA = """
CREATE TABLE IF NOT EXISTS prices (
    key TEXT PRIMARY KEY, dense_ms REAL NOT NULL, form_ms REAL NOT NULL, rounds INTEGER NOT NULL
) WITHOUT ROWID
"""
DEVICES = "CREATE TABLE IF NOT EXISTS devices (name TEXT PRIMARY KEY, facts TEXT NOT NULL) WITHOUT ROWID"
SELECT = "SELECT dense_ms, form_ms, rounds FROM prices WHERE key = ?"
INSERT = "INSERT OR REPLACE INTO prices VALUES (?, ?, ?, ?)"
INSERT_DEVICE = "INSERT OR REPLACE INTO devices VALUES (?, ?)"


class PriceCache:
    """Prices by key. Never fails: where the file cannot be used, prices are kept in memory and `warning` says why."""

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or cache_folder()) / f"prices-{VERSION}.sqlite"
        self.warning = ""
        self._on_disk = True
        self._memory: dict[str, tuple[float, float, int]] = {}
        self._devices: dict[str, dict[str, Any]] = {}
        self._open()

    def _open(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._connect()) as connection, connection:
                connection.execute(SCHEMA)
                connection.execute(DEVICES)
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    @classmethod
    def in_memory(cls) -> PriceCache:
        """A cache that starts empty and leaves nothing behind."""
        made = cls.__new__(cls)
        made.path, made.warning, made._on_disk, made._memory, made._devices = Path(), "", False, {}, {}
        return made

    def get(self, key: str) -> tuple[float, float, int] | None:
        """(dense ms, form ms, rounds), or None when not measured yet."""
        if key in self._memory:
            return self._memory[key]
        if not self._on_disk:
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
        self.put_many([(key, dense_ms, form_ms, rounds)])

    def put_many(self, rows: Iterable[tuple[str, float, float, int]]) -> None:
        """Store many prices at once, all of them or none."""
        rows = list(rows)
        self._memory.update({key: (dense_ms, form_ms, rounds) for key, dense_ms, form_ms, rounds in rows})
        self._write(INSERT, rows)

    def count(self) -> int:
        """The number of prices."""
        if self._on_disk:
            try:
                with closing(self._connect()) as connection:
                    return int(connection.execute("SELECT COUNT(*) FROM prices").fetchone()[0])
            except sqlite3.Error as error:
                self._give_up(error)
        return len(self._memory)

    def put_device(self, name: str, facts: dict[str, Any]) -> None:
        """Remember a machine whose prices were brought here."""
        self._devices[name] = facts
        self._write(INSERT_DEVICE, [(name, json.dumps(facts, sort_keys=True))])

    def devices(self) -> dict[str, dict[str, Any]]:
        """The facts known of each machine, by name."""
        if self._on_disk:
            try:
                with closing(self._connect()) as connection:
                    found = connection.execute("SELECT name, facts FROM devices ORDER BY name").fetchall()
                return {name: json.loads(facts) for name, facts in found}
            except sqlite3.Error as error:
                self._give_up(error)
        return dict(sorted(self._devices.items()))

    def _write(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if not self._on_disk:
            return
        try:
            with closing(self._connect()) as connection, connection:
                connection.executemany(statement, rows)
        except sqlite3.Error as error:
            self._give_up(error)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=30)

    def _give_up(self, error: Exception) -> None:
        self._on_disk = False
        self.warning = not_kept("measured prices are", self.path, error)


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


__all__ = ["PriceCache", "processor"]
