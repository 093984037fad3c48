"""Checks operators, arity, attributes and element types against the schemas of onnx and the functions of the model."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import onnx.defs

from lwgraph import ir
from lwgraph.check.error import InvariantError, named
from lwgraph.errors import ModelError, did_you_mean


@dataclass(frozen=True)
class _Formal:
    """One formal input or output of an operator."""

    name: str
    required: bool
    variable: str  # the type variable; "" where each item of a list has its own type
    types: frozenset[str]  # the allowed types, such as "tensor(float)"


@dataclass(frozen=True)
class _Schema:
    """The signature of an operator; fetched once, as each access to onnx's own object copies."""

    inputs: tuple[_Formal, ...]
    outputs: tuple[_Formal, ...]
    input_count: tuple[int, int]
    output_count: tuple[int, int]
    attributes: dict[str, str]
    required: tuple[str, ...]
    deprecated: bool


@functools.cache
def _schema(domain: str, operator: str, version: int) -> _Schema | None:
    try:
        schema = onnx.defs.get_schema(operator, version, domain)
    except onnx.defs.SchemaError:
        return None

    def formals(parameters: list[onnx.defs.OpSchema.FormalParameter]) -> tuple[_Formal, ...]:
        option = onnx.defs.OpSchema.FormalParameterOption
        return tuple(
            _Formal(
                each.name,
                each.option == option.Single,
                each.type_str if each.is_homogeneous else "",
                frozenset(each.types),
            )
            for each in parameters
        )

    return _Schema(
        formals(list(schema.inputs)),
        formals(list(schema.outputs)),
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
        {name: attribute.type.name for name, attribute in schema.attributes.items()},  # type: ignore[attr-defined]
        tuple(name for name, attribute in schema.attributes.items() if attribute.required),
        schema.deprecated,
    )


