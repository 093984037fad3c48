"""Runs operators that have no implementation here by onnx's own reference, with ours inside subgraphs and functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import RuntimeContextError

from lwgraph import ir
from lwgraph.runtime.control_flow import control_flow
from lwgraph.runtime.ops import BUILDERS, Function, Options, Spec, Unsupported


def attributes_of(node: onnx.NodeProto) -> dict[str, Any] | None:
    """A node's attributes for a Spec; None when one refers to an attribute of a function or is not plain data."""
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            return None
        value = helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif isinstance(value, onnx.TensorProto):
            value = numpy_helper.to_array(value)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            value = tuple(v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in value)
        found[attribute.name] = value
    return found


def _current(node: onnx.NodeProto, version: int) -> onnx.NodeProto:
    """The node as newer opsets spell it, which is all that onnx's evaluator knows; the node itself where they agree."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in ("Scatter", "RoiAlign", "GridSample"):
        return node  # a copy would copy bodies with all their weights
    found = onnx.NodeProto()
    found.CopyFrom(node)
    if node.op_type == "Scatter":  # ScatterElements since version 11
        found.op_type = "ScatterElements"
    elif node.op_type == "RoiAlign" and version < 16:
        found.attribute.append(helper.make_attribute("coordinate_transformation_mode", "output_half_pixel"))
    elif node.op_type == "GridSample" and version < 20:
        mode = next((each for each in found.attribute if each.name == "mode"), None)
        if mode is None:
            mode = found.attribute.add(name="mode", type=onnx.AttributeProto.STRING, s=b"bilinear")
        mode.s = {b"bilinear": b"linear", b"bicubic": b"cubic"}.get(mode.s, mode.s)
    return node if found == node else found


class _Ours:
    """One of our operators, as a node of onnx's evaluator."""

    has_linked_attribute = False

    def __init__(self, node: onnx.NodeProto, function: Function, other: Callable[[], Any]) -> None:
        self.onnx_node, self.input, self.output, self.op_type = node, node.input, node.output, node.op_type
        self._function, self._other = function, other
        self._fallback: Any = None

    def need_context(self) -> bool:
        return False

    def run(self, *inputs: Any, **_: Any) -> tuple[Any, ...]:
        if self._fallback is None:
            try:
                results = self._function(*inputs)
                return results if isinstance(results, tuple) else (results,)
            except Unsupported:
                self._fallback = self._other()
        return tuple(self._fallback.run(*inputs))


def evaluator_class(options: Options) -> type[ReferenceEvaluator]:
    """onnx's evaluator, preferring our operators; it hands itself down to subgraphs and functions."""

    class Evaluator(ReferenceEvaluator):
        def _load_impl(self, node: onnx.NodeProto, input_types: Any = None) -> Any:
            theirs = super()._load_impl
            current = _current(node, self.opsets.get(node.domain, 1))
            if current is not node:
                made = theirs(current, input_types) if input_types is not None else theirs(current)
                return lambda _, params: made(current, params)
            standard = node.domain in ("", "ai.onnx")
            if standard and (found := control_flow(node.op_type, self.opsets[node.domain])):
                return found
            builder = BUILDERS.get(node.op_type if standard else f"{node.domain}::{node.op_type}")
            if builder is None:
                return theirs(node, input_types) if input_types is not None else theirs(node)
            attributes = attributes_of(node)
            if attributes is None:
                return theirs(node)
            spec = Spec(
                node.op_type,
                self.opsets[node.domain],
                attributes,
                tuple(map(bool, node.input)),
                len(node.output),
                options=options,
            )
            try:
                function = builder(spec)
            except Unsupported:
                return theirs(node)
            return lambda proto, params: _Ours(proto, function, lambda: theirs(proto)(proto, params))

    return Evaluator


class Delegates:
    """Makes onnx's operators for the nodes of one model."""

    def __init__(self, model: ir.Model, options: Options) -> None:
        self._class = evaluator_class(options)
        self._opsets = dict(model.graph.opset_imports)
        self._opsets.setdefault("", self._opsets.get("ai.onnx", 1))
        self._functions: list[ReferenceEvaluator] = []
        for proto in ir.function_protos(model):
            self._functions.append(self._class(proto, functions=list(self._functions)))

    def operator(self, node: ir.Node) -> tuple[Callable[..., Any], list[str]]:
        """A function of the node's inputs and then of the outer values its subgraphs use, whose names are returned.

        Raises:
            Exception: onnx has no implementation of the operator; the text says so.
        """
        graph = onnx.GraphProto(name="node", node=[ir.node_proto(node)])
        proto = graph.node[0]
        outer = _outer_names(proto)
        try:
            inner = self._load(graph)
        except RuntimeContextError:
            return self._typed(graph, proto), []
        if not inner.need_context():
            return inner.run, []
        given = len(proto.input)

        def run(*values: Any) -> Any:
            context = dict(zip(proto.input, values[:given], strict=True))
            context.update(zip(outer, values[given:], strict=True))
            return inner.run(*values[:given], context=context)

        return run, outer

    def _load(self, graph: onnx.GraphProto) -> Any:
        (inner,) = self._class(graph, opsets=self._opsets, functions=list(self._functions)).rt_nodes_
        return inner

    def _typed(self, graph: onnx.GraphProto, node: onnx.NodeProto) -> Callable[..., Any]:
        """An operator whose definition depends on its inputs' types: made when they are known."""
        made: dict[tuple[Any, ...], Any] = {}

        def run(*values: Any) -> Any:
            given = [(name, value) for name, value in zip(node.input, values, strict=True) if name]
            key = tuple((value.dtype, value.shape) for _, value in given)
            if key not in made:
                typed = onnx.GraphProto()
                typed.CopyFrom(graph)
                for name, value in dict(given).items():
                    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
                    typed.input.append(helper.make_tensor_value_info(name, kind, value.shape))
                made[key] = self._load(typed)
            return made[key].run(*values)

        return run


def _outer_names(node: onnx.NodeProto) -> list[str]:
    """Names that the node's subgraphs use and do not define."""
    used: dict[str, None] = {}
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
            used.update(dict.fromkeys(_free_names(graph)))
    return list(used)


def _free_names(graph: onnx.GraphProto) -> list[str]:
    known = {tensor.name for tensor in graph.initializer}
    known.update(tensor.values.name for tensor in graph.sparse_initializer)
    known.update(value.name for value in graph.input)
    free: dict[str, None] = {}
    for node in graph.node:
        for name in (*node.input, *_outer_names(node)):
            if name and name not in known:
                free[name] = None
        known.update(node.output)
    for value in graph.output:
        if value.name and value.name not in known:
            free[value.name] = None
    return list(free)


def plain_attributes(attributes: Mapping[str, ir.Attr]) -> dict[str, Any] | None:
    """An ir node's attributes for a Spec; None when one is a graph or refers to an attribute of a function."""
    found: dict[str, Any] = {}
    for name, attribute in attributes.items():
        if attribute.is_ref() or attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            return None
        value = attribute.value
        if attribute.type == ir.AttributeType.TENSOR:
            value = value.numpy()
        elif isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            value = tuple(value)
        found[name] = value
    return found


__all__ = ["Delegates", "attributes_of", "evaluator_class", "plain_attributes"]
