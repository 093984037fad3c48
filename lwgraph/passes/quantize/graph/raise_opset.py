"""Raises the opset of a model that needs newer operators."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TypeAlias

import onnx
import onnx.version_converter

from lwgraph import ir
from lwgraph.check import verify
from lwgraph.errors import LwgraphError

Named: TypeAlias = onnx.TensorProto | onnx.ValueInfoProto
Annotated: TypeAlias = Named | onnx.ModelProto | onnx.GraphProto | onnx.NodeProto

_LARGEST = 1 << 30  # bytes; ONNX's converter copies what it is given several times and cannot write 2 GB
_EXACT_ZERO = 14  # the opset from which a Reshape can be told that 0 is a size


class OpsetError(LwgraphError):
    """Why a model cannot be brought to another opset."""


def raise_opset(model: ir.Model, wanted: int) -> None:
    """Bring `model` to opset `wanted`, in place, by ONNX's version converter. Nothing to do when it is there.

    The converter only rewrites operators whose definition changed, so outputs stay equal over the reals.

    Raises:
        OpsetError: the converter cannot do it; the message says why.
    """
    now = model.graph.opset_imports.get("", 1)
    if now >= wanted:
        return
    if model.functions:
        raise OpsetError(f"opset {now} cannot be raised to {wanted}: the model has functions of its own; inline them")
    before, weights = ir.without_weights(model)
    if (taken := before.ByteSize()) > _LARGEST:
        raise OpsetError(
            f"opset {now} cannot be raised to {wanted}: beside its initializers the model has {taken / 1e9:.1f} GB, "
            f"at most {_LARGEST / 1e9:.1f} GB can be converted; export it at opset {wanted}"
        )
    bare = onnx.ModelProto()
    bare.CopyFrom(before)
    # The converter infers shapes anew and fails where an exporter recorded others.
    del bare.graph.value_info[:]
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    after = _converted(bare, now, wanted)
    if wanted < _EXACT_ZERO and _restoring(after.graph, before.graph):
        after = _converted(bare, now, _EXACT_ZERO)
    for node in _restoring(after.graph, before.graph):
        node.attribute.append(onnx.helper.make_attribute("allowzero", 1))
    # The converter drops what it does not know: annotations, and domains beside ONNX's.
    _annotate(after, before)
    _annotate_graph(after.graph, before.graph)
    known = {o.domain for o in after.opset_import}
    after.opset_import.extend(o for o in before.opset_import if o.domain not in known)
    after.ir_version = max(before.ir_version, onnx.helper.find_min_ir_version_for(after.opset_import, True))
    for field in ("producer_name", "producer_version", "domain", "doc_string"):
        setattr(after, field, getattr(before, field))
    after.model_version = before.model_version
    inputs = {value.name or "" for value in model.graph.inputs}
    raised = _with_shapes(before, after)
    ir.put_weights(raised, weights, inputs)
    ir.replace_contents(model, raised)


def _converted(model: onnx.ModelProto, now: int, wanted: int) -> onnx.ModelProto:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return onnx.version_converter.convert_version(model, wanted)
    except Exception as error:  # the converter raises RuntimeError, ConvertError and more
        words = " ".join(str(error).split())[:160]
        raise OpsetError(f"opset {now} cannot be raised to {wanted} ({words}); export it at opset {wanted}") from error


def _restoring(new: onnx.GraphProto, old: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The Reshapes to sizes of another value that the converter put there, in bodies, too: around a Softmax over all
    axes from one on, where the rank is not known. An axis of size 0 would be copied from another one there."""
    kinds = {output: node for node in old.node for output in node.output}
    found = []
    for node in new.node:
        known = kinds.get(node.output[0]) if node.output else None
        if known is not None and node.op_type == "Reshape" and known.op_type != "Reshape":
            found.append(node)
        if known is not None and known.op_type == node.op_type:
            found += [each for inner, body in _bodies(node, known) for each in _restoring(inner, body)]
    return found


def _bodies(new: onnx.NodeProto, old: onnx.NodeProto) -> list[tuple[onnx.GraphProto, onnx.GraphProto]]:
    """Each body of a node, with that of the node which it was made from."""
    before = {each.name: each.g for each in old.attribute if each.HasField("g")}
    return [(each.g, before[each.name]) for each in new.attribute if each.name in before]


def _annotate(new: Annotated, old: Annotated) -> None:
    del new.metadata_props[:]
    new.metadata_props.extend(old.metadata_props)
    if old.doc_string:
        new.doc_string = old.doc_string


def _annotate_graph(new: onnx.GraphProto, old: onnx.GraphProto) -> None:
    """Give a converted graph, and the nodes, weights and values that it kept, what was written about them."""
    _annotate(new, old)
    made_by = {output: node for node in old.node for output in node.output if output}
    for node in new.node:
        if (known := next((made_by[output] for output in node.output if output in made_by), None)) is None:
            continue
        if node.op_type == known.op_type:
            node.name = node.name or known.name
        _annotate(node, known)
        for inner, body in _bodies(node, known):
            _annotate_graph(inner, body)
    kinds: tuple[tuple[Iterable[Named], Iterable[Named]], ...] = (
        (new.initializer, old.initializer),
        (new.input, old.input),
    )
    for news, olds in kinds:
        written = {each.name: each for each in olds}
        for each in news:
            if each.name in written:
                _annotate(each, written[each.name])


def _with_shapes(before: onnx.ModelProto, after: onnx.ModelProto) -> ir.Model:
    """The converted model with the shapes that were recorded, unless they contradict what the new opset infers."""
    recorded = onnx.ModelProto()
    recorded.CopyFrom(after)
    present = {name for node in after.graph.node for name in node.output}
    del recorded.graph.value_info[:]
    recorded.graph.value_info.extend(info for info in before.graph.value_info if info.name in present)
    for old, new in zip(before.graph.output, recorded.graph.output, strict=True):
        new.CopyFrom(old)
    model = ir.load(recorded)
    try:
        verify(model)
    except LwgraphError:
        del after.graph.value_info[:]
        return ir.load(after)
    return model


__all__ = ["OpsetError", "raise_opset"]
