"""What a search measured, kept on disk as JSON, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lwgraph.executor import Executor, Feeds, settings
from lwgraph.plan.price.price_table import cache_folder


class Kept:
    """A dictionary of plain data, infinite numbers too, written at each change.

    Never fails: `warning` says why nothing is kept.

    Args:
        path: of the file; None: nothing is kept.
        what: for the warning, "the search is".
    """

    def __init__(self, path: Path | None, what: str) -> None:
        self.path, self.what, self.warning = path, what, ""
        self._rows: dict[str, Any] = {}
        try:
            read = json.loads(path.read_text("utf8")) if path is not None else {}
        except (OSError, ValueError):  # not there, or cut off
            read = {}
        if isinstance(read, dict):
            self._rows = read

    def get(self, key: str) -> Any:
        """What was put there; None when nothing was."""
        return self._rows.get(key)

    def put(self, key: str, value: Any) -> None:
        """Remember at once: the file appears by renaming."""
        self._rows[key] = value
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside = self.path.with_suffix(f".{os.getpid()}")
            beside.write_text(json.dumps(self._rows), "utf8")
            beside.replace(self.path)
        except OSError as error:
            self.warning = f"{self.what} not kept: '{self.path}' cannot be written ({error}); set LWGRAPH_CACHE"


def kept_path(kind: str, facts: Sequence[object], *feeds: Sequence[Feeds], folder: Path | None = None) -> Path:
    """The file for what was measured of something under all of `facts` and on all of `feeds`.

    Args:
        kind: the folder in the cache, with a version of what the values mean.
        facts: texts that tell this apart from others.
        feeds: samples; names, types, shapes and values count.
        folder: the cache's; None for the user's.
    """
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(f"{fact}\n".encode())
    for samples in feeds:
        digest.update(f"{len(samples)} samples\n".encode())
        for feed in samples:
            for name, value in sorted(feed.items()):
                array = np.ascontiguousarray(value)
                digest.update(f"{name}{array.dtype}{array.shape}".encode())
                digest.update(array.tobytes())
    return (folder or cache_folder()) / kind / f"{digest.hexdigest()[:32]}.json"


def facts_of(executor: Executor) -> tuple[object, ...]:
    """What tells one executor from another."""
    known = settings(executor)
    return executor.name, known.version, known.threads


__all__ = ["Kept", "facts_of", "kept_path"]
