"""Checks recorded types and shapes against ONNX's own shape inference."""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx
import onnx.checker
import onnx.defs

from lwgraph import ir
from lwgraph.check.error import InvariantError, named

_ERROR = re.compile(r"\(op_type:(?P<operator>[^,)]+)(?:, node name: #(?P<index>\d+)[^)]*)?\): ")
# Not a contradiction: inference could not give an earlier value a type (tree ensembles, operators that are functions of
# ONNX's own, another runtime's operators). That every value is defined is checked by structure.
_NO_TYPE = re.compile(
    r"expected to have type but instead is null|(Input|Output) \d+ has no type|type is (not known|null)"
)


def check_shapes(model: ir.Model) -> None:
    """Invariant 11. Serializes the structure; of the data only what may be shapes or indices."""
    proto = ir.skeleton(model)
    nodes: list[ir.Node] = []
    functions = zip((function.graph for function in model.functions.values()), proto.functions, strict=True)
    for graph, message in ((model.graph, proto.graph), *functions):
        for node, op in _nodes(graph, message):
            op.name = f"#{len(nodes)}"  # so that an error can be traced to its node, also to one without a name
            nodes.append(node)
    try:
        ir.infer(proto, strict=True)
    except onnx.shape_inference.InferenceError as error:
        for found in _errors(str(error), nodes):
            raise found from None
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:  # onnx.checker's and protobuf's own
        raise InvariantError("shapes", f"shape inference fails: {' '.join(str(error).split())[:300]}") from None


def _nodes(graph: ir.Graph, proto: onnx.GraphProto | onnx.FunctionProto) -> Iterator[tuple[ir.Node, onnx.NodeProto]]:
    for node, op in zip(graph, proto.node, strict=True):
        yield node, op
        bodies = [
            body
            for attribute in op.attribute
            for body in ([attribute.g] if attribute.HasField("g") else attribute.graphs)
        ]
        for inner, body in zip(ir.subgraphs_of(node), bodies, strict=True):
            yield from _nodes(inner, body)


def _errors(text: str, nodes: list[ir.Node]) -> Iterator[InvariantError]:
    """The errors in a message of onnx's shape inference, one a line, nested ones inside."""
    for line in text.removeprefix("[ShapeInferenceError] Inference error(s): ").splitlines():
        places = list(_ERROR.finditer(line))
        if not places or _NO_TYPE.search(line) or _inside_onnx(places, nodes):
            continue
        place = next((p for p in reversed(places) if p["index"]), None)
        node = nodes[int(place["index"])] if place else None
        reason = re.sub(r"\[(Shape|Type)InferenceError\] ", "", line[places[-1].end() :]).strip().rstrip(".")
        words = named(node) if node is not None else f"a node ({places[-1]['operator']})"
        yield InvariantError(
            "shapes",
            f"{words}: {reason[:1].lower()}{reason[1:]}",
            node=node,
            scope=node.graph if node is not None else None,
        )


def _inside_onnx(places: list[re.Match[str]], nodes: list[ir.Node]) -> bool:
    """Whether the error lies in the body that onnx itself gives an operator: its own mistake, not the model's."""
    named_places = [place for place in places if place["index"]]
    if len(named_places) == len(places):
        return False
    node = nodes[int(named_places[-1]["index"])] if named_places else None
    if node is None or places[-1]["index"]:
        return False
    try:
        schema = onnx.defs.get_schema(node.op_type, ir.opset(node), node.domain)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)  # type: ignore[attr-defined]
