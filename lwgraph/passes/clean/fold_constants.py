"""fold-constants: computes what every runtime computes alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lwgraph import ir
from lwgraph.passes.clean.folding import Folder, is_exact
from lwgraph.rewrite import Context, Contract, Pass


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replace what depends on constants only by its value, where every runtime computes the same bits.

    Data movement, comparisons, integer arithmetic and single IEEE operations; `fold-arithmetic` does the rest.
    """

    name = "fold-constants"
    contract = Contract.EXACT
    asks = True
    max_growth: Annotated[int, "bytes that the model may grow for each node that is folded away"] = 1024
    max_bytes: Annotated[int, "largest result that is computed, in bytes"] = 1 << 28

    def run(self, model: ir.Model, context: Context) -> int:
        """See Pass.run."""
        functions = {function.graph for function in model.functions.values()}
        return sum(
            Folder(
                graph, ir.root(graph) in functions, self.name, context, self.wanted, self.max_growth, self.max_bytes
            ).run()
            for graph in map(ir.graph_of, ir.scopes(model))
        )

    def wanted(self, node: ir.Node) -> bool:
        """Whether the node is this pass's to fold."""
        return is_exact(node)
