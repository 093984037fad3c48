"""common-subexpressions: computes equal things once."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Annotated

from lwgraph import ir
from lwgraph.rewrite import Context, Contract, Pass
from lwgraph.rewrite.operators import COMMUTATIVE, is_deterministic


@dataclass(frozen=True)
class EliminateCommonSubexpressions(Pass):
    """Merge nodes with equal operator, attributes and inputs."""

    name = "common-subexpressions"
    contract = Contract.EXACT
    asks = True
    max_constant: Annotated[int, "largest tensor attribute that is compared, in elements"] = 4096

    def run(self, model: ir.Model, context: Context) -> int:
        """See Pass.run. O(nodes): one walk in graph order, so equal inputs have become the same value before."""
        count = 0
        for scope in ir.scopes(model):
            graph = ir.graph_of(scope)
            seen: dict[Hashable, ir.Node] = {}
            for node in graph:
                key = self._key(node)
                if key is None:
                    continue
                first = seen.setdefault(key, node)
                if first is node or not _can_merge(node, first):
                    continue
                if not context.allow(self.name, node.name or node.op_type):
                    return count
                for old, new in zip(node.outputs, first.outputs, strict=True):
                    ir.replace_uses(old, new)
                ir.sweep([node])
                count += 1
        return count

    def _key(self, node: ir.Node) -> Hashable | None:
        if not is_deterministic(node.op_type, node.domain):
            return None
        attributes: list[Hashable] = []
        for name in sorted(node.attributes):
            attribute = node.attributes[name]
            if attribute.is_ref():
                attributes.append((name, "reference", attribute.ref_attr_name))
                continue
            value = attribute.value
            if attribute.type == ir.AttributeType.TENSOR:
                if value.size > self.max_constant:
                    return None
                value = ir.digest(value)
            elif isinstance(value, (list, tuple)):
                value = tuple(value)
            if not isinstance(value, (int, float, str, bytes, tuple)):
                return None  # a graph, a type, a sparse tensor
            attributes.append((name, int(attribute.type), value))
        inputs = [id(value) for value in node.inputs]
        if len(inputs) == 2 and node.domain == "" and node.op_type in COMMUTATIVE:
            inputs.sort()
        shape = tuple(bool(v.name) for v in node.outputs)
        try:
            key = (node.domain, node.op_type, node.overload, tuple(inputs), tuple(attributes), shape)
            hash(key)
        except TypeError:
            return None  # an attribute that holds tensors or graphs in a list
        return key


def _can_merge(node: ir.Node, first: ir.Node) -> bool:
    """Two outputs of the graph cannot be one value: an Identity would stand where the node stood."""
    return not any(
        old.is_graph_output() and new.is_graph_output() for old, new in zip(node.outputs, first.outputs, strict=True)
    )
