"""Where fetched and derived files live: one cache folder, `LWGRAPH_ZOO_CACHE` or ~/.cache/lwgraph-zoo."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]


def root() -> Path:
    """The cache folder."""
    return Path(os.environ.get("LWGRAPH_ZOO_CACHE") or "~/.cache/lwgraph-zoo").expanduser()


def folder(name: str) -> Path:
    """A folder of the cache, made when needed: downloads, unpacked, models, arrays, venvs, results."""
    path = root() / name
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends well: no file is found half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        new = Path(scratch) / path.name
        yield new
        new.replace(path)


def arrays(name: str, made_from: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays that `make` returns, kept on disk under a name that tells what they were made from.

    Args:
        name: what the arrays are, for the file name.
        made_from: everything the result depends on (source files, seeds, a version of the recipe).
        make: called when no file is kept yet.
    """
    digest = hashlib.sha256(made_from.encode()).hexdigest()[:12]
    path = folder("arrays") / f"{name}-{digest}.npz"
    if not path.exists():
        with replacing(path) as new:
            np.savez(new, **make())
    with np.load(path) as kept:
        return {key: kept[key] for key in kept.files}


def stamp(path: Path) -> str:
    """Changes when the file does."""
    facts = path.stat()
    return f"{path.name}:{facts.st_size}:{facts.st_mtime_ns}"
