"""A model in the kind of object that the caller came with."""

from __future__ import annotations

import copy
import os
from typing import Any

import onnx

from lwgraph.ir.saving import to_proto
from lwgraph.ir.types import Model, Source


def as_kind_of(source: Source, model: Model) -> Any:
    """`model` as the same kind of object as `source`, from which `load` read it; of a path, the model itself.

    Raises:
        ModelError: bytes or a ModelProto cannot hold it, being over 2 GB.
    """
    if isinstance(source, (Model, str, os.PathLike)):
        return model
    if isinstance(source, bytes):
        return to_proto(model).SerializeToString(deterministic=True)
    if isinstance(source, onnx.ModelProto):
        return to_proto(model)
    program: Any = source
    if hasattr(program, "exported_program"):  # torch's ONNXProgram, which keeps a session of the old model
        return type(program)(model, program.exported_program)
    made = copy.copy(program)
    made.model = model
    return made


__all__ = ["as_kind_of"]
