"""constants-to-initializers: turns Constant nodes into initializers."""

from __future__ import annotations

from dataclasses import dataclass

from lwgraph import ir
from lwgraph.rewrite import Context, Contract, Pass


@dataclass(frozen=True)
class ConstantsToInitializers(Pass):
    """Turn Constant nodes into initializers, so that there is one kind of constant."""

    name = "constants-to-initializers"
    contract = Contract.EXACT
    asks = True

    def run(self, model: ir.Model, context: Context) -> int:
        """See Pass.run. Functions have no initializers, so their Constant nodes stay; an output of the graph, too."""
        count = 0
        functions = {function.graph for function in model.functions.values()}
        for scope in ir.scopes(model):
            graph = ir.graph_of(scope)
            if ir.root(graph) in functions:
                continue
            for node in graph:
                if node.op_type != "Constant" or node.domain != "" or node.outputs[0].is_graph_output():
                    continue
                tensor = ir.constant_of(node)
                if tensor is None:
                    continue  # sparse
                if not context.allow(self.name, node.name or "Constant"):
                    return count
                old = node.outputs[0]
                name = old.name or "constant"
                new = ir.unattached_constant(tensor)
                ir.replace_uses(old, new)
                ir.sweep([node])
                ir.attach_initializer(graph, new, name)
                count += 1
        return count
