"""Shared by all executors: the named values of a model, its inputs, and the check of feeds against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.errors import DataError, ModelError, did_you_mean
from lwgraph.executor import Feeds


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
        self._values = {value.name or "": value for value in graph.inputs}
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


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception's text on one line, shortened."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


__all__ = ["FeedCheck", "describe", "named_values", "one_line", "requested"]
