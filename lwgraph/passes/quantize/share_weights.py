"""share-weights: weights that share the entries of a small codebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from lwgraph.arrays import Floats
from lwgraph.passes.quantize.coding import Coding
from lwgraph.passes.quantize.grids.levels import Levels, fit_codebooks


@dataclass(frozen=True)
class ShareWeights(Coding):
    """Let the weights of a layer share the 2^bits entries of a codebook, and store them as packed codes.

    Entries are found by k-means weighted by the power of what each weight multiplies; with data, what one weight loses
    the others of its channel make good (GPTQ), and the entries are fitted again to the codes.

    Sources: Deep Compression (Han, Mao, Dally 2016, section 3), GPTQ (Frantar, Ashkboos, Hoefler, Alistarh 2023).
    O(60 n log n + D^3 + 6 o D^2) for a layer of n weights, o outputs and D inputs each.
    """

    name: ClassVar[str] = "share-weights"

    widths: ClassVar[range] = range(2, 9)

    bits: Annotated[int, "bits per weight, 2 to 8: a codebook has 2^bits entries"] = 4
    per: Annotated[
        Literal["tensor", "channel", "block"],
        "what has a codebook of its own: a tensor (then each output channel has a scale), a channel, or a block of one",
    ] = "tensor"
    block_size: Annotated[int, "with per=block: weights of a channel that share a codebook"] = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_option("block_size", self.block_size >= 2, self.block_size, "2 or more")

    def constants(self, rows: int, columns: int) -> int:
        """See `Coding.constants`."""
        books = {"tensor": 1, "channel": rows, "block": rows * -(-columns // self.block_size)}[self.per]
        return books * (1 << self.bits) + (rows if self.per == "tensor" else 0)

    def fits(self, columns: int) -> str:
        """See `Coding.fits`."""
        if self.per == "block" and columns % self.block_size:
            return f"its {columns:,} weights per channel are not a multiple of block_size={self.block_size}"
        return ""

    def fit(self, parts: Sequence[Floats], moments: Sequence[Floats]) -> tuple[list[Levels], list[Floats]]:
        """See `Coding.fit`."""
        return fit_codebooks(parts, moments, 1 << self.bits, self.per, self.block_size)


__all__ = ["ShareWeights"]
