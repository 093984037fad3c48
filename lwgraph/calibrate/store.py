"""Arrays kept in memory up to a stated size, the least recently used beyond it in temporary files."""

from __future__ import annotations

import itertools
import tempfile
from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np

from lwgraph.arrays import Array
from lwgraph.errors import DataError
from lwgraph.temporary import TemporaryFolder


class Store:
    """Tuples of arrays by key. The files go when the store does, also when the interpreter ends."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._memory: OrderedDict[Hashable, tuple[Array, ...]] = OrderedDict()
        self._files: dict[Hashable, Path] = {}
        self._used = 0
        self._folder: TemporaryFolder | None = None
        self._numbers = itertools.count()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._memory or key in self._files

    def put(self, key: Hashable, arrays: tuple[Array, ...]) -> None:
        """Keep `arrays`; a key is given once."""
        self._memory[key] = arrays
        self._used += _size(arrays)
        self._shrink()

    def get(self, key: Hashable) -> tuple[Array, ...]:
        """The arrays kept under `key`; KeyError if there are none."""
        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key]
        with np.load(self._files[key]) as stored:
            arrays = tuple(stored[f"a{i}"] for i in range(len(stored.files)))
        self._memory[key] = arrays
        self._used += _size(arrays)
        self._shrink()
        return arrays

    def drop(self, key: Hashable) -> None:
        """Forget what was kept under `key`, in memory and on disk; KeyError when nothing was."""
        if key not in self:
            raise KeyError(key)
        if key in self._memory:
            self._used -= _size(self._memory.pop(key))
        if key in self._files:
            self._files.pop(key).unlink()

    def _shrink(self) -> None:
        while self._used > self._limit and len(self._memory) > 1:
            key, arrays = self._memory.popitem(last=False)
            self._used -= _size(arrays)
            if key not in self._files:
                self._files[key] = self._write(arrays)

    def _write(self, arrays: tuple[Array, ...]) -> Path:
        try:
            if self._folder is None:
                self._folder = TemporaryFolder()
            path = self._folder.path / f"{next(self._numbers)}.npz"
            named: dict[str, Any] = {f"a{i}": array for i, array in enumerate(arrays)}
            np.savez(path, **named)
        except OSError as error:
            raise DataError(
                f"statistics do not fit into the temporary folder '{tempfile.gettempdir()}': "
                f"{error.strerror}; free it, set TMPDIR, or raise the memory limit"
            ) from error
        return path


def _size(arrays: tuple[Array, ...]) -> int:
    return sum(a.nbytes for a in arrays)
