"""Outputs that are as long as values say, such as the boxes that remain: an approximation may change how many."""

from __future__ import annotations

from lwgraph import ir
from lwgraph.calibrate.input_use import COUNTS, STRUCTURAL

_SIZES = frozenset({"ConstantOfShape", "Expand", "If", "Loop", "Pad", "Range", "Reshape", "Resize", "Slice", "Split",
                    "Tile", "TopK", "Upsample"})  # fmt: skip


def sized_by_values(model: ir.Model) -> frozenset[str]:
    """Names of the outputs some size of which follows from values that the model computes, not from its inputs' sizes.

    Some more may be among them: what such a value goes into counts as such, and so do operators of other domains.
    O(nodes) of the main graph.
    """
    computed = {id(value) for value in model.graph.inputs}
    sized: set[int] = set()
    for node in model.graph:
        if node.op_type in ("Shape", "Size") and node.domain == "":
            source = node.inputs[0]
            if source is not None and id(source) in sized:
                computed.update(map(id, node.outputs))
            continue
        inputs = [value for value in node.inputs if value is not None]
        if not any(id(value) in computed for value in inputs) and node.op_type not in ("If", "Loop", "Scan"):
            continue
        computed.update(map(id, node.outputs))
        says = node.inputs[STRUCTURAL[node.op_type] :] if node.op_type in _SIZES else ()
        if (
            node.op_type in COUNTS
            or node.domain not in ("", "ai.onnx", "ai.onnx.ml")
            or any(id(value) in sized for value in inputs)
            or any(value is not None and id(value) in computed for value in says)
        ):
            sized.update(map(id, node.outputs))
    return frozenset(value.name or "" for value in model.graph.outputs if id(value) in sized)
