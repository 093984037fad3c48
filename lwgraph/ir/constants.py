"""Reading constants: initializers, Constant nodes of every form, and node attributes."""

from __future__ import annotations

from typing import Any, TypeVar, overload

import numpy as np
import onnx_ir

from lwgraph.arrays import Array
from lwgraph.errors import ModelError
from lwgraph.ir.types import DataType, Node, Tensor, TensorProtocol, Value

T = TypeVar("T")
_PART = 1 << 22  # elements looked at at once
_FINITE = "lwgraph.finite"  # what is known of a tensor, kept with it


class ReferenceAttributeError(ModelError):
    """An attribute inside a function body takes its value from the caller, so it is not known here."""


def constant_tensor(value: Value | None) -> TensorProtocol | None:
    """The tensor of an initializer or of a Constant node's output, with `.shape`, `.dtype`, `.nbytes`; its data unread.

    None for anything else, also for an initializer that is a graph input too (the caller may override it) and for a
    Constant whose attribute is a reference to a function's parameter.
    """
    if value is None or value.is_graph_input():
        return None
    if value.is_initializer():
        return value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain != "":
        return None
    return constant_of(node)


def constant_of(node: Node) -> TensorProtocol | None:
    """The tensor that a Constant node holds, in whichever of its attributes; None when it is a reference or missing."""
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            return None
        if name == "value":
            return attribute.value  # type: ignore[no-any-return]  # as_tensor() checks a protocol, slowly
        if name in ("value_float", "value_floats"):
            return Tensor(np.array(attribute.value, dtype=np.float32))
        if name in ("value_int", "value_ints"):
            return Tensor(np.array(attribute.value, dtype=np.int64))
        if name == "value_string":
            return onnx_ir.StringTensor([_bytes(attribute.value)], shape=onnx_ir.Shape(()))
        if name == "value_strings":
            texts = [_bytes(text) for text in attribute.value]
            return onnx_ir.StringTensor(texts, shape=onnx_ir.Shape((len(texts),)))
    return None


def constant(value: Value | None) -> Array | None:
    """The array of an initializer (not overridable by a graph input) or of a Constant's output; None for anything else.

    Read-only where the data is the file's; copy before writing. External data is mapped while the array is alive.
    A string tensor is an object array of bytes.
    """
    tensor = constant_tensor(value)
    return None if tensor is None else tensor.numpy()


def constant_shape(value: Value | None) -> tuple[int, ...] | None:
    """The shape of a constant, without reading its data; None when the value is not constant."""
    tensor = constant_tensor(value)
    return None if tensor is None else tuple(tensor.shape)  # type: ignore[arg-type]


def constant_dtype(value: Value | None) -> DataType | None:
    """The element type of a constant, without reading its data; None when the value is not constant."""
    tensor = constant_tensor(value)
    return None if tensor is None else tensor.dtype


def is_finite(value: Value | None) -> bool:
    """Whether a value is anything but a constant with infinity or NaN in it. O(elements) once for a tensor."""
    tensor = constant_tensor(value)
    if tensor is None or not tensor.dtype.is_floating_point():
        return True
    meta = tensor.meta
    if _FINITE not in meta:
        flat = tensor.numpy().reshape(-1)
        meta[_FINITE] = all(np.isfinite(flat[at : at + _PART]).all() for at in range(0, len(flat), _PART))
    return bool(meta[_FINITE])


@overload
def attribute(node: Node, name: str, default: T) -> T: ...
@overload
def attribute(node: Node, name: str) -> Any: ...
def attribute(node: Node, name: str, default: Any = None) -> Any:
    """The value of an attribute, or `default` when the node does not have it.

    int, float, str, tuples of them, an array for a tensor, a Graph for a graph.

    Raises:
        ReferenceAttributeError: the value is the caller's (inside a function body).
        ModelError: the attribute has another type than `default`.
    """
    found = node.attributes.get(name)
    if found is None:
        return default
    if found.is_ref():
        raise ReferenceAttributeError(
            f"attribute '{name}' of node '{node.name}' ({node.op_type}) "
            f"is the function's parameter '{found.ref_attr_name}'"
        )
    value = found.value
    if found.type == onnx_ir.AttributeType.TENSOR:
        value = found.as_tensor().numpy()
    if default is not None and type(value) is not type(default):
        raise ModelError(
            f"attribute '{name}' of node '{node.name}' ({node.op_type}) is {value!r}; "
            f"a value of type {type(default).__name__} is expected"
        )
    return value


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
