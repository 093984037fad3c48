"""Conjugate gradients for normal equations that are too many for a matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]


def conjugate_gradients(
    operate: Callable[[Floats], Floats],
    target: Floats,
    start: Floats,
    steps: int,
    precondition: Callable[[Floats], Floats] = lambda v: v,
    *,
    separate: bool = False,
) -> Floats:
    """`steps` preconditioned conjugate-gradient steps from `start` towards operate(v) = target.

    `operate` is a symmetric positive semidefinite linear map given as a function, so that normal equations of many
    unknowns need no matrix. Each step lowers the quadratic loss or leaves it. `separate`: the entries of the first
    axis are systems of their own, each with its own step lengths. The precision is that of `start`, where
    `operate` keeps it.
    """

    def inner(a: Floats, b: Floats) -> Floats:
        return np.asarray(np.sum(a * b, axis=tuple(range(1, a.ndim)) if separate else None, keepdims=True))

    def over(a: Floats, b: Floats) -> Floats:  # 0 where nothing is left to do
        return np.asarray(np.where((a > 0) & (b > 0), a, 0) / np.where(b > 0, b, 1))

    v = start
    residual = target - operate(v)
    direction = z = precondition(residual)
    rho = inner(residual, z)
    for _ in range(steps):
        image = operate(direction)
        step = over(rho, inner(direction, image))
        if not step.any():
            break
        v = v + step * direction
        residual = residual - step * image
        z = precondition(residual)
        rho, previous = inner(residual, z), rho
        direction = z + over(rho, previous) * direction
    return v


__all__ = ["Floats", "conjugate_gradients"]
