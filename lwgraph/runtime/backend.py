"""Chooses the kernels, compiled or their NumPy stand-ins, and the number of threads."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

from lwgraph.arrays import Array
from lwgraph.runtime import kernels_numpy

VERSION = 2  # version of the compiled functions' arguments; another build is not used

try:
    from lwgraph.runtime import _kernels as compiled  # type: ignore[attr-defined, unused-ignore]

    if getattr(compiled, "VERSION", 0) != VERSION:
        compiled = None
except ImportError:
    compiled = None

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HALVES = (np.dtype(np.float16), BFLOAT16)
_LARGE = 1 << 17  # operations: with fewer than this, starting a thread costs more than it saves
_state: dict[str, ModuleType] = {}


def backend(name: str | None = None) -> str:
    """The kernels in use, "compiled" or "numpy", after switching to `name`, if given. For tests.

    Raises:
        ValueError: `name` is neither, or the kernels were not compiled.
    """
    if name is not None:
        if name not in ("compiled", "numpy") or (name == "compiled" and compiled is None):
            raise ValueError(f"there are no kernels '{name}'")
        _state["kernels"] = kernels_numpy if name == "numpy" else compiled
    return "numpy" if chosen() is kernels_numpy else "compiled"


def chosen() -> ModuleType:
    """The module of kernels; the first call warns when it must be NumPy's."""
    if "kernels" not in _state:
        if compiled is None:
            warnings.warn(
                "lwgraph's C kernels were not built (no compiler at install time, or an older build); the reference "
                "executor uses NumPy, which gives the same results more slowly; reinstall lwgraph to build them",
                RuntimeWarning,
                stacklevel=4,
            )
        _state["kernels"] = kernels_numpy if compiled is None else compiled
    return _state["kernels"]


@functools.cache
def _pool_of(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "lwgraph-kernels")


def run(name: str, args: tuple[Any, ...], threads: int, work: int) -> None:
    """Call kernel `name`, split over threads when its `work` (operations) is worth it."""
    function: Callable[..., None] = getattr(chosen(), name)
    if threads == 1 or work < _LARGE:
        function(*args, 0, 1)
        return
    futures = [_pool_of(threads).submit(function, *args, part, threads) for part in range(1, threads)]
    function(*args, 0, threads)
    for future in futures:
        future.result()


def compute_type(dtype: np.dtype[Any], what: str) -> np.dtype[Any]:
    """The type to compute in; ValueError for what is not a floating-point number."""
    if dtype in HALVES:
        return np.dtype(np.float32)
    if dtype.kind == "f" and dtype.itemsize in (4, 8):
        return dtype
    raise ValueError(f"{what} of {dtype}: float16, bfloat16, float32 or float64 are possible")


def plain(array: Array, dtype: Any) -> Array:
    """A C-contiguous array of `dtype`, copied only when it must be."""
    return np.ascontiguousarray(array, dtype)


__all__ = ["BFLOAT16", "HALVES", "backend", "chosen", "compiled", "compute_type", "plain", "run"]
