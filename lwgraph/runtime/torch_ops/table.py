"""The table of operators, and the view of a node that its function gets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch

from lwgraph import ir
from lwgraph.errors import ModelError

Tensor: TypeAlias = "torch.Tensor"
Compute = Callable[..., Any]  # the inputs in order (None: not given) -> a tensor, or a tuple of tensors
_DOMAINS = {"": "", "ai.onnx": ""}

_DTYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.UINT32: torch.uint32,
    ir.DataType.UINT64: torch.uint64,
    ir.DataType.INT4: torch.int8,
    ir.DataType.UINT4: torch.uint8,  # one per byte: torch computes with no smaller type
    ir.DataType.INT2: torch.int8,
    ir.DataType.UINT2: torch.uint8,
    ir.DataType.COMPLEX64: torch.complex64,
    ir.DataType.COMPLEX128: torch.complex128,
}
LIMITS = {
    ir.DataType.INT2: (-2, 1), ir.DataType.UINT2: (0, 3), ir.DataType.INT4: (-8, 7), ir.DataType.UINT4: (0, 15),
    ir.DataType.INT8: (-128, 127), ir.DataType.UINT8: (0, 255), ir.DataType.INT16: (-32768, 32767),
    ir.DataType.UINT16: (0, 65535), ir.DataType.INT32: (-(2**31), 2**31 - 1),
}  # fmt: skip


class UnsupportedError(ModelError):
    """A node, or an option of it, that this executor cannot run."""


@dataclass
class Mode:
    """The settings that may change while a module lives.

    batch_statistics: BatchNormalization nodes of an inference model normalize by the batch and update their running
        mean and variance, as in training.
    rounded_gradients: convolutions in float32 compute their derivatives in bfloat16; see rounded.py.
    """

    batch_statistics: bool = False
    rounded_gradients: bool = False


@dataclass(frozen=True)
class Op:
    """A node as its builder sees it. `precise`: float32 is computed, carried and cast to as float64."""

    node: ir.Node
    version: int
    precise: bool = False
    soft: bool = False  # integers in and out are carried as float codes, so that gradients pass (see quantize.py)
    mode: Mode = field(default_factory=Mode)

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value, or the default."""
        return ir.attribute(self.node, name, default)

    def ints(self, name: str) -> list[int] | None:
        """An attribute of integers as a list; None when absent."""
        found = ir.attribute(self.node, name)
        return None if found is None else [int(v) for v in found]

    def has(self, index: int) -> bool:
        """Whether the node has an input at `index`."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def gives(self, index: int) -> bool:
        """Whether the node has a named output at `index`."""
        return index < len(self.node.outputs) and bool(self.node.outputs[index].name)

    def kind(self, value: ir.Value | None) -> ir.DataType | None:
        """The recorded element type of a value, where there is one."""
        return None if value is None else value.dtype

    def dtype(self, kind: int | ir.DataType) -> Any:
        """The torch dtype that carries an ONNX element type."""
        kind = ir.DataType(kind)
        if self.precise and kind == ir.DataType.FLOAT:
            return torch.float64
        if kind not in _DTYPES:
            raise self.refuse(f"element type {kind.name} is not supported")
        return _DTYPES[kind]

    def refuse(self, why: str) -> UnsupportedError:
        """The error for this node: `raise op.refuse("...")`."""
        return UnsupportedError(f"the torch executor cannot run node '{self.node.name}' ({self.node.op_type}): {why}")


MakeCompute = Callable[[Op], Compute]
OPERATORS: dict[str, MakeCompute] = {}


def operator(*names: str) -> Callable[[MakeCompute], MakeCompute]:
    """Register a builder: called once per node, it returns the function that computes the node."""

    def register(builder: MakeCompute) -> MakeCompute:
        for name in names:
            OPERATORS[name] = builder
        return builder

    return register


def simple(**functions: Compute) -> None:
    """Register operators without attributes: the function of the tensors itself."""
    for name, function in functions.items():
        OPERATORS[name] = functools.partial(_same, function)


def _same(function: Compute, op: Op) -> Compute:
    return function


def known(node: ir.Node) -> bool:
    """Whether the table has the node's operator."""
    return node.domain in _DOMAINS and node.op_type in OPERATORS


def to_torch(array: Any) -> Tensor:
    """A tensor over a copy of a NumPy array; 4-bit and 2-bit integers become bytes."""
    array = np.asarray(array)
    if array.dtype.kind in "OSU":
        raise ModelError("the torch executor has no strings")
    name = array.dtype.name
    if name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16)
    if name in ("int4", "int2"):
        array = array.astype(np.int8)
    elif name in ("uint4", "uint2"):
        array = array.astype(np.uint8)
    elif name.startswith(("float8", "float4")):
        raise ModelError(f"the torch executor has no {name}")
    return torch.from_numpy(np.array(array, order="C", copy=True))


def to_numpy(tensor: Tensor, kind: ir.DataType | None = None) -> Any:
    """The tensor as an array of the NumPy (or ml_dtypes) type of `kind`, by default of the tensor's own."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        array = tensor.contiguous().view(torch.uint16).numpy().view(ir.DataType.BFLOAT16.numpy())
    else:
        array = tensor.numpy()
    if kind is not None and array.dtype != kind.numpy():
        array = array.astype(kind.numpy())
    return np.array(array, copy=True, order="C")


def integers(tensor: Tensor) -> list[int]:
    """A shape-like tensor as Python integers."""
    return [int(v) for v in tensor.reshape(-1).tolist()]


def axes_of(axes: Sequence[int], rank: int) -> list[int]:
    """Axes made non-negative."""
    return [a + rank if a < 0 else a for a in axes]
