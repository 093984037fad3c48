"""Shared by all executors: the named values of a model, its inputs, and the check of feeds against them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.errors import DataError, ModelError, did_you_mean
from lwgraph.executor import Feeds

UNTIMED_THREADS = 8  # most threads for untimed runs


def named_values(graph: ir.Graph) -> dict[str, ir.Value]:
    """Every value of the main graph by name: inputs, initializers, node outputs; nested scopes are not included."""
    values = {value.name: value for value in graph.inputs if value.name}
    values.update({name: value for name, value in graph.initializers.items() if name not in values})
    for node in graph:
        values.update({value.name: value for value in node.outputs if value.name})
    return values


def requested(model: ir.Model, outputs: Sequence[str] | None) -> list[str]:
    """The names to return, each one checked; ModelError names the first that does not exist."""
    if outputs is None:
        return [value.name or "" for value in model.graph.outputs]
    known = named_values(model.graph)
    for name in outputs:
        if name not in known:
            raise ModelError(f"the model has no value '{name}' in its main graph{_suggest(name, known)}")
    return list(outputs)


def _suggest(name: str, known: Mapping[str, Any]) -> str:
    text = did_you_mean(name, known)
    return text if "did you mean" in text or len(known) <= 12 else ""


def describe(value: ir.Value) -> str:
    """A value's type and shape as text, such as "float32 [n,3,224,224]"."""
    if not isinstance(value.type, ir.TensorType):
        return str(value.type)
    return f"{_dtype_name(value)} {_dims(value)}".rstrip()


def _dtype_name(value: ir.Value) -> str:
    return "unknown type" if value.dtype is None else value.dtype.name.lower()


def _dims(value: ir.Value) -> str:
    if value.shape is None:
        return ""
    return "[" + ",".join(str(d) if isinstance(d, int) else (d.value or "?") for d in value.shape) + "]"


class FeedCheck:
    """The inputs a caller must or may feed.

    An input that has an initializer of the same name is optional: the initializer is its default.
    """

    def __init__(self, graph: ir.Graph) -> None:
        # Copies: a value of the graph would keep all of it alive.
        self._values = {v.name or "": ir.Value(name=v.name, type=v.type, shape=v.shape) for v in graph.inputs}
        self._optional = {name for name in self._values if name in graph.initializers}
        self._dtypes = {name: _numpy_dtype(value) for name, value in self._values.items()}
        self._static = {
            name: None if value.shape is None else [d if isinstance(d, int) and d >= 0 else None for d in value.shape]
            for name, value in self._values.items()
        }

    def check(self, feeds: Feeds) -> dict[str, Any]:
        """The feeds, tensors as arrays, after checking.

        Raises:
            DataError: an input is missing or unknown, or has another dtype, rank or size than the model declares.
        """
        for name in feeds:
            if name not in self._values:
                raise DataError(f"the model has no input '{name}'{did_you_mean(name, self._values)}")
        return {name: self._checked(name, feeds) for name in self._values if name in feeds or not self._absent(name)}

    def _absent(self, name: str) -> bool:
        if name in self._optional or isinstance(self._values[name].type, ir.OptionalType):
            return True
        raise DataError(f"input '{name}' ({describe(self._values[name])}) is missing from the data")

    def _checked(self, name: str, feeds: Feeds) -> Any:
        value, fed = self._values[name], feeds[name]
        if value.type is not None and not isinstance(value.type, ir.TensorType):
            return fed  # sequences and optionals: the runtime checks
        array = np.asarray(fed)
        want = self._dtypes[name]
        if want is not None and not _same_dtype(array.dtype, want):
            raise DataError(f"input '{name}' is {array.dtype}; the model wants {describe(value)}")
        static = self._static[name]
        if static is not None and (
            len(static) != array.ndim or any(d is not None and d != n for d, n in zip(static, array.shape, strict=True))
        ):
            got = ",".join(map(str, array.shape))
            raise DataError(f"input '{name}' has shape [{got}]; the model wants {_dims(value)}")
        return array


def _numpy_dtype(value: ir.Value) -> np.dtype[Any] | None:
    return None if value.dtype is None else np.dtype(value.dtype.numpy())


def _same_dtype(got: np.dtype[Any], want: np.dtype[Any]) -> bool:
    return got == want or (want.kind == "O" and got.kind in "OUST")


def unpacked(raw: Array, kind: ir.DataType, shape: Sequence[int]) -> Array:
    """A copy of what a runtime holds in a type that numpy lacks, as an ml_dtypes array; 4-bit integers lie in pairs.

    Args:
        raw: uint8, its memory.
        kind: the type.
        shape: of the result.
    """
    if kind.bitwidth == 4:
        raw = np.stack([raw & 15, raw >> 4], axis=-1).reshape(-1)[: math.prod(shape)]
        if kind == ir.DataType.INT4:
            raw = (raw ^ 8).astype(np.int8) - 8
        return np.asarray(raw.astype(kind.numpy()) if kind.is_integer() else raw.view(kind.numpy())).reshape(shape)
    array: Array = raw.view(kind.numpy()).reshape(shape).copy()
    return array


def packed(array: Array, kind: ir.DataType) -> Array:
    """The reverse: uint8, the memory of an array as a runtime holds it."""
    if kind.bitwidth == 4:
        raw = (array.reshape(-1).astype(np.int8) if kind.is_integer() else array.reshape(-1)).view(np.uint8) & 15
        raw = np.append(raw, np.zeros(len(raw) % 2, np.uint8))
        return np.asarray(raw[::2] | raw[1::2] << 4)
    return array.reshape(-1).view(np.uint8)


def untimed_threads() -> int:
    """Threads for runs whose time does not matter: all cores of this process, at most UNTIMED_THREADS.

    OMP_NUM_THREADS, where it is set, is kept to, as linear algebra does: worker processes set it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, UNTIMED_THREADS, int(asked) if asked.isdigit() and int(asked) else UNTIMED_THREADS)


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception's text on one line, shortened."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


__all__ = [
    "FeedCheck",
    "describe",
    "named_values",
    "one_line",
    "packed",
    "requested",
    "unpacked",
    "untimed_threads",
]
