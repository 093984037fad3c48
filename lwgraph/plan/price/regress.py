"""Turns the times of models that were timed together into prices, for this machine and for a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

FLOATS, INTEGERS, FIRST, SWITCH = "floats", "integers", "first", "switch"
LEADING = {FLOATS: 2, INTEGERS: 4, FIRST: 3, SWITCH: 2}  # times that come before those of the forms
NEVER = (1.0, math.inf)  # the row of a form that the runtime cannot run
Row = tuple[float, float]  # milliseconds of the dense layer in floats, and of the form


def settle(kind: str, times: Sequence[float | None]) -> list[Row]:
    """One row for each form that was timed; one in all for SWITCH.

    Args:
        kind: FLOATS: times of the dense layer's model, of the same without the layer, and of each form's. INTEGERS:
            dense and empty in floats, the two integer models without the layer (at the shapes of its input and its
            output), then each form's in integers. FIRST: the same for a layer that no other comes before, with only
            the second of the two integer models. SWITCH: three layers of which the middle one is in integers, and all
            in floats.
        times: milliseconds; None: the runtime cannot run the model.

    Returns:
        rows with the cost of the neighbours taken off, of which at least a tenth (a twentieth for integers) is left.
    """
    lead = list(times[: LEADING[kind]])
    forms = list(times[LEADING[kind] :])
    if any(ms is None for ms in lead):
        return [NEVER] if kind == SWITCH else [NEVER] * len(forms)
    known = [ms for ms in lead if ms is not None]
    if kind == SWITCH:
        mixed, floats = known
        return [(floats, max(0.0, mixed - floats))]
    ran = [ms for ms in forms if ms is not None]
    dense, empty = known[:2]
    if kind == FLOATS:
        base = min(empty, 0.9 * min([dense, *ran]))
        first = dense - base
    else:
        base = min(sum(known[2:]) / 2, 0.95 * min(ran, default=math.inf))
        first = dense - min(empty, 0.9 * dense)
    return [NEVER if ms is None else (first, ms - base) for ms in forms]


__all__ = ["FIRST", "FLOATS", "INTEGERS", "NEVER", "SWITCH", "Row", "settle"]