@functools.cache
def _versions() -> dict[str, dict[str, int]]:
    """Domain -> operator -> the first opset that has it, of all operators onnx knows."""
    found: dict[str, dict[str, int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        names = found.setdefault(schema.domain, {})
        names[schema.name] = min(schema.since_version, names.get(schema.name, schema.since_version))
    return found


# Experiments that ONNX dropped, or defined only later. ONNX Runtime still runs them, from opset 1 on.
_EXPERIMENTS = frozenset({
    "Affine", "Crop", "DynamicSlice", "GivenTensorFill", "GRUUnit", "ImageScaler", "MeanVarianceNormalization",
    "ParametricSoftplus", "Scale", "ScaledTanh", "ThresholdedRelu",
})  # fmt: skip


def check_operators(model: ir.Model) -> None:
    """Invariants 6 to 9."""
    calls: dict[tuple[str, str, str], ir.Function] = dict(model.functions)
    for scope in ir.scopes(model):
        graph = ir.graph_of(scope)
        top = ir.root(graph)
        parameters = next((set(f.attributes) for f in model.functions.values() if f.graph is top), None)
        for node in scope:
            _references(node, graph, parameters)
            function = calls.get(node.op_identifier())
            if function is not None:
                _call(node, graph, function)
            else:
                _operator(node, graph)


def _references(node: ir.Node, graph: ir.Graph, parameters: set[str] | None) -> None:
    for name, attribute in node.attributes.items():
        if not attribute.is_ref():
            continue
        if parameters is None:
            raise InvariantError(
                "attributes",
                f"attribute '{name}' of {named(node)} refers to parameter "
                f"'{attribute.ref_attr_name}', outside a function",
                node=node,
                scope=graph,
            )
        if attribute.ref_attr_name not in parameters:
            raise InvariantError(
                "attributes",
                f"attribute '{name}' of {named(node)} refers to parameter "
                f"'{attribute.ref_attr_name}', which the function does not have; "
                f"it has: {', '.join(sorted(parameters)) or 'none'}",
                node=node,
                scope=graph,
            )


def _call(node: ir.Node, graph: ir.Graph, function: ir.Function) -> None:
    for what, given, taken in (
        ("inputs", _length(node.inputs), len(function.inputs)),
        ("outputs", len(node.outputs), len(function.outputs)),
    ):
        if given > taken:
            raise InvariantError(
                "arity", f"{named(node)} has {given} {what}; the function has {taken}", node=node, scope=graph
            )
    for name in node.attributes:
        if name not in function.attributes:
            raise InvariantError(
                "attributes",
                f"{named(node)} gives attribute '{name}', which the function does not "
                f"have{did_you_mean(name, function.attributes)}",
                node=node,
                scope=graph,
            )


def _length(values: Sequence[ir.Value | None]) -> int:
    """The number of values up to the last that is not left out."""
    return next(
        (length for length in range(len(values), 0, -1) if (last := values[length - 1]) is not None and last.name), 0
    )


def _operator(node: ir.Node, graph: ir.Graph) -> None:
    try:
        version = ir.opset(node)
    except ModelError as error:
        raise InvariantError("operator", str(error), node=node, scope=graph) from None
    if node.domain not in _versions():
        return
    schema = _schema(node.domain, node.op_type, version)
    place = f"opset {version} of domain '{node.domain or 'ai.onnx'}'"
    if schema is None:
        if node.domain == "" and node.op_type in _EXPERIMENTS:
            return
        names = _versions()[node.domain]
        since = names.get(node.op_type)
        raise InvariantError(
            "operator",
            f"{named(node)}: {place} has no operator '{node.op_type}'"
            + (
                f"; it came with opset {since}"
                if since is not None and since > version
                else did_you_mean(node.op_type, names)
                if since is None
                else ""
            ),
            node=node,
            scope=graph,
        )
    if schema.deprecated:
        raise InvariantError(
            "operator", f"{named(node)}: {place} has '{node.op_type}' no more (deprecated)", node=node, scope=graph
        )
    _arity(node, graph, schema)
    _attributes(node, graph, schema)
    _types(node, graph, schema)


def _arity(node: ir.Node, graph: ir.Graph, schema: _Schema) -> None:
    for what, given, (least, most) in (
        ("inputs", _length(node.inputs), schema.input_count),
        ("outputs", _length(node.outputs), schema.output_count),
    ):
        # An input that is left out counts as one given: which of them may be is said below.
        if what == "inputs":
            given = max(given, min(len(node.inputs), least))
        if not least <= given <= most:
            allowed = f"{least}" if least == most else f"{least} or more" if most > 1 << 20 else f"{least} to {most}"
            raise InvariantError(
                "arity", f"{named(node)} has {given} {what}; it takes {allowed}", node=node, scope=graph
            )
    for index, formal in enumerate(schema.inputs):
        if formal.required and (index >= len(node.inputs) or node.inputs[index] is None):
            raise InvariantError(
                "arity", f"{named(node)} lacks its input {index} ('{formal.name}')", node=node, scope=graph
            )


def _attributes(node: ir.Node, graph: ir.Graph, schema: _Schema) -> None:
    for name, attribute in node.attributes.items():
        expected = schema.attributes.get(name)
        if expected is None:
            raise InvariantError(
                "attributes",
                f"{named(node)} has no attribute '{name}'{did_you_mean(name, schema.attributes)}",
                node=node,
                scope=graph,
            )
        if attribute.type.name != expected:
            raise InvariantError(
                "attributes",
                f"attribute '{name}' of {named(node)} has type {attribute.type.name}; it takes {expected}",
                node=node,
                scope=graph,
            )
    for name in schema.required:
        if name not in node.attributes:
            raise InvariantError("attributes", f"{named(node)} lacks its attribute '{name}'", node=node, scope=graph)


def _types(node: ir.Node, graph: ir.Graph, schema: _Schema) -> None:
    if ir.operator(node) == "Constant":
        return  # before opset 9 only floats were allowed; exporters wrote integers all the same, and runtimes take them
    bound: dict[str, tuple[str, str]] = {}
    for values, formals in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
        for index, value in enumerate(values):
            kind = value.type if value is not None else None
            if value is None or kind is None or not formals:
                continue
            formal, text = formals[min(index, len(formals) - 1)], _type(kind)
            if formal.types and text not in formal.types:
                raise InvariantError(
                    "types",
                    f"'{value.name}' is {text}, which {named(node)} does not take as "
                    f"'{formal.name}'; allowed: {', '.join(sorted(formal.types))}",
                    node=node,
                    value=value,
                    scope=graph,
                )
            if formal.variable:
                before, name = bound.setdefault(formal.variable, (text, value.name or ""))
                if before != text:
                    raise InvariantError(
                        "types",
                        f"'{name}' is {before} and '{value.name}' is {text}; {named(node)} wants them equal",
                        node=node,
                        value=value,
                        scope=graph,
                    )


def _type(kind: ir.TypeProtocol) -> str:
    """A type as schemas write it: tensor(float), seq(tensor(int64))."""
    if isinstance(kind, ir.SequenceType):
        return f"seq({_type(kind.elem_type)})"
    if isinstance(kind, ir.OptionalType):
        return f"optional({_type(kind.elem_type)})"
    return f"{'sparse_' if isinstance(kind, ir.SparseTensorType) else ''}tensor({kind.dtype.name.lower()})"
