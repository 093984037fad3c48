"""Copies of models, and the types that onnx_ir has no word for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import onnx
import onnx_ir
from onnx_ir.passes import common

from lwgraph.errors import ModelError
from lwgraph.ir.types import AttributeType, Model, Node, Value
from lwgraph.ir.walk import graph_of, link, scopes, uses, values

_TYPE = "type_proto"  # key in a value's meta: its TypeProto, serialized, where onnx_ir has no such type (maps)


def clone(model: Model) -> Model:
    """A copy that shares nothing but the data of the tensors. O(nodes)."""
    other = model.clone()
    other.meta.update(model.meta)
    for scope in scopes(other):
        for value in values(scope):
            value.type = copy.copy(value.type)  # onnx_ir shares it, and writing value.dtype changes it in place
    link([other.graph, *other.functions.values()])
    return other


def first_change(before: Model, after: Model) -> str:
    """The first difference between a copy and the model that it was made of, in words; "" where there is none.

    Tensors are told apart by which they are, not by their data, and documentation and metadata do not count. O(nodes).
    """
    pairs = zip(scopes(before), scopes(after), strict=False)
    for old, new in pairs:
        a, b = graph_of(old), graph_of(new)
        where = f"graph '{a.name}'"
        if [v.name for v in a.inputs] != [v.name for v in b.inputs]:
            return f"the inputs of {where}"
        if [v.name for v in a.outputs] != [v.name for v in b.outputs]:
            return f"the outputs of {where}"
        if a.initializers.keys() != b.initializers.keys():
            name = min(a.initializers.keys() ^ b.initializers.keys())
            return f"the initializers of {where}: '{name}' was {'removed' if name in a.initializers else 'added'}"
        for name, value in a.initializers.items():
            if value.const_value is not b.initializers[name].const_value:
                return f"initializer '{name}'"
        if len(a) != len(b):
            return f"{where}: it had {len(a)} nodes and has {len(b)}"
        for x, y in zip(a, b, strict=True):
            if what := _node_change(x, y):
                return f"{what} of node '{x.name or x.op_type}'"
    if len(list(scopes(before))) != len(list(scopes(after))) or before.opset_imports != after.opset_imports:
        return "its functions, subgraphs or opsets"
    return ""


def _node_change(a: Node, b: Node) -> str:
    if (a.op_type, a.domain, a.name) != (b.op_type, b.domain, b.name):
        return "the operator or the name"
    if [v and v.name for v in a.inputs] != [v and v.name for v in b.inputs]:
        return "the inputs"
    for x, y in zip(a.outputs, b.outputs, strict=False):
        if (x.name, x.type, x.shape) != (y.name, y.type, y.shape):
            return f"output '{x.name}'"
    if len(a.outputs) != len(b.outputs):
        return "the outputs"
    if a.attributes.keys() != b.attributes.keys():
        return "the attributes"
    for name, attribute in a.attributes.items():
        other = b.attributes[name]
        if attribute is other or attribute.type in (AttributeType.GRAPH, AttributeType.GRAPHS):
            continue  # graphs inside are compared as scopes
        if attribute.type != other.type or attribute.value != other.value:
            return f"attribute '{name}'"
    return ""


def extract(model: Model, inputs: Sequence[str], outputs: Sequence[str]) -> Model:
    """A model of the nodes between named values of the main graph, sharing nothing but the tensors' data.

    Raises:
        ModelError: a value does not exist, or an output depends on a graph input that is not among `inputs`.
    """
    known = {value.name: value for value in values(model.graph)}
    for name in (*inputs, *outputs):
        if name not in known:
            raise ModelError(f"the model has no value '{name}' in its main graph")
    return piece(model, [known[n] for n in inputs], [known[n] for n in outputs], positions(model))


def positions(model: Model) -> dict[Node, int]:
    """The number of each node of the main graph, for `piece`."""
    return {node: index for index, node in enumerate(model.graph)}


def piece(model: Model, inputs: Sequence[Value], outputs: Sequence[Value], places: Mapping[Node, int]) -> Model:
    """As `extract`, between values, for one piece after another: O(nodes of the piece), not of the model.

    Args:
        model: the model.
        inputs, outputs: values of its main graph.
        places: its `positions`.

    Raises:
        ModelError: an output depends on a graph input that is not among `inputs`.
    """
    border, nodes, stack = set(inputs), set[Node](), list(outputs)
    while stack:
        value = stack.pop()
        node = None if value in border else value.producer()
        if node is not None and node in places and node not in nodes:  # others are inside of nodes
            nodes.add(node)
            stack.extend(uses(node))
    whole = model.graph
    view = onnx_ir.GraphView(
        inputs,
        outputs,
        nodes=sorted(nodes, key=lambda node: places[node]),
        doc_string=whole.doc_string,
        opset_imports=whole.opset_imports,
        name=whole.name,
        metadata_props=whole.metadata_props,
    )
    try:
        graph = onnx_ir.convenience.extract(view, list(inputs), list(outputs))
    except ValueError as error:
        names = (", ".join(value.name or "" for value in some) for some in (inputs, outputs))
        raise ModelError(f"the region from {' to '.join(names)} needs more inputs: {error}") from error
    functions = clone(model).functions.values() if model.functions else ()
    other = Model(graph, ir_version=model.ir_version, functions=list(functions))
    link([other.graph, *other.functions.values()])
    return other


def inlined(model: Model) -> Model:
    """The model, or a copy with the nodes of its functions where these are called; values of the main graph stay.

    A model whose functions cannot be inlined (they import other opset versions than the model) is returned as it is.
    """
    if not model.functions:
        return model
    other = clone(model)
    try:
        inline(other)
    except InlineError:
        return model
    return other


class InlineError(ModelError):
    """A function that cannot be inlined."""


def inline(model: Model) -> None:
    """Put the nodes of the model's functions where these are called, in place; values of the main graph stay.

    Raises:
        InlineError: it imports another opset version than the model, takes a graph, or calls itself; the model may then
            be changed in part.
    """
    try:
        common.InlinePass()(model)
    except (ValueError, onnx_ir.passes.PassError) as error:
        raise InlineError(f"a function cannot be inlined: {error.__cause__ or error}") from error
    link([model.graph, *model.functions.values()])


def calls(model: Model) -> list[Node]:
    """The nodes that call a function of the model."""
    return [node for scope in scopes(model) for node in scope if node.op_identifier() in model.functions]


def _has_map(proto: onnx.TypeProto) -> bool:
    kind = proto.WhichOneof("value")
    if kind in ("sequence_type", "optional_type"):
        return _has_map(getattr(proto, kind).elem_type)
    return bool(kind == "map_type")


def remember_types(proto: onnx.ModelProto) -> Callable[[Model], None]:
    """Take the map types out of `proto`'s main graph, and return what gives them to the model made from it."""
    found: dict[str, bytes] = {}
    for infos in (proto.graph.input, proto.graph.output, proto.graph.value_info):
        for info in infos:
            if _has_map(info.type):
                found[info.name] = info.type.SerializeToString()
                info.ClearField("type")

    def give(model: Model) -> None:
        if found:
            model.meta[_TYPE] = True
            for value in (*values(model.graph), *model.graph.outputs):
                if value.name in found:
                    value.meta[_TYPE] = found[value.name]

    return give


def recall_types(model: Model, proto: onnx.ModelProto) -> None:
    """Write the types that `remember_types` set aside into `proto`."""
    if not model.meta.get(_TYPE):
        return
    known = {value.name: value.meta[_TYPE] for value in values(model.graph) if _TYPE in value.meta}
    graph = proto.graph
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.name in known:
            info.type.ParseFromString(known.pop(info.name))
    for name, text in known.items():
        graph.value_info.add(name=name).type.ParseFromString(text)


def take_over(old: Value, new: Value) -> None:
    """Give `new` what is recorded about `old` and not about itself: type, shape, documentation, metadata."""
    new.type = copy.copy(old.type) if new.type is None else new.type
    new.shape = old.shape if new.shape is None else new.shape
    new.doc_string = new.doc_string or old.doc_string
    for key, text in old.metadata_props.items():
        new.metadata_props.setdefault(key, text)
    for key, item in old.meta.items():
        new.meta.setdefault(key, item)
