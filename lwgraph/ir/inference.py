"""Makes the smallest model that gives ONNX's shape inference what it needs."""

from __future__ import annotations

import onnx
import onnx_ir

from lwgraph import heap
from lwgraph.ir.propagation import infer
from lwgraph.ir.saving import skeleton, written_version
from lwgraph.ir.types import Attr, AttributeType, DataType, Model, TensorType, Value
from lwgraph.ir.walk import subgraphs_of

_INSIDE = 1 << 16  # bytes of integers that may be shapes or indices
_RESIZING = ("Resize", "Upsample")  # whose scales are floats that sizes follow from
_STANDARD = ("", "ai.onnx.ml")  # domains whose operators ONNX can infer


def inferred_types(model: Model) -> dict[str, onnx.TypeProto]:
    """{name: type} of the main graph's values that follow from the inputs, initializers and operators.

    What is recorded is used for operators of other domains only.
    """
    proto = _flat(model)
    if proto is None:  # subgraphs, functions, large constants in attributes
        proto = skeleton(model)
        foreign = {value.name for node in model.graph if node.domain not in _STANDARD for value in node.outputs}
        kept = [info for info in proto.graph.value_info if info.name in foreign]
        del proto.graph.value_info[:]
        proto.graph.value_info.extend(kept)
    proto = infer(proto)
    types = {info.name: onnx.TypeProto.FromString(info.type.SerializeToString()) for info in proto.graph.value_info}
    del proto
    heap.trim()
    return types


def _flat(model: Model) -> onnx.ModelProto | None:
    """Nodes, types and small integers of a model of one graph; None when there is more to it."""
    if model.functions:
        return None
    proto = onnx.ModelProto(ir_version=written_version(model))
    for domain, version in model.graph.opset_imports.items():
        proto.opset_import.add(domain=domain, version=version)
    graph = proto.graph
    graph.name = "g"
    for value in model.graph.inputs:
        _describe(graph.input.add(), value)
    given = set(model.graph.inputs)
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or value in given:
            continue
        whole = tensor.dtype in (DataType.INT64, DataType.INT32) or any(
            u.node.op_type in _RESIZING for u in value.uses()
        )
        if whole and tensor.nbytes <= _INSIDE:
            made = graph.initializer.add(name=name, data_type=tensor.dtype, raw_data=tensor.tobytes())
            made.dims.extend(tensor.shape.numpy())
        else:
            kind = graph.input.add(name=name).type.tensor_type
            kind.elem_type = tensor.dtype
            kind.shape.SetInParent()
            for size in tensor.shape.numpy():
                kind.shape.dim.add(dim_value=size)
    for node in model.graph:
        made_node = graph.node.add(op_type=node.op_type, domain=node.domain)
        made_node.input.extend([v.name or "" if v is not None else "" for v in node.inputs])
        made_node.output.extend([v.name or "" for v in node.outputs])
        if node.attributes:
            if subgraphs_of(node):
                return None
            for name, attribute in node.attributes.items():
                if not _attribute(made_node.attribute.add(name=name, type=int(attribute.type)), attribute):
                    return None
        if node.domain not in _STANDARD:
            for value in node.outputs:
                if value.name and value.type is not None and not value.is_graph_output():
                    _describe(graph.value_info.add(), value)
    for value in model.graph.outputs:
        _describe(graph.output.add(), value)
    return proto


def _attribute(proto: onnx.AttributeProto, attribute: Attr) -> bool:
    kind, value = attribute.type, attribute.value
    if kind == AttributeType.INT:
        proto.i = value
    elif kind == AttributeType.FLOAT:
        proto.f = value
    elif kind == AttributeType.STRING:
        proto.s = value.encode()
    elif kind == AttributeType.INTS:
        proto.ints.extend(value)
    elif kind == AttributeType.FLOATS:
        proto.floats.extend(value)
    elif kind == AttributeType.STRINGS:
        proto.strings.extend([text.encode() for text in value])
    elif kind == AttributeType.TYPE_PROTO or (kind == AttributeType.TENSOR and value.nbytes <= _INSIDE):
        proto.CopyFrom(onnx_ir.serde.serialize_attribute(attribute))
    else:
        return False
    return True


def _describe(info: onnx.ValueInfoProto, value: Value) -> None:
    info.name = value.name or ""
    if value.type is None:
        return
    if not isinstance(value.type, TensorType):
        info.CopyFrom(onnx_ir.serde.serialize_value(value))
        return
    kind = info.type.tensor_type
    kind.elem_type = value.type.dtype
    if value.shape is None:
        return
    kind.shape.SetInParent()
    for size in value.shape:
        if isinstance(size, int):
            kind.shape.dim.add(dim_value=size)
        elif size.value is None:
            kind.shape.dim.add()
        else:
            kind.shape.dim.add(dim_param=size.value)
