"""inline-functions: replaces calls of functions by their nodes."""

from __future__ import annotations

from dataclasses import dataclass

from lwgraph import ir
from lwgraph.rewrite import Context, Contract, Pass


@dataclass(frozen=True)
class InlineFunctions(Pass):
    """Replace each call of a function of the model by the function's nodes, as runtimes do before they run it.

    Passes then see across its borders, and calibration sees the values inside. Constants of a function called several
    times are repeated; duplicate-initializers merges them again.
    """

    name = "inline-functions"
    contract = Contract.EXACT
    asks = True

    def run(self, model: ir.Model, context: Context) -> int:
        """See Pass.run. All functions at once, 1 rewrite; none when one of them cannot be inlined. O(nodes)."""
        if not model.functions or not ir.calls(model):
            return 0
        try:
            ir.inline(ir.clone(model))
        except ir.InlineError as reason:
            context.skip(self.name, "functions", str(reason))
            return 0
        if not context.allow(self.name, "functions"):
            return 0
        ir.inline(model)
        return 1
