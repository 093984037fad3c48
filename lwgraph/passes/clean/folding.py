"""Computes what depends on constants only; shared by the passes that fold."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lwgraph import ir
from lwgraph.arrays import division_trap
from lwgraph.errors import LwgraphError
from lwgraph.rewrite import Context
from lwgraph.rewrite.operators import is_deterministic

# Results are made of the inputs' own bits, or of single IEEE operations that every runtime rounds the same way.
EXACT = frozenset(
    {
        "Abs",
        "Add",
        "And",
        "ArgMax",
        "ArgMin",
        "BitShift",
        "BitwiseAnd",
        "BitwiseNot",
        "BitwiseOr",
        "BitwiseXor",
        "Cast",
        "CastLike",
        "Ceil",
        "Clip",
        "Compress",
        "Concat",
        "ConstantOfShape",
        "DepthToSpace",
        "Div",
        "Equal",
        "Expand",
        "EyeLike",
        "Flatten",
        "Floor",
        "Gather",
        "GatherElements",
        "GatherND",
        "Greater",
        "GreaterOrEqual",
        "Identity",
        "IsInf",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "Max",
        "Min",
        "Mul",
        "Neg",
        "NonZero",
        "Not",
        "OneHot",
        "Or",
        "Pad",
        "Range",
        "ReduceMax",
        "ReduceMin",
        "Relu",
        "Reshape",
        "ScatterElements",
        "ScatterND",
        "Shape",
        "Sign",
        "Size",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Tile",
        "TopK",
        "Transpose",
        "Trilu",
        "Unsqueeze",
        "Where",
        "Xor",
    }
)
# Exact on integers only: sums and products of floats depend on their order.
EXACT_ON_INTEGERS = frozenset({"CumSum", "MatMul", "Mod", "Pow", "ReduceProd", "ReduceSum", "Round", "Sum"})
# Never folded: quantization is there to keep data small and for runtimes to see; sequences have no constants.
_KEPT = frozenset(
    {
        "Constant",
        "DequantizeLinear",
        "QuantizeLinear",
        "DynamicQuantizeLinear",
        "If",
        "Loop",
        "Scan",
        "Optional",
        "OptionalGetElement",
        "OptionalHasElement",
        "SequenceAt",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceLength",
        "SequenceMap",
        "SplitToSequence",
        "ConcatFromSequence",
        "TfIdfVectorizer",
    }
)
# Their result may be much larger than their inputs, by a size that stands in an input.
_GROWING = frozenset(
    {
        "ConstantOfShape",
        "Expand",
        "EyeLike",
        "OneHot",
        "Pad",
        "Range",
        "Resize",
        "Tile",
        "Upsample",
        "CenterCropPad",
        "Col2Im",
        "MaxUnpool",
        "ConvTranspose",
        "Gather",
        "GatherND",
        "GatherElements",
    }
)
_FLOATS = frozenset({"FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"})


def is_exact(node: ir.Node) -> bool:
    """Whether every runtime computes the same bits."""
    if node.op_type in EXACT_ON_INTEGERS:
        return all(v is None or (v.dtype is not None and v.dtype.name not in _FLOATS) for v in node.inputs)
    return node.op_type in EXACT


@dataclass
class Folder:
    """Folds the nodes of one graph for which `wanted` holds and whose inputs are all constants.

    A group of nodes that hang together is folded when its results take at most `max_growth` bytes more for each node
    that goes than the initializers that go with it; otherwise only its results of at most `max_growth` bytes are.
    Nothing larger than `max_bytes` is computed. The context's reference executor computes.
    """

    graph: ir.Graph
    in_function: bool
    name: str
    context: Context
    wanted: Callable[[ir.Node], bool]
    max_growth: int = 1024
    max_bytes: int = 1 << 28
    stopped: bool = field(default=False, init=False)
    refused: set[ir.Node] = field(default_factory=set, init=False)

    def run(self) -> int:
        """Fold to a fixed point; return how many nodes were folded away. O(nodes) for each level of growing nodes."""
        count = 0
        while not self.stopped:
            refused = len(self.refused)
            groups = [
                (group, results) for group in _groups(self._foldable(), self.max_growth) if (results := _results(group))
            ]
            done = self._fold_all(groups)
            count += done
            if not done and len(self.refused) == refused:
                break
        return count

    def _fold_all(self, groups: list[tuple[list[ir.Node], list[ir.Value]]]) -> int:
        """All groups in one execution; where that fails, each on its own, to find which to leave."""
        if not groups:
            return 0
        try:
            arrays = self._compute([n for group, _ in groups for n in group], [v for _, r in groups for v in r])
        except LwgraphError as error:
            if len(groups) > 1:
                return sum(self._fold_all([pair]) for pair in groups)
            for node in groups[0][0]:
                self._refuse(node, f"cannot be computed: {error}")
            return 0
        return sum(self._fold_group(group, {v: arrays[v] for v in results}) for group, results in groups)

    def _foldable(self) -> dict[ir.Node, None]:
        """Nodes, in graph order, that depend on constants only."""
        found: dict[ir.Node, None] = {}
        for node in self.graph:
            if (
                node.op_type in _KEPT
                or not is_deterministic(node.op_type, node.domain)
                or node in self.refused
                or not node.inputs
                or not self.wanted(node)
                or (node.op_type == "Identity" and node.outputs[0].is_graph_output())
                or any(a.is_ref() for a in node.attributes.values())
                or any(v.type is not None and not isinstance(v.type, ir.TensorType) for v in node.outputs)
            ):
                continue
            growing = node.op_type in _GROWING
            divides = node.op_type in ("Div", "Mod")
            known = True
            for value in node.inputs:
                if value is None or ir.is_constant(value):
                    continue
                # a growing node waits until its inputs are there, to see how much it grows, a division to see by what
                if growing or divides or value.producer() not in found:
                    known = False
                    break
            if known and (not growing or self._bounded(node)) and (not divides or self._divides(node)):
                found[node] = None
        return found

    def _bounded(self, node: ir.Node) -> bool:
        size = _grown_elements(node)
        if size is not None and size * 8 <= self.max_bytes:
            return True
        self._refuse(
            node,
            "its result would be too large to compute"
            if size is not None
            else "the size of its result is not known before computing it",
        )
        return False

    def _divides(self, node: ir.Node) -> bool:
        """Whether a division has a result: of integers, some end the process where the runtime computes them."""
        a, b = (ir.constant(value) for value in node.inputs)
        words = "" if a is None or b is None or a.dtype.kind not in "iu" else division_trap(a, b)
        if words:
            self._refuse(node, f"it divides {words}")
        return not words

    def _fold_group(self, group: list[ir.Node], arrays: dict[ir.Value, npt.NDArray[np.generic]]) -> int:
        inside = set(group)
        sources = {v for n in group for v in n.inputs if v is not None and v.producer() not in inside}
        freed = sum(_nbytes(v) for v in sources if all(use.node in inside for use in v.uses()))
        if sum(a.nbytes for a in arrays.values()) > freed + self.max_growth * len(group):
            for value, array in list(arrays.items()):
                if array.nbytes > self.max_growth:
                    producer = value.producer()
                    assert producer is not None
                    self._refuse(producer, f"its result has {array.nbytes} bytes, more than it would save")
                    del arrays[value]
        return self._replace(group, arrays)

    def _compute(self, group: list[ir.Node], results: list[ir.Value]) -> dict[ir.Value, npt.NDArray[np.generic]]:
        """The results' arrays, by a model made of the group and the constants it uses."""
        copies: dict[ir.Value, ir.Value] = {}
        initializers = []
        for node in group:
            for value in node.inputs:
                if value is None or value in copies or not ir.is_constant(value):
                    continue
                tensor = ir.constant_tensor(value)
                assert tensor is not None
                copies[value] = ir.unattached_constant(tensor)
                copies[value].name = f"c{len(copies)}"
                initializers.append(copies[value])
        nodes = []
        for index, node in enumerate(group):
            made = ir.make_node(
                node.op_type,
                [None if v is None else copies[v] for v in node.inputs],
                node.attributes,
                node.domain,
                len(node.outputs),
            )
            made.name = f"n{index}"
            for position, (old, new) in enumerate(zip(node.outputs, made.outputs, strict=True)):
                new.name = f"v{index}_{position}"
                new.type = old.type
                copies[old] = new
            nodes.append(made)
        opsets = dict(ir.root(self.graph).opset_imports)
        opsets.update(self.graph.opset_imports)
        graph = ir.Graph(
            [], [copies[v] for v in results], nodes=nodes, initializers=initializers, opset_imports=opsets, name="fold"
        )
        run = self.context.evaluator().prepare(ir.Model(graph, ir_version=_IR_VERSION))
        found = run({})
        return {value: np.asarray(found[copies[value].name or ""]) for value in results}

    def _replace(self, group: list[ir.Node], arrays: dict[ir.Value, npt.NDArray[np.generic]]) -> int:
        for value, array in arrays.items():
            producer = value.producer()
            assert producer is not None
            if not self.context.allow(self.name, producer.name or producer.op_type):
                self.stopped = True
                break
            name = value.name or producer.name or "folded"
            constant = ir.unattached_constant(array)
            if self.in_function:
                node = ir.constant_node(constant)
                node.name = ir.fresh_name(self.graph, f"{name}_constant")
                self.graph.insert_before(producer, node)
                constant = node.outputs[0]
                constant.name = ir.fresh_name(self.graph, name)
            else:
                ir.attach_initializer(self.graph, constant, ir.fresh_name(self.graph, name))
            ir.replace_uses(value, constant)
        return len(ir.sweep(reversed(group)))

    def _refuse(self, node: ir.Node, reason: str) -> None:
        self.refused.add(node)
        self.context.skip(self.name, node.name or node.op_type, reason)


