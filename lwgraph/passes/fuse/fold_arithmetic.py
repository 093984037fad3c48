"""fold-arithmetic: computes what runtimes may round differently."""

from __future__ import annotations

from dataclasses import dataclass

from lwgraph import ir
from lwgraph.passes.clean.fold_constants import FoldConstants
from lwgraph.rewrite import Contract


@dataclass(frozen=True)
class FoldArithmetic(FoldConstants):
    """Replace what depends on constants only by its value, computed by the reference runtime.

    Sums, products of matrices, exponentials and the like, whose last bits depend on who computes them.
    """

    name = "fold-arithmetic"
    contract = Contract.ROUNDING

    def wanted(self, node: ir.Node) -> bool:
        """Every operator that is deterministic."""
        return True
