"""power-of-two: weights that are signed powers of two, or sums of a few, times a scale for each output channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from lwgraph.arrays import Floats
from lwgraph.passes.quantize.coding import Coding
from lwgraph.passes.quantize.grids.levels import Levels, fit_powers

_ONE_TERM = 4  # bits up to which one power serves: more exponents than its eight lie below every weight that matters


@dataclass(frozen=True)
class PowerOfTwo(Coding):
    """Round weights to signed powers of two (or sums of them), and store them as packed codes.

    Multiplying by such a weight is a shift, or a few and an addition. With data, what one weight loses by the rounding
    the others of its channel make good (GPTQ). `quantize` after this pass finds the powers on its 8-bit grids, where
    both hold at once.

    Sources: DeepShift (Elhoushi, Chen, Shafiq, Tian, Li 2021), APoT (Li, Dong, Wang 2020, equation 5), GPTQ (Frantar,
    Ashkboos, Hoefler, Alistarh 2023). O(41 o D + D^3 + 6 o D^2) for a layer of o outputs with D inputs each.
    """

    name: ClassVar[str] = "power-of-two"

    widths: ClassVar[range] = range(3, 7)

    bits: Annotated[int, "bits per weight, 3 to 6"] = 4
    terms: Annotated[int | None, "powers in a weight, 1 or 2; none: 1 up to 4 bits, then 2"] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_option("terms", self.terms in (None, 1, 2), self.terms, "1 or 2")

    def constants(self, rows: int, columns: int) -> int:
        """See `Coding.constants`."""
        return (1 << self.bits) + rows

    def fit(self, parts: Sequence[Floats], moments: Sequence[Floats]) -> tuple[list[Levels], list[Floats]]:
        """See `Coding.fit`."""
        terms = (1 if self.bits <= _ONE_TERM else 2) if self.terms is None else self.terms
        return fit_powers(parts, moments, self.bits, terms)


__all__ = ["PowerOfTwo"]
