"""A model at a newer opset, where what it needs is not in its own."""

from __future__ import annotations

import warnings

import onnx
import onnx.version_converter

from lwgraph import ir
from lwgraph.errors import LwgraphError

_LARGEST = 1 << 30  # bytes; ONNX's converter copies the model several times and cannot write 2 GB


class OpsetError(LwgraphError):
    """Why a model cannot be brought to another opset."""


def raise_opset(model: ir.Model, wanted: int) -> None:
    """Bring `model` to opset `wanted`, in place, by ONNX's version converter. Nothing to do when it is there.

    Outputs stay bit-identical: the converter only rewrites operators whose definition changed.

    Raises:
        OpsetError: the converter cannot do it; the message says why.
    """
    now = model.graph.opset_imports.get("", 1)
    if now >= wanted:
        return
    if model.functions:
        raise OpsetError(f"opset {now} cannot be raised to {wanted}: the model has functions of its own; inline them")
    if ir.size(model) > _LARGEST:
        raise OpsetError(f"opset {now} cannot be raised to {wanted}: the model has {ir.size(model) / 1e9:.1f} GB, "
                         f"at most {_LARGEST / 1e9:.1f} GB can be converted; export it at opset {wanted}")
    before = ir.to_proto(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            after = onnx.version_converter.convert_version(before, wanted)
    except Exception as error:  # the converter raises RuntimeError, ConvertError and more
        words = " ".join(str(error).split())[:160]
        raise OpsetError(f"opset {now} cannot be raised to {wanted} ({words}); export it at opset {wanted}") from error
    # The converter drops what it does not know: annotations, and domains beside ONNX's.
    del after.metadata_props[:]
    after.metadata_props.extend(before.metadata_props)
    known = {o.domain for o in after.opset_import}
    after.opset_import.extend(o for o in before.opset_import if o.domain not in known)
    after.ir_version = max(before.ir_version, onnx.helper.find_min_ir_version_for(after.opset_import, True))
    for field in ("producer_name", "producer_version", "domain", "doc_string"):
        setattr(after, field, getattr(before, field))
    after.model_version = before.model_version
    ir.replace_contents(model, ir.load(after))


__all__ = ["OpsetError", "raise_opset"]
