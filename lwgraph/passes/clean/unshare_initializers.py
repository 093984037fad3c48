"""unshare-initializers: makes one initializer for each use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lwgraph import ir
from lwgraph.rewrite import Context, Contract, Pass


@dataclass(frozen=True)
class UnshareInitializers(Pass):
    """Give each node its own copy of the initializers it shares, for tools that edit weights in place.

    lwgraph's own passes copy on write and do not need it. Data is shared in memory, but not in the saved file.
    """

    name = "unshare-initializers"
    contract = Contract.EXACT
    asks = True
    operators: Annotated[tuple[str, ...], "operators whose inputs are unshared"] = (
        *sorted(ir.LINEAR),
        "BatchNormalization",
    )

    def run(self, model: ir.Model, context: Context) -> int:
        """See Pass.run."""
        count = 0
        for scope in ir.scopes(model):
            for node in ir.graph_of(scope):
                if node.domain != "" or node.op_type not in self.operators:
                    continue
                for value in dict.fromkeys(node.inputs):
                    if value is None or not value.is_initializer() or value.is_graph_input():
                        continue
                    if ir.use_count(value) == sum(v is value for v in node.inputs):
                        continue
                    if not context.allow(self.name, node.name or node.op_type):
                        return count
                    ir.copy_on_write(value, node)
                    count += 1
        return count
