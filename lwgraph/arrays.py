"""Types of numpy arrays, by what is in them, and of their sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Index = npt.NDArray[np.intp]  # what numpy sorts, finds and indexes with
Weights = npt.NDArray[np.floating[Any]]  # of any width, as a model holds them
Shapes = Mapping[str, Sequence[int | None]]  # sizes by the name of a value; None where one is unknown

__all__ = ["Array", "Floats", "Index", "Ints", "Shapes", "Weights"]
