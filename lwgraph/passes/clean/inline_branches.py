"""inline-branches: replaces an If whose condition is known by the branch that is taken."""

from __future__ import annotations

from dataclasses import dataclass

from lwgraph import ir
from lwgraph.rewrite import Context, Contract, Pass


@dataclass(frozen=True)
class InlineBranches(Pass):
    """Replace an If whose condition is a constant by the nodes of the branch that is taken."""

    name = "inline-branches"
    contract = Contract.EXACT
    asks = True

    def run(self, model: ir.Model, context: Context) -> int:
        """See Pass.run. O(nodes); an If inside the taken branch is looked at in its new place."""
        count = 0
        functions = {function.graph for function in model.functions.values()}
        for scope in ir.scopes(model):
            graph = ir.graph_of(scope)
            pending = [node for node in graph if _is_decided(node)]
            while pending:
                node = pending.pop()
                branch = _taken(node)
                if branch.initializers and ir.root(graph) in functions:
                    context.skip(
                        self.name, node.name or "If", "its branch has initializers, which a function cannot hold"
                    )
                    continue
                if not context.allow(self.name, node.name or "If"):
                    return count
                results = list(branch.outputs)
                branch.outputs.clear()
                moved = ir.move_contents(branch, node)
                for output, value in zip(node.outputs, results, strict=True):
                    ir.replace_uses(output, value)
                ir.sweep([node])
                ir.sweep(reversed(moved))  # removes the nodes on which only unread outputs depended
                pending += [inner for inner in moved if inner.graph is graph and _is_decided(inner)]
                count += 1
        return count


def _is_decided(node: ir.Node) -> bool:
    return node.op_type == "If" and node.domain == "" and _condition(node) is not None


def _condition(node: ir.Node) -> bool | None:
    array = ir.constant(node.inputs[0])
    return None if array is None or array.size != 1 else bool(array.reshape(())[()])


def _taken(node: ir.Node) -> ir.Graph:
    return node.attributes["then_branch" if _condition(node) else "else_branch"].as_graph()
