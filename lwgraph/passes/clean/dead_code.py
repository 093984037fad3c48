"""dead-code: removes what no output of the model depends on."""

from __future__ import annotations

from dataclasses import dataclass

from lwgraph import ir
from lwgraph.rewrite import Context, Contract, Pass


@dataclass(frozen=True)
class RemoveDeadCode(Pass):
    """Remove nodes, initializers and functions that no output depends on."""

    name = "dead-code"
    contract = Contract.EXACT
    asks = True

    def run(self, model: ir.Model, context: Context) -> int:
        """See Pass.run. O(nodes + initializers)."""
        count = 0
        for scope in ir.scopes(model):
            graph = ir.graph_of(scope)
            for node in reversed(graph):
                if node.graph is graph and ir.is_dead(node):
                    if not context.allow(self.name, node.name or node.op_type):
                        return count
                    count += len(ir.sweep([node]))
            for name in [n for n, value in graph.initializers.items() if ir.is_removable_initializer(value)]:
                if not context.allow(self.name, name):
                    return count
                graph.initializers.pop(name)
                count += 1
        return count + self._functions(model, context)

    def _functions(self, model: ir.Model, context: Context) -> int:
        """Functions that neither the main graph nor a function in use calls."""
        pending: list[ir.Graph | ir.Function] = [model.graph]
        called: set[tuple[str, str, str]] = set()
        while pending:
            for node in pending.pop().all_nodes():
                key = node.op_identifier()
                if key in model.functions and key not in called:
                    called.add(key)
                    pending.append(model.functions[key])
        count = 0
        for key in [k for k in model.functions if k not in called]:
            if not context.allow(self.name, key[1]):
                return count
            del model.functions[key]
            count += 1
        return count
