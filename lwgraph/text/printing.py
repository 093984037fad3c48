"""Prints a model as text: one line per node, stable, so that two texts can be compared by eye or by diff(1)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lwgraph import ir

INLINE = 8  # a constant of at most this many elements shows them, a larger one a hash


def to_text(model: ir.Model) -> str:
    """The whole model: header, main graph, functions; data as shape, type and the first 8 digits of its SHA-256.

    One line a node: `y: float[N,64] = Conv(x, w, b) {pads=[1,1,1,1]}  # name`. Reads every tensor once.
    """
    lines = [f"model ir_version={model.ir_version} opset={{{_opsets(model.opset_imports)}}}"]
    for key in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        if value := getattr(model, key):
            lines.append(f"  {key}: {value!r}")
    lines += [f"  {key} = {value!r}" for key, value in sorted(model.metadata_props.items())]
    lines += _scope(model.graph, "graph", 0)
    for function in model.functions.values():
        lines += _scope(function, "function", 0)
    return "\n".join(lines) + "\n"


def node_text(node: ir.Node) -> str:
    """One node on one line: its outputs with types, operator, inputs, attributes and name."""
    outputs = ", ".join(value_text(value) if value.name else "_" for value in node.outputs)
    inputs = ", ".join(_quote(value.name or "?") if value is not None else "_" for value in node.inputs)
    attributes = ", ".join(f"{name}={attribute_text(node.attributes[name])}" for name in sorted(node.attributes))
    return (
        f"{outputs}{' = ' if outputs else ''}{operator(node)}({inputs})"
        f"{f' {{{attributes}}}' if attributes else ''}{f'  # {node.name}' if node.name else ''}"
    )


def operator(node: ir.Node) -> str:
    """The operator with its domain, where that is not ONNX's own: `Conv`, `com.microsoft::Gelu`."""
    name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    return f"{name}:{node.overload}" if node.overload else name


def value_text(value: ir.Value) -> str:
    """`name: type`, as far as the type is known."""
    kind = type_text(value)
    return f"{_quote(value.name or '?')}{f': {kind}' if kind else ''}"


def type_text(value: ir.Value) -> str:
    """`float[N,3,224,224]`; `float` when the shape is unknown; `seq(float[2])`; "" when nothing is known."""
    if value.type is None:
        return "" if value.shape is None else shape_text(value.shape)
    shape = "" if value.shape is None else shape_text(value.shape)
    return _type(value.type, shape)


def _type(kind: ir.TypeProtocol, shape: str) -> str:
    if isinstance(kind, ir.SequenceType):
        return f"seq({_type(kind.elem_type, shape)})"
    if isinstance(kind, ir.OptionalType):
        return f"optional({_type(kind.elem_type, shape)})"
    sparse = "sparse_" if isinstance(kind, ir.SparseTensorType) else ""
    return f"{sparse}{kind.dtype.name.lower()}{shape}"


def shape_text(shape: ir.Shape) -> str:
    """`[N,3,?]`: numbers, names, and ? for a dimension nothing is known of."""
    return "[" + ",".join(str(size) if isinstance(size, int) else size.value or "?" for size in shape) + "]"


def tensor_text(tensor: ir.TensorProtocol) -> str:
    """Type and shape of a tensor with its elements when they are few, else with the start of its hash."""
    head = f"{tensor.dtype.name.lower()}{shape_text(ir.Shape(tensor.shape.numpy()))}"
    if tensor.size > INLINE:
        return f"{head} #{ir.digest(tensor).hex()[:8]}"
    return f"{head} {_array(tensor.numpy())}"


def attribute_text(attribute: ir.Attr) -> str:
    """The value of an attribute; graphs by name, tensors as `tensor_text`, a function's parameter as `@name`."""
    if attribute.is_ref():
        return f"@{attribute.ref_attr_name}"
    kind, value = attribute.type, attribute.value
    if kind == ir.AttributeType.TENSOR:
        return tensor_text(value)
    if kind == ir.AttributeType.TENSORS:
        return "[" + ", ".join(tensor_text(tensor) for tensor in value) + "]"
    if kind == ir.AttributeType.GRAPH:
        return f"<graph {value.name}>"
    if kind == ir.AttributeType.GRAPHS:
        return "[" + ", ".join(f"<graph {graph.name}>" for graph in value) + "]"
    if kind == ir.AttributeType.TYPE_PROTO:
        shape = "" if value.shape is None else shape_text(value.shape)
        return "none" if value.type is None else _type(value.type, shape)
    if isinstance(value, tuple):
        return "[" + ",".join(_scalar(item) for item in value) + "]"
    return _scalar(value)


def _scalar(value: object) -> str:
    # The shortest digits that give the same float32 back: what the file holds.
    return str(np.float32(value)) if isinstance(value, float) else repr(value)


def _array(array: object) -> str:
    items = np.asarray(array)
    if items.ndim == 0:
        return str(items.item() if items.dtype.kind in "OSU" else items)
    return "[" + ", ".join(_array(item) for item in items) + "]"


def _quote(name: str) -> str:
    return name if name and not any(c.isspace() or c in "(){}=,#" for c in name) else repr(name)


def _opsets(imports: dict[str, int]) -> str:
    return ", ".join(f"{domain or 'ai.onnx'}: {version}" for domain, version in sorted(imports.items()))


def _scope(scope: ir.Graph | ir.Function, kind: str, depth: int) -> Iterator[str]:
    graph, pad = ir.graph_of(scope), "  " * depth
    name, parameters = graph.name or "", ""
    if isinstance(scope, ir.Function):
        name = f"{scope.domain}::{scope.name}{f':{scope.overload}' if scope.overload else ''}"
        texts = [
            f"{key}={attribute_text(attribute)}" if attribute.value is not None else key
            for key, attribute in scope.attributes.items()
        ]
        parameters = f"<{', '.join(texts)}> opset={{{_opsets(scope.opset_imports)}}} "
    inputs = ", ".join(value_text(value) for value in graph.inputs)
    outputs = ", ".join(value_text(value) for value in graph.outputs)
    yield f"{pad}{kind} {name} {parameters}({inputs}) -> ({outputs}) {{"
    for value in graph.initializers.values():
        data = tensor_text(value.const_value) if value.const_value is not None else "nothing"
        yield f"{pad}  {_quote(value.name or '')} := {data}"
    for node in graph:
        yield f"{pad}  {node_text(node)}"
        for subgraph in ir.subgraphs_of(node):
            yield from _scope(subgraph, "graph", depth + 2)
    yield f"{pad}}}"
