"""fold-shapes: computes sizes, as far as the shapes of the inputs determine them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.passes.clean.sizes import Sizes, slice_parts
from lwgraph.rewrite import Context, Contract, Pass

_TO_THE_END = 2**63 - 1


@dataclass(frozen=True)
class FoldShapes(Pass):
    """Replace computed sizes by constants where the shapes of the inputs determine them.

    Sizes that are numbers become constants. A Reshape whose target still has dynamic sizes gets a constant target of
    numbers, 0 (as in the input) and one -1, a Slice up to a dynamic size that is the whole axis an end of infinity.
    """

    name = "fold-shapes"
    contract = Contract.EXACT
    asks = True

    def run(self, model: ir.Model, context: Context) -> int:
        """See Pass.run. O(nodes) plus the small tensors followed."""
        functions = {function.graph for function in model.functions.values()}
        count = 0
        for graph in map(ir.graph_of, ir.scopes(model)):
            if ir.root(graph) not in functions:  # a function's inputs have no shapes
                count += self._run(graph, context)
        return count

    def _run(self, graph: ir.Graph, context: Context) -> int:
        sizes = Sizes()
        sizes.follow(graph)
        known = {value: array for value in sizes.computed() if (array := sizes.numbers(value)) is not None}
        count = 0
        stale: list[ir.Node] = []
        for value, array in known.items():
            producer = value.producer()
            assert producer is not None
            used = any(not all(o in known for o in use.node.outputs) for use in value.uses())
            if not used or value.is_graph_output():
                continue
            if not context.allow(self.name, producer.name or producer.op_type):
                return count
            dtype = np.int32 if value.dtype == ir.DataType.INT32 else np.int64
            constant = ir.add_initializer(graph, array.astype(dtype), value.name or "size")
            ir.replace_uses(value, constant)
            stale.append(producer)
            count += 1
        for node in list(graph):
            if node.domain == "" and node.op_type in ("Reshape", "Slice") and len(node.inputs) > 1:
                index, target = _target(node, sizes)
                if target is None:
                    continue
                if not context.allow(self.name, node.name or node.op_type):
                    break
                old = node.inputs[index]
                assert old is not None
                node.replace_input_with(index, ir.add_initializer(graph, target, old.name or "size"))
                if node.op_type == "Reshape":
                    node.attributes.pop("allowzero", None)
                stale += [p] if (p := old.producer()) is not None else []
                count += 1
            elif ir.operator(node) == "Where" and (branch := _taken(node, sizes)) is not None:
                if not context.allow(self.name, node.name or node.op_type):
                    break
                ir.replace_uses(node.outputs[0], branch)
                stale.append(node)
                count += 1
        ir.sweep(reversed(stale))
        return count


def _taken(node: ir.Node, sizes: Sizes) -> ir.Value | None:
    """The branch of a Where between vectors of sizes that is surely taken as a whole."""
    which, output = sizes.truth(node.inputs[0]), node.outputs[0]
    if which is None or output.is_graph_output() or which.all() != which.any():
        return None
    branch = node.inputs[1 if which.all() else 2]
    taken, made = sizes.array(branch), sizes.array(output)
    return branch if taken is not None and made is not None and taken.shape == made.shape else None


def _target(node: ir.Node, sizes: Sizes) -> tuple[int, Array | None]:
    """Which input of a Reshape or Slice can become which constant."""
    if node.op_type == "Slice":
        return 2, _slice_end(node, sizes)
    return 1, _reshape_target(node, sizes)


def _reshape_target(node: ir.Node, sizes: Sizes) -> Array | None:
    array, source = sizes.array(node.inputs[1]), sizes.dims(node.inputs[0])
    if array is None or source is None or ir.is_constant(node.inputs[1]):
        return None
    if ir.attribute(node, "allowzero", 0) and any(size.number == 0 for size in array.reshape(-1)):
        return None  # a size of zero, which a constant target cannot mix with sizes that are copied
    target: list[int] = []
    for axis, size in enumerate(array.reshape(-1)):
        number = size.number
        if number is not None:
            target.append(number)
        elif axis < len(source) and size == source[axis]:
            target.append(0)
        else:
            target.append(-1)
    if target.count(-1) > 1:
        return None
    given = -1 in target and array.reshape(-1)[target.index(-1)].number == -1
    if -1 in target and (not given or ir.attribute(node, "allowzero", 0)):
        # The new -1 is what is left when the number of elements is divided by the other sizes; if one were zero (an
        # empty batch), the division would fail where the model as given works.
        others = [size.number for t, size in zip(target, array.reshape(-1), strict=True) if t != -1]
        if not all(others):
            return None
    return np.array(target, np.int64)


def _slice_end(node: ir.Node, sizes: Sizes) -> Array | None:
    ends, dims = sizes.array(node.inputs[2]), sizes.dims(node.inputs[0])
    if ends is None or dims is None or ir.is_constant(node.inputs[2]):
        return None
    stand_in = node.inputs[2]
    parts = slice_parts(node, lambda v: np.zeros(ends.size, np.int64) if v is stand_in else sizes.numbers(v))
    if parts is None:
        return None
    found = []
    for (axis, start, _, step), end in zip(parts, ends.reshape(-1), strict=True):
        if end.number is not None:
            found.append(end.number)
        elif step > 0 and start >= 0 and end == dims[axis]:
            found.append(_TO_THE_END)
        else:
            return None
    return np.array(found, np.int32 if stand_in is not None and stand_in.dtype == ir.DataType.INT32 else np.int64)
