"""Types of numpy arrays, by what is in them, and of their sizes; what integers cannot be divided by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Index = npt.NDArray[np.intp]  # what numpy sorts, finds and indexes with
Weights = npt.NDArray[np.floating[Any]]  # of any width, as a model holds them
Shapes = Mapping[str, Sequence[int | None]]  # sizes by the name of a value; None where one is unknown
SLAB = 1 << 22  # entries; float64 copies of them take 32 MB


def slabs(shape: Sequence[int], axis: int = 0) -> Iterator[slice]:
    """Cuts an array along one axis, so that what is computed of it takes little memory: SLAB entries at a time."""
    size, length = int(np.prod(shape)), shape[axis]
    step = max(1, SLAB * length // max(size, 1))
    for start in range(0, max(length, 1), step):
        yield slice(start, start + step)


def division_trap(a: Array, b: Array) -> str:
    """What in a / b of integers raises a signal on processors, in words; "" when nothing does."""
    if (b == 0).any():
        return "by zero"
    if a.dtype.kind == "i" and a.dtype.itemsize >= 4:  # smaller ones are widened first
        least = np.iinfo(a.dtype).min
        if ((a == least) & (b == -1)).any():
            return f"{least}, the least {a.dtype}, by -1"
    return ""


__all__ = ["Array", "Floats", "Index", "Ints", "Shapes", "Weights", "division_trap", "slabs"]
