"""Raises the opset of a model that needs newer operators."""

from __future__ import annotations

import warnings

import onnx
import onnx.version_converter

from lwgraph import ir
from lwgraph.check import verify
from lwgraph.errors import LwgraphError

_LARGEST = 1 << 30  # bytes; ONNX's converter copies the model several times and cannot write 2 GB


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
    if ir.size(model) > _LARGEST:
        raise OpsetError(
            f"opset {now} cannot be raised to {wanted}: the model has {ir.size(model) / 1e9:.1f} GB, "
            f"at most {_LARGEST / 1e9:.1f} GB can be converted; export it at opset {wanted}"
        )
    before = ir.to_proto(model)
    bare = onnx.ModelProto()
    bare.CopyFrom(before)
    # The converter infers shapes anew and fails where an exporter recorded others.
    del bare.graph.value_info[:]
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            after = onnx.version_converter.convert_version(bare, wanted)
    except Exception as error:  # the converter raises RuntimeError, ConvertError and more
        words = " ".join(str(error).split())[:160]
        raise OpsetError(f"opset {now} cannot be raised to {wanted} ({words}); export it at opset {wanted}") from error
    # The converter drops what it does not know: annotations, and domains beside ONNX's.
    del after.metadata_props[:]
    after.metadata_props.extend(before.metadata_props)
    noted = {node.output[0]: node for node in before.graph.node if node.metadata_props and node.output}
    for node in after.graph.node:
        if node.output and node.output[0] in noted:
            del node.metadata_props[:]
            node.metadata_props.extend(noted[node.output[0]].metadata_props)
    known = {o.domain for o in after.opset_import}
    after.opset_import.extend(o for o in before.opset_import if o.domain not in known)
    after.ir_version = max(before.ir_version, onnx.helper.find_min_ir_version_for(after.opset_import, True))
    for field in ("producer_name", "producer_version", "domain", "doc_string"):
        setattr(after, field, getattr(before, field))
    after.model_version = before.model_version
    ir.replace_contents(model, _with_shapes(before, after))


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
