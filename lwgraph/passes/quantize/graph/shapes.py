"""Infers types and shapes where the file records none: a quantizer must know which tensors are floats."""

from __future__ import annotations

import onnx

from lwgraph import ir


def infer(model: ir.Model) -> None:
    """Fill in the missing types and shapes of the main graph's values by ONNX's shape inference. O(nodes).

    What the model records already stays. Operators that ONNX does not know leave their outputs without a type.
    """
    values = [v for node in model.graph for v in node.outputs]
    if all(v.dtype is not None and v.shape is not None for v in values):
        return
    try:
        inferred = ir.infer(ir.skeleton(model))
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return
    known = {info.name: info.type for info in [*inferred.graph.value_info, *inferred.graph.output]}
    for value in values:
        found = known.get(value.name or "")
        if found is None or not found.HasField("tensor_type"):
            continue
        tensor = found.tensor_type
        if value.dtype is None and tensor.elem_type:
            value.type = ir.TensorType(ir.DataType(tensor.elem_type))
        if value.shape is None and tensor.HasField("shape"):
            value.shape = ir.Shape(
                [d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in tensor.shape.dim]
            )


__all__ = ["infer"]
