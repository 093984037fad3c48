"""onnx's blocked int4: MODEL FEEDS OUT OPTIONS, options: block.

Weights become int4 with DequantizeLinear (opset 21) in front of the layer: one scale for each `block` inputs of an
output, or for each output where a layer has fewer inputs than that.
"""

import json
import sys

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

OPSET, IR, LEAST = 21, 10, 1024  # the first with blocks, and its IR; the least weights that are worth a scale
model, _, out, given = sys.argv[1:]
block = json.loads(given)["block"]


def weights(node: onnx.NodeProto) -> dict[int, tuple[int, int]]:
    """The inputs of a node that may be weights, each with its axis of inputs and that of outputs."""
    if node.op_type == "Conv":
        return {1: (1, 0)}
    if node.op_type == "ConvTranspose":
        return {1: (0, 1)}
    if node.op_type == "Gemm":
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        return {1: (1, 0) if transposed else (0, 1)}
    if node.op_type == "MatMul":
        return {1: (-2, -1)}
    if node.op_type in ("LSTM", "GRU", "RNN"):
        return {1: (2, 1), 2: (2, 1)}
    return {0: (1, 0)} if node.op_type == "Gather" else {}


proto = onnx.load(model)
if next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")) < OPSET:
    proto = version_converter.convert_version(proto, OPSET)
proto.ir_version = max(proto.ir_version, IR)
graph = proto.graph
constants = {each.name: each for each in graph.initializer}
done: dict[str, str] = {}
nodes = []
for node in graph.node:
    for index, (inputs, outputs) in weights(node).items():
        name = node.input[index]
        tensor = constants.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        weight = numpy_helper.to_array(tensor)
        if weight.size < LEAST:
            continue
        if name not in done:
            inputs, outputs = inputs % weight.ndim, outputs % weight.ndim
            count = weight.shape[inputs]
            if count >= block:
                starts = np.arange(0, count, block)
                scale = np.maximum.reduceat(np.abs(weight), starts, axis=inputs) / 7
                spread = np.take(scale, np.arange(count) // block, axis=inputs)
                attributes = {"axis": inputs, "block_size": block}
            else:
                others = tuple(axis for axis in range(weight.ndim) if axis != outputs)
                spread = np.abs(weight).max(others, keepdims=True) / 7
                scale, attributes = spread.reshape(-1), {"axis": outputs}
            whole = np.divide(weight, spread, out=np.zeros_like(weight), where=spread > 0)
            integers = np.clip(np.rint(whole), -7, 7).astype(np.int8)
            graph.initializer.append(numpy_helper.from_array(integers.astype(ml_dtypes.int4), f"{name}_int4"))
            graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), f"{name}_scale"))
            done[name] = f"{name}_float"
            nodes.append(
                helper.make_node("DequantizeLinear", [f"{name}_int4", f"{name}_scale"], [done[name]], **attributes)
            )
        node.input[index] = done[name]
    nodes.append(node)
nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
del graph.node[:]
graph.node.extend(nodes)
used = {name for node in graph.node for name in node.input} | {each.name for each in graph.output}
kept = [each for each in graph.initializer if each.name in used]
del graph.initializer[:]
graph.initializer.extend(kept)
del graph.value_info[:]
onnx.save(proto, out)
