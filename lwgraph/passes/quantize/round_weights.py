"""round-weights: rounds the weights of layers to integer grids, with the least loss, and keeps them as floats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from lwgraph.arrays import Floats
from lwgraph.passes.quantize.grids.second_order import (
    block_scales,
    descend,
    learned,
    row_scales,
    second_order,
    steps_of,
    to_nearest,
)
from lwgraph.passes.quantize.rounding import Rounded, Rounding

_TOGETHER = 32 << 20  # bytes of the moments of groups that are rounded at once


@dataclass(frozen=True)
class RoundWeights(Rounding):
    """Round the weights of Conv, Gemm and MatMul to few-bit grids, by what their inputs on the data make of it.

    The weights stay float tensors with at most 2^bits - 1 different values per output channel (or block of it), so the
    model runs anywhere; `quantize` finds 8-bit grids of whole channels again exactly. Biases take up what the rounding
    changed on average.
    """

    name: ClassVar[str] = "round-weights"

    bits: Annotated[int, "bits per weight, 2 to 8"] = 8
    method: Annotated[
        Literal["second-order", "adaround", "nearest"],
        "second-order (GPTQ, then coordinate descent), adaround, or nearest",
    ] = "second-order"
    block: Annotated[int, "inputs that share a step, by taps within channels; 0: all of an output channel"] = 0

    def __post_init__(self) -> None:
        self.check_option("bits", 2 <= self.bits <= 8, self.bits, "2 to 8")
        self.check_option("block", self.block >= 0, self.block, "0 or more")

    @property
    def limit(self) -> int:
        """The largest integer of the symmetric grid."""
        return (1 << (self.bits - 1)) - 1

    @property
    def blind(self) -> bool:
        """See `Rounding.blind`."""
        return self.method == "nearest"

    def rounded(self, weight: Floats, moments: Sequence[Floats]) -> Rounded:
        """See `Rounding.rounded`."""
        if moments[0].ndim == 1:
            return Rounded(self._nearest(weight, np.stack(moments)))
        found = np.empty_like(weight)
        together = max(1, _TOGETHER // (8 * weight.shape[-1] ** 2)) if self.method == "second-order" else 1
        for start in range(0, len(weight), together):
            part = slice(start, start + together)
            found[part] = self._part(weight[part], moments[part])
        return Rounded(found)

    def _part(self, weight: Floats, moments: Sequence[Floats]) -> Floats:
        """(g, o/g, D) on the grid, of some groups; of a single one where the method is not of second order."""
        hessian = np.stack(moments) if len(moments) > 1 else moments[0][None]
        scale, pin = self._steps(weight, np.diagonal(hessian, axis1=-2, axis2=-1)), not self.block
        if self.method == "second-order":
            q = second_order(weight, scale, self.limit, hessian, pin=pin)
            q = descend(weight, q, scale, self.limit, hessian, pin=pin)
        elif self.method == "adaround":
            q = learned(weight[0], scale[0], self.limit, hessian[0])[None]
        else:
            q = to_nearest(weight, scale, self.limit)
        return q * steps_of(scale, weight)

    def _nearest(self, weight: Floats, powers: Floats) -> Floats:
        """(G, o/g, D) on the grid, each weight by itself; only the steps look at the inputs' power, (G, D)."""
        scale = self._steps(weight, powers)
        return to_nearest(weight, scale, self.limit) * steps_of(scale, weight)

    def _steps(self, rows: Floats, importance: Floats) -> Floats:
        """(g, o/g) or, in blocks, (g, o/g, D) steps of least squared error."""
        if not self.block:
            return row_scales(rows, self.limit, importance)
        scale = block_scales(rows, self.limit, self.block, importance)
        return np.repeat(scale, self.block, axis=-1)[..., : rows.shape[-1]]
