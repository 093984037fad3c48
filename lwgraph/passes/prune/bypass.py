"""Takes one branch of a residual block out of a model, and finds the layers that can compensate for it."""

from __future__ import annotations

from lwgraph import ir
from lwgraph.layers.site import find_sites
from lwgraph.views.residual import Residual

BEHIND = 4  # layers behind a removed block that make up for it
IDEMPOTENT = ("Relu", "Clip")  # doing it twice is doing it once


def bypass(model: ir.Model, block: Residual) -> ir.Value:
    """Let the shortcut stand for the sum; the branch is removed. The value that stands for it now.

    Where nothing else uses the shortcut, it takes the name of the sum: a refit that finds its targets by name then
    makes the layer before give what the whole block gave. An activation that the shortcut has passed already is left
    out behind the sum, and the value before it takes the sum's name.
    """
    total, value = block.add.outputs[0], block.shortcut
    branch = set(block.branch)
    alone = all(user is block.add or user in branch for user, _ in value.uses()) and not value.is_graph_output()
    maker, old, node = value.producer(), total, block.add
    before: ir.Value | None = None
    uses = list(total.uses())
    if maker is not None and ir.operator(maker) in IDEMPOTENT and len(uses) == 1 and not total.is_graph_output():
        behind = uses[0][0]
        if _same(behind, maker):
            old, node = behind.outputs[0], behind
            inner = maker.inputs[0]
            before = inner if inner is not None and len(list(inner.uses())) == 1 else None
    names = total.name, old.name
    outside = old.is_graph_output()
    ir.replace_uses(old, value)
    ir.sweep([node])
    if maker is not None and maker.graph is model.graph and alone and not outside:
        if before is not None and not before.is_graph_output() and before.producer() is not None:
            before.name = names[0]
            value.name = names[1]
        elif old is total:
            value.name = names[0]
    return value


def _same(a: ir.Node, b: ir.Node) -> bool:
    if a.op_type != b.op_type or a.domain != b.domain or list(a.inputs)[1:] != list(b.inputs)[1:]:
        return False
    return {k: str(v.value) for k, v in a.attributes.items()} == {k: str(v.value) for k, v in b.attributes.items()}


def neighbours(model: ir.Model, value: ir.Value) -> list[str]:
    """Names of the layers that make `value`, and of the first BEHIND that depend on it, in the order of the graph."""
    sites = {node: site for site in find_sites(model) for node in site.nodes if site.graph is model.graph}
    before: dict[str, None] = {}
    waiting, seen = [value.producer()], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in sites:
            before[sites[node].name] = None
        elif ir.operator(node) != "Add" or not any(v is not None and v.producer() in sites for v in node.inputs):
            waiting += [v.producer() for v in node.inputs if v is not None]
        else:  # the layer in front of the sum; what came to it along the trunk stays
            waiting += [v.producer() for v in node.inputs if v is not None and v.producer() in sites]
    reached, behind = {value}, []
    for node in model.graph:
        if any(v in reached for v in node.inputs):
            reached.update(node.outputs)
            if node in sites and sites[node].node is node:
                behind.append(sites[node].name)
    return [*before, *behind[:BEHIND]]
