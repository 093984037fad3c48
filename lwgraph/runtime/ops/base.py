"""Declares an operator: a function turns one node into a function of its input arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lwgraph.arrays import Array
from lwgraph.runtime.backend import BFLOAT16, HALVES

Function = Callable[..., Any]


class Unsupported(Exception):  # noqa: N818 - not an error: onnx's own operator takes over
    """Raised while building or running when this node is not ours to compute."""


@dataclass(frozen=True)
class Options:
    """How to compute: `precise` sums float32 in float64; `saturate` imitates processors without a byte dot product."""

    threads: int = 1
    precise: bool = False
    saturate: bool = False


@dataclass(frozen=True)
class Spec:
    """One node: what its builder may look at."""

    op_type: str
    version: int  # opset version of the operator's domain
    attributes: Mapping[str, Any]  # strings as str, tensors as arrays, lists as tuples
    present: tuple[bool, ...]  # whether each input is given
    outputs: int  # number of outputs up to the last named one
    constants: tuple[Array | None, ...] = ()
    options: Options = field(default_factory=Options)

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or `default`."""
        return self.attributes.get(name, default)

    def constant(self, index: int) -> Array | None:
        """Input number `index` if it is known already."""
        return self.constants[index] if index < len(self.constants) else None


MakeFunction = Callable[[Spec], Function]
BUILDERS: dict[str, MakeFunction] = {}


def operator(*names: str) -> Callable[[MakeFunction], MakeFunction]:
    """Register the builder of operators; those of another domain than ONNX's own as "domain::Operator"."""

    def register(builder: MakeFunction) -> MakeFunction:
        BUILDERS.update(dict.fromkeys(names, builder))
        return builder

    return register


def floating(*arrays: Any) -> None:
    """Unsupported unless all are arrays of floating-point numbers that NumPy or ml_dtypes' bfloat16 has."""
    for array in arrays:
        if not isinstance(array, np.ndarray | np.generic) or (array.dtype.kind != "f" and array.dtype != BFLOAT16):
            raise Unsupported


def wider(array: Array, precise: bool) -> Array:
    """The array in the type to compute an elementary function in: halves in float32; if precise, all in float64."""
    if precise:
        return array.astype(np.float64)
    return array.astype(np.float32) if array.dtype in HALVES else array


def normalized(axis: int, rank: int) -> int:
    """A non-negative axis; ValueError when the tensor has no such axis."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of a tensor with {rank} dimensions")
    return axis % rank


def integers(values: Any) -> list[int]:
    """A list of Python integers from an array or a sequence."""
    return [int(v) for v in np.asarray(values).ravel()]


def spatial_attributes(spec: Spec, rank: int, *names: str) -> list[Sequence[int]]:
    """Attributes with one entry per spatial dimension, 1 by default."""
    return [spec.get(name) or (1,) * rank for name in names]
