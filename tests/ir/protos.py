"""Comparing ModelProtos."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import numpy_helper

from lwgraph import ir


def normal(proto: onnx.ModelProto) -> bytes:
    """The bytes of `proto` without the freedom that ONNX leaves: how tensors are stored, what order maps have."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    stack = [copy.graph, *copy.functions]
    strip(copy)
    pairs(copy)
    while stack:
        graph = stack.pop()
        pairs(graph)
        if isinstance(graph, onnx.GraphProto):
            for tensor in graph.initializer:
                raw(tensor)
            defined = {tensor.name for tensor in graph.initializer}
            known = {name for op in graph.node for name in op.output}
            kept = sorted((info for info in graph.value_info if info.name in known - defined), key=lambda i: i.name)
            kept = [onnx.ValueInfoProto.FromString(info.SerializeToString()) for info in kept]
            del graph.value_info[:]
            graph.value_info.extend(kept)
        for op in graph.node:
            pairs(op)
            op.domain = "" if op.domain == "ai.onnx" else op.domain
            for attribute in op.attribute:
                if attribute.HasField("t"):
                    raw(attribute.t)
                if attribute.HasField("g"):
                    stack.append(attribute.g)
            while op.output and not op.output[-1]:
                op.output.pop()
    return copy.SerializeToString(deterministic=True)


def strip(message) -> None:
    """Set to nothing is not set."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for item in value if isinstance(value, Sequence) else [value]:
                strip(item)
        elif value in ("", b"") or (field.name == "model_version" and value == 0):
            message.ClearField(field.name)


def pairs(message) -> None:
    if hasattr(message, "metadata_props"):
        entries = sorted((entry.key, entry.value) for entry in message.metadata_props)
        del message.metadata_props[:]
        for key, value in entries:
            message.metadata_props.add(key=key, value=value)


def raw(tensor: onnx.TensorProto) -> None:
    if tensor.data_type != onnx.TensorProto.STRING and not tensor.HasField("raw_data"):
        data = ir.Tensor(numpy_helper.to_array(tensor), ir.DataType(tensor.data_type)).tobytes()
        for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            tensor.ClearField(field)
        tensor.raw_data = data
