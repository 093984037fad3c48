"""constant-inputs: turns weights that old files had to list as inputs into constants."""

from __future__ import annotations

from dataclasses import dataclass

from lwgraph import ir
from lwgraph.rewrite import Context, Contract, Pass


@dataclass(frozen=True)
class ConstantInputs(Pass):
    """Remove initializers from the inputs of a model before IR version 4, which had to list them; set version 4.

    No runtime optimizes what a caller may override. From IR version 4 on such an input is meant, and stays.
    """

    name = "constant-inputs"
    contract = Contract.EXACT

    def run(self, model: ir.Model, context: Context) -> int:
        """See Pass.run. O(inputs)."""
        if model.ir_version >= ir.OPTIONAL_SINCE:
            return 0
        kept = [value for value in model.graph.inputs if not value.is_initializer()]
        count = len(model.graph.inputs) - len(kept)
        if count:
            model.graph.inputs[:] = kept
            model.ir_version = ir.OPTIONAL_SINCE
        return count
