"""Loading, saving, copying and hashing models."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir

from lwgraph.errors import ModelError
from lwgraph.ir.types import DataType, Model, Shape, Source
from lwgraph.ir.walk import link, scopes, values


def load(source: Source) -> Model:
    """A model from a path, bytes, a ModelProto, or an onnx_ir.Model (copied, so that the caller's stays as it is)."""
    if isinstance(source, Model):
        return clone(source)
    if isinstance(source, onnx.ModelProto):
        model = onnx_ir.from_proto(source)
    elif isinstance(source, bytes):
        model = onnx_ir.from_proto(onnx.load_model_from_string(source))
    else:
        path = Path(source)
        if not path.exists():
            raise ModelError(f"model '{path}' does not exist")
        model = onnx_ir.load(path)
    link([model.graph, *model.functions.values()])
    return model


def clone(model: Model) -> Model:
    """A copy that shares nothing but the data of the tensors. O(nodes)."""
    other = model.clone()
    other.meta.update(model.meta)
    for scope in scopes(other):
        for value in values(scope):
            value.type = copy.copy(value.type)  # onnx_ir shares it, and writing value.dtype changes it in place
    link([other.graph, *other.functions.values()])
    return other


def save(model: Model, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write `model` to `path`."""
    if Path(path).exists() and not overwrite:
        raise ModelError(f"'{path}' exists; pass overwrite to replace it")
    onnx_ir.save(model, path)


def to_proto(model: Model) -> onnx.ModelProto:
    """The model as a ModelProto, all tensors inside."""
    return onnx_ir.to_proto(model)


def detached_proto(
    model: Model, outputs: Sequence[str], at_least: int, dtypes: Container[DataType]
) -> tuple[onnx.ModelProto, dict[str, npt.NDArray[Any]]]:
    """The model with `outputs` as its graph outputs, without its large initializers, and those by name.

    An initializer of the main graph of `at_least` bytes or more and of one of `dtypes` becomes an external tensor
    without a file. The arrays are views of the model's own memory or memory map, not copies: a model with gigabytes of
    external data costs none.

    Raises:
        ModelError: an initializer cannot be read.
    """
    detached = model.clone()
    graph = detached.graph
    inputs = {value.name: value for value in graph.inputs}
    known = {value.name: value for node in graph for value in node.outputs}
    known.update(graph.initializers)
    known.update(inputs)
    graph.outputs[:] = [known[name] for name in dict.fromkeys(outputs)]
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < at_least or tensor.dtype not in dtypes or name in inputs:
            continue
        try:
            arrays[name] = np.ascontiguousarray(tensor.numpy())
        except (OSError, ValueError) as error:
            raise ModelError(f"initializer '{name}' cannot be read: {error}") from error
        value.const_value = onnx_ir.ExternalTensor(
            f"detached/{len(arrays)}", 0, tensor.nbytes, tensor.dtype, shape=Shape(arrays[name].shape), name=name
        )
    return onnx_ir.to_proto(detached), arrays


def fingerprint(model: Model) -> str:
    """SHA-256 (hex) of the deterministic serialization."""
    return hashlib.sha256(to_proto(model).SerializeToString(deterministic=True)).hexdigest()
