"""The error that 8-bit integers make in one layer, from its weight and the moments and range of its input."""

from __future__ import annotations

import numpy as np

from lwgraph.layers.moments import Moments, ratio

LEVELS = 255.0


def integer_error(moments: Moments, low: float, high: float) -> float:
    """Predicted ||Y - Yhat||^2 / ||Y - mean Y||^2 of the layer with 8-bit weights and inputs.

    Rounding to steps of d adds noise of variance d^2 / 12 (Widrow). With one symmetric scale per output channel the
    weights' steps are 2 max|w| / 255, and their noise meets the inputs' centred power; the input's step is
    (high - low) / 255, and its noise meets the weights' power. Mean errors are corrected by the biases. O(o D).

    Args:
        moments: of the layer's input.
        low, high: the range of the input; it is widened to hold zero.
    """
    step = (max(high, 0.0) - min(low, 0.0)) / LEVELS
    noise = power = 0.0
    for each in moments.losses:
        highest = np.maximum(each.matrix.max(axis=1), -each.matrix.min(axis=1)).astype(np.float64)
        steps = 2 * highest / LEVELS
        noise += float(np.square(steps).sum()) / 12 * max(each.trace, 0.0)
        noise += step**2 / 12 * float(each.powers.sum())
        power += each.power
    return ratio(noise, power)


__all__ = ["integer_error"]
