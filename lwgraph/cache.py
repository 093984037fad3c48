"""What was measured and made before, in the user's cache folder: a run that was stopped goes on where it was.

Nothing here fails for want of a disk: `warning` of a `Rows` or `Models` says why nothing is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_cache_path

from lwgraph import ir
from lwgraph.errors import LwgraphError
from lwgraph.executor import Executor, Feeds

MODELS = "models-2"  # a folder in the cache; raise the number when models are made in another way
MOST_BYTES = 1 << 29  # of one model
MOST_TOTAL = 1 << 30  # of all models of all networks: those not used for longest go


def cache_folder() -> Path:
    """LWGRAPH_CACHE when set, else the platform's folder for caches, /lwgraph."""
    chosen = os.environ.get("LWGRAPH_CACHE")
    return Path(chosen) if chosen else user_cache_path("lwgraph", appauthor=False)


def cache_path(kind: str, facts: Sequence[object], *feeds: Sequence[Feeds], folder: Path | None = None) -> Path:
    """The file, without suffix, for what was found out under all of `facts` and on all of `feeds`.

    Args:
        kind: the folder in the cache, with a version of what the values mean.
        facts: texts that tell this apart from others.
        feeds: samples; names, types, shapes and values count.
        folder: the cache's; None for the user's.
    """
    return (folder or cache_folder()) / kind / digest_of(facts, *feeds)[:32]


def digest_of(facts: Sequence[object], *feeds: Sequence[Feeds]) -> str:
    """SHA-256 (hex) of texts and of samples: their names, types, shapes and values."""
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
    return digest.hexdigest()


def facts_of(executor: Executor) -> tuple[object, ...]:
    """What tells one executor from another."""
    return executor.name, getattr(executor, "version", ""), getattr(executor, "threads", "")


@contextmanager
def write_beside(path: Path) -> Iterator[Path]:
    """A file to write in place of `path`, which takes its name when the block ends well: nobody reads half a file."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def not_kept(what: str, path: Path, error: Exception) -> str:
    """The warning that `what` ("prices are") is not remembered, and the cure."""
    return f"{what} not kept: '{path}' cannot be used ({error}); set LWGRAPH_CACHE"


class Rows:
    """A dictionary of plain data, infinite numbers too, written as JSON at each change.

    Args:
        path: of the file, without suffix; None: nothing is kept.
        what: for the warning, "the search is".
    """

    def __init__(self, path: Path | None, what: str) -> None:
        self.path, self.what, self.warning = path and path.with_suffix(".json"), what, ""
        self._rows: dict[str, Any] = {}
        try:
            read = json.loads(self.path.read_text("utf8")) if self.path is not None else {}
        except (OSError, ValueError):  # not there, or cut off
            read = {}
        if isinstance(read, dict):
            self._rows = read

    def get(self, key: str) -> Any:
        """What was put there; None when nothing was."""
        return self._rows.get(key)

    def put(self, key: str, value: Any) -> None:
        """Remember at once."""
        self._rows[key] = value
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with write_beside(self.path) as beside:
                beside.write_text(json.dumps(self._rows), "utf8")
        except OSError as error:
            self.warning = not_kept(self.what, self.path, error)


class Models:
    """Models that were made of one network, by a text that says how.

    Args:
        facts: texts that tell the network, and how models are made of it, from others.
        feeds: samples that models are fitted to.
    """

    def __init__(self, facts: Sequence[object], feeds: Sequence[Feeds]) -> None:
        self.folder, self.warning = cache_path(MODELS, facts, feeds), ""

    def get(self, key: str) -> tuple[ir.Model, dict[str, Any]] | None:
        """The model of a key, and what was put beside it; None where it is not there."""
        path = self._path(key)
        try:
            beside: dict[str, Any] = json.loads(path.with_suffix(".json").read_text("utf8"))
            model = ir.load(path)
            os.utime(path)
        except (OSError, ValueError, LwgraphError):  # not there, or cut off
            return None
        return model, beside

    def put(self, key: str, model: ir.Model, beside: Mapping[str, Any]) -> None:
        """Keep a model, unless it is too large, and plain data beside it."""
        if ir.size(model) > MOST_BYTES:
            return
        path = self._path(key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with write_beside(path.with_suffix(".json")) as file:
                file.write_text(json.dumps(beside), "utf8")
            with write_beside(path) as file:
                file.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
            self._tidy()
        except OSError as error:
            self.warning = not_kept("models are", path, error)

    def _path(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.onnx"

    def _tidy(self) -> None:
        known = []
        for path in self.folder.parent.glob("*/*.onnx"):
            try:
                facts = path.stat()
            except OSError:  # another process was tidying
                continue
            known.append((facts.st_mtime, facts.st_size, path))
        total = sum(size for _, size, _ in known)
        for _, size, path in sorted(known):
            if total <= MOST_TOTAL:
                return
            path.unlink(missing_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)
            total -= size


__all__ = ["Models", "Rows", "cache_folder", "cache_path", "facts_of", "not_kept", "write_beside"]
