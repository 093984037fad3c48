"""Affine integer grids: which real numbers the integers of a tensor stand for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lwgraph import ir
from lwgraph.arrays import Array, slabs
from lwgraph.calibrate.thresholds import Range

LIMITS: dict[str, tuple[int, int]] = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
    "int4": (-8, 7),
    "uint4": (0, 15),
    "int32": (-(2**31), 2**31 - 1),
}
_KINDS = (np.int8, np.uint8, np.int16, np.uint16, np.int32)  # the first that holds a grid's integers stores them
_SMALLEST_SCALE = 1e-30  # keeps 1/scale finite in float32


@dataclass(frozen=True, eq=False)
class Grid:
    """real = scale * (integer - zero).

    Attributes:
        type: a key of LIMITS.
        scale: float32, shape () or (channels,).
        zero: the integers' own type (int64 here), shape of `scale`.
        axis: the axis of the channels; None for one scale.
    """

    type: str
    scale: Array
    zero: Array
    axis: int | None = None

    @property
    def dtype(self) -> ir.DataType:
        """The ONNX element type."""
        return ir.DataType[self.type.upper()]

    def equals(self, other: Grid) -> bool:
        """Whether both give every integer the same meaning."""
        return (
            self.type == other.type
            and self.axis == other.axis
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero, other.zero)
        )

    def range(self) -> tuple[float, float]:
        """The smallest and the largest real number of a grid with one scale."""
        low, high = LIMITS[self.type]
        scale, zero = float(self.scale), int(self.zero)
        return scale * (low - zero), scale * (high - zero)

    def encode(self, real: Array, limits: tuple[int, int] | None = None) -> Array:
        """The nearest integers (ties to even, saturating at the type's limits or at `limits`), no wider than they need
        to be: int8 for "int4" and "int8", uint8 for "uint4"."""
        low, high = LIMITS[self.type] if limits is None else limits
        made = np.empty(real.shape, _integer_type(*LIMITS[self.type]))
        for part, scale, zero in self._slabs(real.shape):
            made[part] = np.clip(np.rint(real[part] / scale) + zero, low, high)
        return made

    def decode(self, integers: Array, dtype: npt.DTypeLike = np.float64) -> Array:
        """The real numbers that the integers stand for, computed in float64."""
        made = np.empty(integers.shape, dtype)
        for part, real in self.decoded(integers):
            made[part] = real
        return made

    def decoded(self, integers: Array) -> Iterator[tuple[Any, Array]]:
        """The same, a slab of the first axis at a time: what to index it with, and its real numbers (float64)."""
        for part, scale, zero in self._slabs(integers.shape):
            yield part, (integers[part] - zero) * scale

    def _slabs(self, shape: tuple[int, ...]) -> Iterator[tuple[Any, Array, Array]]:
        """What to index each slab with, and the scales and zeros of its entries."""
        scale, zero = self._spread(len(shape))
        for part in slabs(shape) if shape else (...,):
            by_slab = self.axis == 0
            yield part, scale[part] if by_slab else scale, zero[part] if by_slab else zero

    def _spread(self, rank: int) -> tuple[Array, Array]:
        shape = [1] * rank
        if self.axis is not None:
            shape[self.axis] = -1
        return self.scale.astype(np.float64).reshape(shape), self.zero.reshape(shape)


def _integer_type(low: int, high: int) -> type[np.signedinteger[Any] | np.unsignedinteger[Any]]:
    return next(kind for kind in _KINDS if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)


def activation_grid(real: Range, type: str = "uint8", symmetric: bool = False) -> Grid:
    """The grid that covers `real` with a whole number as zero point, so that zero is exact.

    Both ends stay inside the grid up to half a step.
    """
    low, high = LIMITS[type]
    if symmetric:
        reach = max(-real.low, real.high)
        zero = 0 if low < 0 else (high + 1) // 2
        scale = max((reach or 1.0) / (high - zero), _SMALLEST_SCALE)
    else:
        scale = max(((real.high - real.low) or 1.0) / (high - low), _SMALLEST_SCALE)
        zero = int(np.clip(np.rint(low - real.low / scale), low, high))
    return Grid(type, np.array(scale, np.float32), np.array(zero, np.int64))


def weight_limits(type: str, reduced: bool = False) -> tuple[int, int]:
    """The integers of a weight, symmetric around its zero point: -127..127 for int8, -63..63 when reduced."""
    low, high = LIMITS[type]
    middle = 0 if low < 0 else (high + 1) // 2
    reach = (high - middle) // 2 if reduced else high - middle
    return middle - reach, middle + reach


__all__ = ["LIMITS", "Grid", "activation_grid", "weight_limits"]
