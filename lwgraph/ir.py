"""The one door to onnx_ir: the graph types, loading and saving, and the small edits every pass needs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir
from onnx_ir import (
    Attr,
    AttributeType,
    DataType,
    Function,
    Graph,
    Model,
    Node,
    OptionalType,
    RefAttr,
    Shape,
    SymbolicDim,
    TensorType,
    Value,
)

from lwgraph.errors import ModelError

Source: TypeAlias = "str | os.PathLike[str] | bytes | onnx.ModelProto | Model"


def load(source: Source) -> Model:
    """A model from a path, bytes, a ModelProto, or an onnx_ir.Model (copied, so that the caller's stays as it is)."""
    if isinstance(source, Model):
        return source.clone()
    if isinstance(source, onnx.ModelProto):
        return onnx_ir.from_proto(source)
    if isinstance(source, bytes):
        return onnx_ir.from_proto(onnx.load_model_from_string(source))
    path = Path(source)
    if not path.exists():
        raise ModelError(f"model '{path}' does not exist")
    return onnx_ir.load(path)


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
    clone = model.clone()
    graph = clone.graph
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
    return onnx_ir.to_proto(clone), arrays


def fingerprint(model: Model) -> str:
    """SHA-256 (hex) of the deterministic serialization."""
    return hashlib.sha256(to_proto(model).SerializeToString(deterministic=True)).hexdigest()


def scopes(model: Model) -> Iterator[Graph | Function]:
    """The main graph, its nested subgraphs, and every function with its subgraphs."""
    yield model.graph
    yield from model.graph.subgraphs()
    for function in model.functions.values():
        yield function
        yield from function.subgraphs()


def constant(value: Value | None) -> npt.NDArray[Any] | None:
    """The array of an initializer (not overridable by a graph input) or of a Constant's output; None for anything else."""
    if value is None or value.is_graph_input():
        return None
    tensor = onnx_ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def fresh_name(graph: Graph, stem: str) -> str:
    """`stem`, or `stem_1`, `stem_2` ...: a name no value and no node of the graph has."""
    raise NotImplementedError


def add_initializer(graph: Graph, array: npt.NDArray[Any], stem: str) -> Value:
    """A new initializer of `graph` holding `array`, under a fresh name."""
    raise NotImplementedError


def remove(node: Node) -> None:
    """Remove `node` from its graph; CheckError when an output is still used (onnx_ir's unsafe removal leaves dangling uses)."""
    assert node.graph is not None
    node.graph.remove(node, safe=True)


__all__ = [
    "Attr", "AttributeType", "DataType", "Function", "Graph", "Model", "Node", "OptionalType", "RefAttr", "Shape",
    "Source", "SymbolicDim", "TensorType", "Value", "add_initializer", "constant", "detached_proto", "fingerprint",
    "fresh_name", "load", "remove", "save", "scopes", "to_proto",
]
