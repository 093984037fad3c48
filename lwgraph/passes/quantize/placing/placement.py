"""Placement: which nodes compute in integers, which tensors get grids, and which of them share one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lwgraph import ir
from lwgraph.passes.quantize.placing.roles import Role, roles_of
from lwgraph.passes.quantize.placing.target import Target


@dataclass
class Groups:
    """Tensors that share one grid up to a factor: value = factor * representative. Union-find over values."""

    parent: dict[ir.Value, tuple[ir.Value, float]] = field(default_factory=dict)

    def find(self, value: ir.Value) -> tuple[ir.Value, float]:
        """(representative, factor)."""
        factor, current = 1.0, value
        while current in self.parent:
            current, step = self.parent[current]
            factor *= step
        return current, factor

    def tie(self, value: ir.Value, other: ir.Value, factor: float = 1.0) -> None:
        """Let `value` = factor * `other` share the integers."""
        (a, fa), (b, fb) = self.find(value), self.find(other)
        if a is not b:
            self.parent[a] = (b, factor * fb / fa)


@dataclass
class Placement:
    """The result of `place`.

    Attributes:
        roles: the nodes that compute in integers.
        reasons: compute operators that stay in float, and why.
        quantized: the tensors that get a grid of their own, in graph order.
        clips: Relu and Clip nodes that the grid of their output makes redundant: QuantizeLinear reads before them.
        aliases: outputs of "free" nodes -> their input, whose integers they are.
        groups: which tensors share grids.
    """

    graph: ir.Graph
    roles: dict[ir.Node, Role]
    reasons: dict[ir.Node, str]
    quantized: dict[ir.Value, None] = field(default_factory=dict)
    clips: set[ir.Node] = field(default_factory=set)
    aliases: dict[ir.Value, ir.Value] = field(default_factory=dict)
    groups: Groups = field(default_factory=Groups)

    @property
    def compute(self) -> list[ir.Node]:
        """The compute nodes in integers, in graph order."""
        return [node for node, role in self.roles.items() if role.kind == "compute"]

    def integer_uses(self, value: ir.Value) -> list[tuple[ir.Node, int]]:
        """The inputs of integer nodes that read `value` as data; clips do not count."""
        return [
            (use.node, use.idx)
            for use in value.uses()
            if (role := self.roles.get(use.node)) is not None and role.kind != "clip" and use.idx in role.data
        ]

    def observed(self) -> list[str]:
        """Names of the tensors whose ranges this placement needs."""
        found = [*self.quantized, *self.aliases]
        for node in self.roles:
            if node.op_type == "Concat":  # whether its inputs share its grid is decided by their ranges
                found.append(self.end(node.outputs[0]))
        return list(dict.fromkeys(v.name for v in found if v.name))

    def is_integer(self, node: ir.Node | None) -> bool:
        """Whether an integer kernel is meant to compute this node; clips and free nodes do not count."""
        return node is not None and node in self.roles and self.roles[node].kind in ("compute", "convert", "keep")

    def end(self, output: ir.Value) -> ir.Value:
        """The tensor behind the clips that an integer node's output passes through alone."""
        while not output.is_graph_output() and len(uses := output.consumers()) == 1 and uses[0] in self.clips:
            output = uses[0].outputs[0]
        return output


def place(graph: ir.Graph, target: Target, opset: int, refused: Mapping[ir.Node, str] = {}) -> Placement:
    """Decide what computes in integers. O(nodes).

    Operators that only move or combine values are taken when they lie between compute nodes, directly or through
    each other: elsewhere they would only add conversions. A final Concat that mixes boxes and scores, for example, is
    not between two convolutions, so it stays in float.
    """
    roles, reasons = roles_of(graph, target, refused, opset)
    if not target.everything:
        roles = _between(graph, roles)
    made = Placement(graph, roles, reasons)
    for node, role in roles.items():
        if role.kind == "clip" and _redundant(made, node, target, opset):
            made.clips.add(node)
    for node in graph:
        part = roles.get(node)
        if part is None or part.kind == "clip":
            continue
        role = part
        for index in role.data:
            value = node.inputs[index]
            assert value is not None
            if value not in made.aliases:
                made.quantized[value] = None
        if role.kind == "free":
            source = node.inputs[role.data[0]]
            assert source is not None
            made.aliases[node.outputs[0]] = source
            made.groups.tie(node.outputs[0], source, role.factor)
            continue
        for output in map(made.end, node.outputs):
            if made.integer_uses(output) or not _may_return_floats(node, target, opset):
                made.quantized[output] = None
        if role.kind == "keep":
            source = node.inputs[role.data[0]]
            assert source is not None
            for output in map(made.end, node.outputs):
                made.groups.tie(output, source)
    return made


def candidates(graph: ir.Graph, target: Target, opset: int, refused: Mapping[ir.Node, str] = {}) -> list[str]:
    """Names of all tensors that may get a grid in some placement, whatever is refused beside `refused`."""
    roles, _ = roles_of(graph, target, refused, opset)
    found = [v for node, role in roles.items() for v in [*(node.inputs[i] for i in role.data), *node.outputs]]
    return list(dict.fromkeys(v.name for v in found if v is not None and v.name))


def _may_return_floats(node: ir.Node, target: Target, opset: int) -> bool:
    return target.has(ir.operator(node), "float_output", opset) and not target.everything


def _redundant(made: Placement, node: ir.Node, target: Target, opset: int) -> bool:
    """Whether the grid of this clip's output can stand for it.

    Either an integer node computes its input for it alone, or nobody needs its floats.
    """
    value, output = node.inputs[0], node.outputs[0]
    assert value is not None
    maker = value.producer()
    if len(value.uses()) == 1 and not value.is_graph_output() and maker is not None:
        if maker in made.clips:
            return True
        if made.is_integer(maker):
            return bool(made.integer_uses(output)) or not _may_return_floats(maker, target, opset)
    return not output.is_graph_output() and 0 < len(output.uses()) == len(made.integer_uses(output))


def _between(graph: ir.Graph, roles: dict[ir.Node, Role]) -> dict[ir.Node, Role]:
    """The compute nodes, the clips, and what has a compute node before and after it with no float node between."""
    after: set[ir.Value] = set()  # computed in integers, if everything before was taken
    for node in graph:
        role = roles.get(node)
        if role is not None and (role.kind == "compute" or any(node.inputs[i] in after for i in role.data)):
            after.update(node.outputs)
    before: set[ir.Value] = set()
    for node in reversed(graph):
        role = roles.get(node)
        if role is not None and (role.kind == "compute" or any(v in before for v in node.outputs)):
            before.update(v for i in role.data if (v := node.inputs[i]) is not None)
    return {
        node: role
        for node, role in roles.items()
        if role.kind in ("compute", "clip")
        or (any(v in after for v in node.outputs) and any(v in before for v in node.outputs))
    }


__all__ = ["Groups", "Placement", "candidates", "place"]
