"""Restores the order of channels; shared by grouped, ghost, fire and octave."""

from __future__ import annotations

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Ints
from lwgraph.layers.emit import Emitter


def reorder(op: Emitter, x: ir.Value, order: Ints, stem: str) -> ir.Value:
    """Channel i of the result is channel order[i] of x; nothing is emitted when that is every channel in its place.

    The channels are axis 1, or the last one of a Gemm or MatMul.
    """
    if np.array_equal(order, np.arange(len(order))):
        return x
    return op.Gather(x, op.const(order.astype(np.int64), stem, shared=True), axis=1 if op.site.kernel else -1)


__all__ = ["reorder"]
