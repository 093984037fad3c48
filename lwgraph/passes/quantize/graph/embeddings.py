"""Stores embedding tables in 8 bits: rows are gathered as integers and scaled afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lwgraph import ir
from lwgraph.passes.quantize.grids.second_order import row_scales, to_nearest


def quantize_embeddings(graph: ir.Graph, nodes: Sequence[ir.Node]) -> int:
    """Rewrite Gather(table, i) as Cast(Gather(integers, i)) * Gather(scales, i), one scale per row of the table.

    Only the gathered rows are scaled; a DequantizeLinear before the Gather would unpack the whole table at every run.
    O(31 * table).
    """
    for node in nodes:
        table = ir.constant(node.inputs[0])
        assert table is not None
        rows = table.astype(np.float64)
        scale = np.maximum(row_scales(rows, 127), 1e-30).astype(np.float32)
        integers = to_nearest(rows, scale.astype(np.float64), 127).astype(np.int8)
        _install(graph, node, integers, scale[:, None])
    return len(nodes)


def _install(
    graph: ir.Graph,
    node: ir.Node,
    integers: np.ndarray[tuple[int, ...], np.dtype[np.int8]],
    scale: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> None:
    old, indices, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert old is not None
    stem = old.name or "table"
    node.replace_input_with(0, ir.add_initializer(graph, integers, f"{stem}_quantized"))
    scales = ir.make_node("Gather", [ir.add_initializer(graph, scale, f"{stem}_scale"), indices], {"axis": 0})
    cast = ir.make_node("Cast", [output], {"to": int(ir.DataType.FLOAT)})
    product = ir.make_node("Mul", [cast.outputs[0], scales.outputs[0]])
    result = product.outputs[0]
    result.type, result.shape = output.type, output.shape
    name = output.name or stem
    for use in list(output.uses()):
        if use.node is not cast:
            use.node.replace_input_with(use.idx, result)
    for index, value in enumerate(graph.outputs):
        if value is output:
            graph.outputs[index] = result
    output.name, result.name = ir.fresh_name(graph, f"{name}_quantized"), name
    output.type = ir.TensorType(ir.DataType.INT8)
    for new, part in ((scales, "scale"), (cast, "float"), (product, "scaled")):
        new.name = ir.fresh_name(graph, f"{node.name}_{part}")
        if new is not product:
            new.outputs[0].name = ir.fresh_name(graph, f"{name}_{part}")
            new.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph.insert_after(node, [scales, cast, product])
    ir.sweep_values([old])


__all__ = ["quantize_embeddings"]
