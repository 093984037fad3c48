"""The names of onnx_ir that the rest of lwgraph uses."""

from __future__ import annotations

import logging
import os
from typing import Protocol, TypeAlias

import onnx
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
    SequenceType,
    Shape,
    SparseTensorType,
    SymbolicDim,
    Tensor,
    TensorProtocol,
    TensorType,
    TypeProtocol,
    Value,
)


class Exported(Protocol):
    """What holds a model as `torch.onnx.export(..., dynamo=True)` returns it, an `ONNXProgram`."""

    @property
    def model(self) -> Model:
        """The model."""
        ...


Source: TypeAlias = "str | os.PathLike[str] | bytes | onnx.ModelProto | Model | Exported"

# onnx_ir logs warnings about broken models; with no handler they would be printed. `check.verify` reports them instead.
logging.getLogger("onnx_ir").addHandler(logging.NullHandler())

__all__ = [
    "Attr",
    "AttributeType",
    "DataType",
    "Exported",
    "Function",
    "Graph",
    "Model",
    "Node",
    "OptionalType",
    "RefAttr",
    "SequenceType",
    "Shape",
    "Source",
    "SparseTensorType",
    "SymbolicDim",
    "Tensor",
    "TensorProtocol",
    "TensorType",
    "TypeProtocol",
    "Value",
]