_IR_VERSION = 10  # the version of models made only to be computed; every runtime reads it


def _results(group: list[ir.Node]) -> list[ir.Value]:
    """The values of a group that something outside it uses."""
    inside = set(group)
    return [
        v for n in group for v in n.outputs if v.is_graph_output() or any(use.node not in inside for use in v.uses())
    ]


def _groups(nodes: dict[ir.Node, None], small: int) -> list[list[ir.Node]]:
    """Nodes connected by values or by shared constants of more than `small` bytes, each group in graph order."""
    parent: dict[object, object] = {}

    def find(item: object) -> object:
        while parent.setdefault(item, item) is not item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for node in nodes:
        for value in node.inputs:
            if value is not None and (value.producer() in nodes or _nbytes(value) > small):
                parent[find(value)] = find(node)
        for value in node.outputs:
            parent[find(value)] = find(node)
    groups: dict[object, list[ir.Node]] = {}
    for node in nodes:
        groups.setdefault(find(node), []).append(node)
    return list(groups.values())


def _nbytes(value: ir.Value) -> int:
    tensor = ir.constant_tensor(value)
    return 0 if tensor is None else tensor.nbytes


def _grown_elements(node: ir.Node) -> int | None:
    """The number of elements in the result of a growing node, from its constant inputs; None if it is not known."""
    first = ir.constant_shape(node.inputs[0]) if node.inputs else None
    second = ir.constant(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else None
    size = math.prod(first) if first is not None else None
    if node.op_type == "ConstantOfShape":
        shape = ir.constant(node.inputs[0])
        return None if shape is None else math.prod(int(s) for s in shape)
    if size is None:
        return None
    if node.op_type == "Expand" and second is not None:
        return size * math.prod(int(s) for s in second)  # an upper bound
    if node.op_type == "Tile" and second is not None:
        return size * math.prod(int(s) for s in np.atleast_1d(second))
    if node.op_type == "OneHot" and second is not None:
        return size * int(np.asarray(second).reshape(-1)[0])
    if node.op_type == "Range":
        values = [ir.constant(v) for v in node.inputs]
        if any(v is None for v in values):
            return None
        start, limit, delta = (float(np.asarray(v).reshape(-1)[0]) for v in values)
        return None if delta == 0 else max(0, math.ceil((limit - start) / delta))
    if node.op_type in ("EyeLike", "GatherElements"):
        return size
    if node.op_type in ("Gather", "GatherND"):
        return size * math.prod(second.shape) if second is not None else None  # an upper bound
    if node.op_type == "Pad":
        return _padded(node, first or (), second)
    shapes = [v.shape.numpy() if v.shape is not None and v.shape.is_static() else None for v in node.outputs]
    return None if None in shapes else max((math.prod(s) for s in shapes if s is not None), default=None)


def _padded(node: ir.Node, shape: tuple[int, ...], pads: npt.NDArray[np.generic] | None) -> int | None:
    if pads is None:
        found = ir.attribute(node, "pads")
        pads = None if found is None else np.asarray(found)
    if pads is None:
        return None
    extra = int(np.abs(pads.astype(np.int64)).sum())
    return math.prod(s + extra for s in shape)  # an upper bound
