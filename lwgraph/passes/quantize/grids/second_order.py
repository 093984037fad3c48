"""Rounds a weight to integers so that the layer's output changes least, by the second moments of its inputs.

The error of rounding W to W' = S Q (S a scale per row, Q integers) is tr((W - W') H (W - W')^T) with H the moments of
the inputs. A group of a layer has W (o, D) and H (D, D); where shapes begin with "...", several groups of one size may
be rounded at once, which takes a depthwise layer no longer than a dense one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lwgraph.arrays import Floats

_BLOCK = 128
_DAMPING = 1e-3  # share of H's mean diagonal that is added to it, against zero eigenvalues
_ADAM = (0.9, 0.999)
_LITTLE = 0.02  # share of the loss that a sweep must have gained for another one: after GPTQ the first seldom does
# What a grid has nearest to the real values (..., o) of one column, whose number is the second argument: one for all
# groups, or an array (...).
Nearest = Callable[[Floats, Any], Floats]


def row_scales(weight: Floats, limit: int, importance: Floats | None = None) -> Floats:
    """(..., o) the step of each row's symmetric grid -limit..limit, of least squared error.

    Tried are reaches from the row's largest magnitude down to 40 % of it (80 % when limit is over 31, where clipping
    never pays much). Whatever is chosen, the largest weight comes to lie on +-limit, so that the scale can be read off
    the rounded weights again.

    Args:
        weight: (..., o, D).
        limit: 127 for 8 bits, 7 for 4.
        importance: (..., D), the diagonal of H; None: all columns alike.
    """
    reach = np.abs(weight).max(axis=-1, initial=0.0)
    full = np.where(reach > 0, reach / limit, 1.0)
    best, lost = full, np.full(weight.shape[:-1], np.inf)
    for share in np.linspace(1.0, 0.8 if limit > 31 else 0.4, 11 if limit > 31 else 31):
        scale = (full * share)[..., None]
        error = np.square(np.clip(np.rint(weight / scale), -limit, limit) * scale - weight)
        total = error.sum(axis=-1) if importance is None else (error @ importance[..., None])[..., 0]
        best, lost = np.where(total < lost, scale[..., 0], best), np.minimum(total, lost)
    return best


def block_scales(weight: Floats, limit: int, block: int, importance: Floats | None = None) -> Floats:
    """(..., o, n) the steps of `row_scales` for every `block` columns of a row; n = ceil(D / block)."""
    parts = [np.s_[..., start : start + block] for start in range(0, weight.shape[-1], block)]
    return np.stack(
        [row_scales(weight[part], limit, None if importance is None else importance[part]) for part in parts], axis=-1
    )


def steps_of(scale: Floats, weight: Floats) -> Floats:
    """The step of every weight (..., o, D), from one per row (..., o) or one per weight."""
    return scale if scale.ndim == weight.ndim else np.broadcast_to(scale[..., None], weight.shape)


def to_nearest(weight: Floats, scale: Floats, limit: int) -> Floats:
    """(..., o, D) integers, as float64."""
    return np.clip(np.rint(weight / steps_of(scale, weight)), -limit, limit)


def loss(weight: Floats, integers: Floats, scale: Floats, moments: Floats) -> Floats:
    """(..., o) the squared output error of each row."""
    change = weight - integers * steps_of(scale, weight)
    return np.asarray(np.einsum("...od,...od->...o", change @ moments, change))


def second_order(weight: Floats, scale: Floats, limit: int, moments: Floats, *, pin: bool = True) -> Floats:
    """Round columns one after another; what each loses is made good by those still to come.

    GPTQ (Frantar, Ashkboos, Hoefler, Alistarh 2023, algorithm 1), see `eliminate`. With `pin` each row's largest weight
    keeps its place on +-limit, so that the scale can be read off the rounded weights. Rows that would lose more than by
    rounding to nearest are rounded so.

    Args:
        weight: (..., o, D).
        scale: (..., o), or (..., o, D) where columns have their own.
        moments: (..., D, D).

    Returns:
        (..., o, D) integers as float64. O(D^3 + o D^2) for each group.
    """
    nearest, steps = to_nearest(weight, scale, limit), steps_of(scale, weight)
    rounded = _on_grid(nearest, steps, limit, _pinned(weight, pin))
    found = eliminate(weight, elimination_order(moments), rounded)
    return _better(weight, scale, moments, np.rint(found / steps), nearest)


class Elimination(NamedTuple):
    """In which order columns are rounded, and what of the error of each the later ones take over.

    Attributes:
        order: (..., D) columns by falling moment.
        upper: (..., D, D), U upper triangular with U^T U = H^-1 in that order.
    """

    order: npt.NDArray[np.intp]
    upper: Floats


def elimination_order(moments: Floats) -> Elimination:
    """The order for given moments (..., D, D); where the inputs are all zero no column takes anything over. O(D^3)."""
    diagonal = np.diagonal(moments, axis1=-2, axis2=-1)
    order, mean = np.argsort(-diagonal, axis=-1, kind="stable"), diagonal.mean(-1)
    hessian = np.take_along_axis(moments, order[..., None, :], -1)
    hessian = np.take_along_axis(hessian, order[..., :, None], -2).astype(np.float64)
    at = np.arange(moments.shape[-1])
    hessian[..., at, at] += np.where(mean > 0, _DAMPING * mean, 1.0)[..., None]
    lower = np.linalg.cholesky(hessian[..., ::-1, ::-1])
    return Elimination(order, np.linalg.inv(lower[..., ::-1, ::-1]))


def eliminate(weight: Floats, elimination: Elimination, rounded: Nearest) -> Floats:
    """GPTQ for any grid: columns in the order of falling moment, what each loses made good by those still to come.

    Args:
        weight: (..., o, D).
        elimination: of the inputs' moments, see `elimination_order`.
        rounded: what is nearest on the grid.

    Returns:
        (..., o, D) real weights on the grid. O(o D^2) for each group.
    """
    order, upper = elimination
    width, rows = weight.shape[-1], order[..., None, :]
    rest = np.take_along_axis(weight, rows, -1)
    for start in range(0, width, _BLOCK):
        stop = min(start + _BLOCK, width)
        block, errors = rest[..., start:stop], np.empty((*weight.shape[:-1], stop - start))
        for column in range(stop - start):
            at = start + column
            values = rounded(block[..., column], order[at] if order.ndim == 1 else order[..., at])
            errors[..., column] = (block[..., column] - values) / upper[..., at, at, None]
            block[..., column] = values
            block[..., column + 1 :] -= errors[..., column, None] * upper[..., None, at, at + 1 : stop]
        rest[..., stop:] -= errors @ upper[..., start:stop, stop:]
    found = np.empty_like(rest)
    np.put_along_axis(found, rows, rest, -1)
    return found


def descend(
    weight: Floats, integers: Floats, scale: Floats, limit: int, moments: Floats, sweeps: int = 4, *, pin: bool = True
) -> Floats:
    """Coordinate descent from given integers, see `settle`. Arguments as in `second_order`."""
    steps = steps_of(scale, weight)
    rounded = _on_grid(np.asarray(integers, np.float64), steps, limit, _pinned(weight, pin))
    return np.asarray(np.rint(settle(weight, integers * steps, moments, rounded, sweeps) / steps))


def settle(weight: Floats, found: Floats, moments: Floats, rounded: Nearest, sweeps: int = 4) -> Floats:
    """Coordinate descent on any grid: each weight in turn is set to its best value, the others fixed.

    Never makes a row worse; a group stops when a sweep gains next to nothing. Arguments as in `eliminate`; `found`
    (..., o, D) is where it begins. (Greedy descent on the same objective: Nair and Suggala 2024, CDQuant.)
    O(sweeps * o D^2) for each group.
    """
    found, diagonal = np.array(found, np.float64), np.diagonal(moments, axis1=-2, axis2=-1)
    before, going = np.full(weight.shape[:-2], np.inf), np.ones(weight.shape[:-2], bool)
    for _ in range(sweeps):
        change = found - weight
        gradient = change @ moments  # (..., o, D), half the derivative
        lost = np.einsum("...od,...od->...", change, gradient)
        going, before = going & (lost <= (1 - _LITTLE) * before), lost
        if not going.any():
            break
        for start in range(0, weight.shape[-1], _BLOCK):
            stop = min(start + _BLOCK, weight.shape[-1])
            steps = np.zeros((*weight.shape[:-1], stop - start))
            inner = moments[..., start:stop, start:stop]
            local = gradient[..., start:stop]
            for column in range(stop - start):
                at = start + column
                power, slope = diagonal[..., at, None], local[..., column]
                moving = going[..., None] & (power > 0)
                if not moving.any():
                    continue
                step = rounded(found[..., at] - slope / np.where(power > 0, power, 1.0), at) - found[..., at]
                # A step rounded from exactly half gains nothing; leaving it out keeps every step a strict gain.
                step = np.where(moving & (np.abs(step) * power < 2 * np.abs(slope)), step, 0.0)
                if step.any():
                    found[..., at] += step
                    steps[..., column] = step
                    local += step[..., None] * inner[..., None, column, :]
            gradient[..., stop:] += steps @ moments[..., start:stop, stop:]
    return found


def learned(weight: Floats, scale: Floats, limit: int, moments: Floats, steps: int = 300, rate: float = 0.05) -> Floats:
    """AdaRound: learn for every weight whether to round up or down (Nagel et al. 2020, section 3.2).

    The rectified sigmoid h(V) stands between 0 (down) and 1 (up); a regularizer 1 - |2h - 1|^beta with falling beta
    drives it to either. The objective is quadratic in H, so its gradient is (W' - W) H and no framework is needed.

    Returns:
        (o, D) integers as float64, no row worse than to nearest. O(steps * o D^2).
    """
    nearest = to_nearest(weight, scale, limit)
    power = float(np.mean(np.diagonal(moments)))
    if power <= 0:
        return nearest
    unit, ratio = moments / power, weight / steps_of(scale, weight)
    floor: Floats = np.floor(ratio)
    start = np.clip(ratio - floor, 1e-3, 1 - 1e-3)
    v = -np.log(1.2 / (start + 0.1) - 1)
    first, second = np.zeros_like(v), np.zeros_like(v)
    for step in range(steps):
        sigmoid = 1 / (1 + np.exp(-v))
        h = np.clip(1.2 * sigmoid - 0.1, 0, 1)
        inside = (h > 0) & (h < 1)
        # Errors in units of the row's step: rows of all sizes learn at one rate.
        gradient = ((floor + h - ratio) @ unit) * 2
        share = step / steps
        if share > 0.2:
            beta = 2 + 18 * 0.5 * (1 + np.cos((share - 0.2) / 0.8 * np.pi))
            distance = 2 * h - 1
            gradient -= 0.05 * 2 * beta * np.abs(distance) ** (beta - 1) * np.sign(distance)
        gradient *= inside * 1.2 * sigmoid * (1 - sigmoid)
        first = _ADAM[0] * first + (1 - _ADAM[0]) * gradient
        second = _ADAM[1] * second + (1 - _ADAM[1]) * gradient**2
        corrected = first / (1 - _ADAM[0] ** (step + 1))
        v -= rate * corrected / (np.sqrt(second / (1 - _ADAM[1] ** (step + 1))) + 1e-8)
    up = 1.2 / (1 + np.exp(-v)) - 0.1 >= 0.5
    found = np.where(_pins(weight), nearest, np.clip(floor + up, -limit, limit))
    return _better(weight, scale, moments, found, nearest)


def _on_grid(nearest: Floats, steps: Floats, limit: int, pinned: npt.NDArray[np.bool_]) -> Nearest:
    """The grid of integers -limit..limit times `steps`; pinned weights stay where `nearest`, in integers, has them."""

    def rounded(values: Floats, at: Any) -> Floats:
        step, kept, close = (_column(array, at) for array in (steps, pinned, nearest))
        return np.asarray(np.where(kept, close, np.clip(np.rint(values / step), -limit, limit)) * step)

    return rounded


def _column(array: npt.NDArray[Any], at: Any) -> npt.NDArray[Any]:
    """(..., o) one column of (..., o, D), of each group its own where there is a number for each."""
    if np.ndim(at) == 0:
        return array[..., int(at)]
    return np.take_along_axis(array, at[..., None, None], -1)[..., 0]


def _pinned(weight: Floats, pin: bool) -> npt.NDArray[np.bool_]:
    return _pins(weight) if pin else np.zeros(weight.shape, bool)


def _pins(weight: Floats) -> npt.NDArray[np.bool_]:
    """(..., o, D), True at the largest magnitude of each row, the first where there are several."""
    pinned: npt.NDArray[np.bool_] = np.zeros(weight.shape, bool)
    np.put_along_axis(pinned, np.abs(weight).argmax(axis=-1)[..., None], True, -1)
    return pinned


def _better(weight: Floats, scale: Floats, moments: Floats, found: Floats, other: Any) -> Floats:
    worse = loss(weight, found, scale, moments) > loss(weight, other, scale, moments)
    return np.where(worse[..., None], other, found)
