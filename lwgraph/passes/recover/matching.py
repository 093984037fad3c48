"""Matches a rewritten model to the original: values of the same name, and which of them to imitate."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from lwgraph import ir
from lwgraph.errors import ModelError, did_you_mean

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def matched(teacher: ir.Model, student: ir.Model) -> list[str]:
    """Names of the values that both main graphs compute, in the student's order; known shapes and types agree."""
    theirs = {value.name: value for node in teacher.graph for value in node.outputs if value.name}
    found = []
    for node in student.graph:
        for value in node.outputs:
            other = theirs.get(value.name or "")
            if value.name and other is not None and _alike(value, other):
                found.append(value.name)
    return found


def _alike(a: ir.Value, b: ir.Value) -> bool:
    if any(v.dtype is not None and v.dtype not in _FLOATS for v in (a, b)):
        return False
    if a.shape is None or b.shape is None:
        return True
    if len(a.shape) != len(b.shape):
        return False
    return all(not (isinstance(m, int) and isinstance(n, int)) or m == n for m, n in zip(a.shape, b.shape, strict=True))


def chosen(names: Sequence[str], common: Collection[str]) -> list[str]:
    """The user's choice of intermediate values, checked; ModelError names the first that the models do not share."""
    for name in names:
        if name not in common:
            raise ModelError(f"value '{name}' is not computed by both models{did_you_mean(name, common)}")
    return list(names)


def penultimate(student: ir.Model, common: Collection[str]) -> list[str]:
    """The values that enter the last linear layer before each output, or the nearest ones before that are matched."""
    found: dict[str, None] = {}
    for output in student.graph.outputs:
        for value in _last_inputs(output):
            found.update((near.name or "", None) for _, near in _first(value, lambda node, v: v.name in common))
    return list(found)


def _last_inputs(output: ir.Value) -> Iterable[ir.Value]:
    """The data inputs of the linear layers with a constant weight that are reached first, going back from an output."""
    for node, _ in _first(output, lambda node, value: is_linear(node)):
        assert node.inputs[0] is not None
        yield node.inputs[0]


def _first(value: ir.Value, wanted: Callable[[ir.Node, ir.Value], bool]) -> Iterable[tuple[ir.Node, ir.Value]]:
    """The wanted (node, result) that are reached first, going back from a value, its own node included."""
    stack, seen = [value], set()
    while stack:
        value = stack.pop()
        node = value.producer()
        if node is None or value in seen:
            continue
        seen.add(value)
        if wanted(node, value):
            yield node, value
        else:
            stack += [v for v in node.inputs if v is not None]


def is_linear(node: ir.Node) -> bool:
    """Whether the node multiplies its first input by a constant weight (also one that is dequantized)."""
    if node.domain != "" or node.op_type not in ir.LINEAR or len(node.inputs) < 2:
        return False
    weight = node.inputs[1]
    producer = None if weight is None else weight.producer()
    if producer is not None and ir.operator(producer) == "DequantizeLinear":
        weight = producer.inputs[0]
    return ir.constant_tensor(weight) is not None


def cut_points(student: ir.Model, common: Collection[str]) -> list[str]:
    """The matched values through which everything passes: block boundaries, in order; graph outputs are not included.

    After such a value is computed, no earlier value is used any more. O(nodes).
    """
    graph = student.graph
    position = {node: index for index, node in enumerate(graph)}
    outputs = set(graph.outputs)
    last = {
        value: len(position)
        if value in outputs
        else max((position[u] for u, _ in value.uses() if u in position), default=-1)
        for value in [*graph.inputs, *(v for node in graph for v in node.outputs)]
    }
    live = {v for v in graph.inputs if last[v] >= 0}
    constant: set[ir.Value] = set()  # computed from initializers alone: available anywhere
    found = []
    for index, node in enumerate(graph):
        inputs = [v for v in node.inputs if v is not None]
        if all(v in constant or v.is_initializer() for v in inputs) or ir.operator(node) == "Shape":
            constant.update(node.outputs)
        else:
            live.update(v for v in node.outputs if last[v] > index)
        live = {v for v in live if last[v] > index}
        if len(live) == 1:
            (only,) = live
            if only in node.outputs and only.name and only.name in common and only not in outputs:
                found.append(only.name)
    return found


def is_probability(model: ir.Model, name: str) -> bool:
    """Whether an output is the result of a Softmax (or its reshaping)."""
    for output in model.graph.outputs:
        if output.name != name:
            continue
        node = output.producer()
        while node is not None and ir.operator(node) in ir.RESHAPES | {"Identity", "Cast"}:
            assert node.inputs[0] is not None
            node = node.inputs[0].producer()
        return node is not None and ir.operator(node) == "Softmax"
    return False
