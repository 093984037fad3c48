"""Residual blocks: y = g(x) + f(x), where one of the two branches may go. Found by structure, not by names."""

from __future__ import annotations

from dataclasses import dataclass

from lwgraph import ir


@dataclass(frozen=True, eq=False)
class Residual:
    """A block x -> shortcut(x) + branch(x).

    Attributes:
        add: the sum.
        slot: which input of it the branch is.
        branch: the nodes that serve nothing else, in the order of the graph.
        entry: x.
        identity: whether the shortcut is x itself; otherwise it has nodes of its own (a projection, a pooling).
    """

    add: ir.Node
    slot: int
    branch: tuple[ir.Node, ...]
    entry: ir.Value
    identity: bool

    @property
    def name(self) -> str:
        """The name of the sum, or of its output where it has none."""
        return self.add.name or self.add.outputs[0].name or ""

    @property
    def shortcut(self) -> ir.Value:
        """The value that remains of the block when the branch goes."""
        found = self.add.inputs[1 - self.slot]
        assert found is not None
        return found


@dataclass(frozen=True)
class NoResidual:
    """A sum that is none, and why."""

    place: str
    reason: str


def find_residuals(model: ir.Model) -> tuple[list[Residual], list[NoResidual]]:
    """The residual blocks of the main graph in its order, and the sums of two computed values that are none.

    A branch is what would be dead without the sum; it must read one value, and the shortcut must be that value, or be
    computed from it alone. Of a block with nodes on both sides both may go, so it is listed twice, the larger first.
    O(nodes) per sum.
    """
    shapes = ir.infer_shapes(model)
    place = {node: index for index, node in enumerate(model.graph)}
    found: list[Residual] = []
    refused: list[NoResidual] = []
    for add in model.graph:
        if add.op_type != "Add" or add.domain not in ("", "ai.onnx") or any(ir.is_constant(v) for v in add.inputs):
            continue
        name = add.name or add.outputs[0].name or ""
        one, two = add.inputs
        if one is None or two is None or not any(v.producer() in place for v in (one, two)):
            continue
        sides = [_exclusive(add, slot, place) for slot in (0, 1)]
        entries = [_entries(side) for side in sides]
        blocks = [
            Residual(add, slot, sides[slot], next(iter(entries[slot])), not sides[1 - slot])
            for slot in (0, 1)
            if sides[slot] and len(entries[slot]) == 1 and _starts(add, slot, sides, entries)
        ]
        reason = "" if blocks else _reason(sides, entries)
        if blocks:
            sizes = [shapes.get(v) for v in (*add.inputs, add.outputs[0]) if v is not None]
            if any(_differ(size, sizes[-1]) for size in sizes):
                blocks, reason = [], "one of its terms is repeated along an axis"
        found += sorted(blocks, key=lambda block: -len(block.branch))
        if reason:
            refused.append(NoResidual(name, reason))
    return found, refused


def _exclusive(add: ir.Node, slot: int, place: dict[ir.Node, int]) -> tuple[ir.Node, ...]:
    """The nodes that nothing but this input of the sum needs, in order."""
    start = add.inputs[slot]
    assert start is not None
    if add.inputs[0] is add.inputs[1]:
        return ()
    inside: set[ir.Node] = set()
    waiting = [start.producer()]
    while waiting:  # a node is looked at again whenever one of its users was taken in
        node = waiting.pop()
        if node is None or node in inside or node not in place:
            continue
        if all(
            not value.is_graph_output()
            and all(user in inside or (user is add and index == slot) for user, index in value.uses())
            for value in node.outputs
        ):
            inside.add(node)
            waiting += [value.producer() for value in _read(node)]
    return tuple(sorted(inside, key=place.__getitem__))


def _read(node: ir.Node) -> list[ir.Value]:
    """The values that a node and its subgraphs read, without constants."""
    values = [value for value in node.inputs if value is not None]
    for graph in ir.subgraphs_of(node):
        for inner in graph:
            values += _read(inner)
    return [value for value in values if not ir.is_constant(value)]


def _entries(side: tuple[ir.Node, ...]) -> dict[ir.Value, None]:
    """The values that the nodes read from outside."""
    made = {value for node in side for value in node.outputs}
    inner = {value for node in side for graph in ir.subgraphs_of(node) for each in graph for value in each.outputs}
    return dict.fromkeys(value for node in side for value in _read(node) if value not in made and value not in inner)


def _starts(add: ir.Node, slot: int, sides: list[tuple[ir.Node, ...]], entries: list[dict[ir.Value, None]]) -> bool:
    """Whether the other side is what the branch starts from, or comes from it alone."""
    return add.inputs[1 - slot] in entries[slot] if not sides[1 - slot] else entries[1 - slot] == entries[slot]


def _reason(sides: list[tuple[ir.Node, ...]], entries: list[dict[ir.Value, None]]) -> str:
    if not any(sides):
        return "both of its terms are used elsewhere, too"
    if all(len(each) != 1 for side, each in zip(sides, entries, strict=True) if side):
        return "its branches read several values"
    return "its branch does not start from the other term"


def _differ(a: ir.Dims | None, b: ir.Dims | None) -> bool:
    if a is None or b is None:
        return False
    if len(a) != len(b):
        return True
    return any(isinstance(m, int) and isinstance(n, int) and m != n for m, n in zip(a, b, strict=True))


__all__ = ["NoResidual", "Residual", "find_residuals"]
