"""The inputs that a model takes, their dtypes and shapes, and the check that a sample fits them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.errors import DataError, ModelError, did_you_mean


@dataclass(frozen=True)
class Input:
    """One input of a model. `shape` holds an int for a fixed dimension, its name or None for a dynamic one; where
    `sequence`, the input is a list of tensors, and type and shape are those of each."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...] | None  # None: the rank is unknown
    sequence: bool = False

    def __str__(self) -> str:
        of = "sequence of " if self.sequence else ""
        if self.shape is None:
            return f"{of}{self.dtype.name}, any shape"
        return f"{of}{self.dtype.name} [{', '.join('?' if d is None else str(d) for d in self.shape)}]"

    @property
    def rank(self) -> int | None:
        """The number of dimensions, where known."""
        return None if self.shape is None else len(self.shape)


Signature = Mapping[str, Input]


def signature(model: ir.Model) -> dict[str, Input]:
    """The inputs that a run must feed, in order; those that have an initializer as their default are left out."""
    inputs: dict[str, Input] = {}
    for value in model.graph.inputs:
        if value.name is None or value.name in model.graph.initializers:
            continue
        sequence = isinstance(value.type, ir.SequenceType)
        items = value.type.elem_type if isinstance(value.type, ir.SequenceType) else value.type
        if value.dtype is None or not isinstance(items, ir.TensorType):  # value.dtype is that of what is inside
            raise ModelError(
                f"input '{value.name}' of the model is no tensor and no sequence of tensors of a known type; maps, "
                "optionals and sequences of these cannot be fed: export the model with tensors in their place"
            )
        dtype = np.dtype(object) if value.dtype.name == "STRING" else np.dtype(value.dtype.numpy())
        shape = None if value.shape is None else tuple(_size(d) for d in value.shape)
        inputs[value.name] = Input(value.name, dtype, shape, sequence)
    return inputs


# What exporters write for a size that is open, in any number of places: no name that says where sizes are equal.
_PLACEHOLDERS = frozenset({"any", "dyn", "dynamic", "none", "null", "unk", "unknown"})


def _size(dimension: int | ir.SymbolicDim) -> int | str | None:
    """The dimension's size, its symbol, or None where it is open: also -1, "?" and words that only say so."""
    if isinstance(dimension, int):
        return dimension if dimension >= 0 else None
    name = dimension.value
    if name is None or name.lower() in _PLACEHOLDERS or not any(character.isalpha() for character in name):
        return None
    return name


def fits(inputs: Signature, feeds: Mapping[str, Array]) -> bool:
    """Whether the arrays have the ranks and the fixed sizes of the inputs of that name, where there are such."""
    for name, array in feeds.items():
        shape = inputs[name].shape if name in inputs else None
        if shape is None or inputs[name].sequence:
            continue
        if len(shape) != array.ndim or any(
            isinstance(d, int) and d != n for d, n in zip(shape, array.shape, strict=True)
        ):
            return False
    return True


def batched_inputs(inputs: Signature) -> frozenset[str]:
    """The inputs whose first axis is the batch: like the first input's, all dynamic or all of the same fixed size."""
    leads = {name: i.shape[0] for name, i in inputs.items() if i.shape and not i.sequence}
    if not leads:
        return frozenset()
    first = next(iter(leads.values()))
    if isinstance(first, int):
        return frozenset(name for name, lead in leads.items() if lead == first)
    return frozenset(name for name, lead in leads.items() if not isinstance(lead, int))


def count_rows(feeds: Mapping[str, Array], batched: frozenset[str], place: str) -> int:
    """The number of samples in one feed; DataError when its inputs disagree."""
    rows = {name: len(feeds[name]) for name in sorted(batched)}
    if len(set(rows.values())) > 1:
        raise DataError(different(rows, place))
    return next(iter(rows.values()), 1)


def different(rows: Mapping[str, int], place: str) -> str:
    """That inputs which should be of one batch are not, in words."""
    return f"{place}: the inputs have different batches: {', '.join(f'{n} {r}' for n, r in rows.items())}"


def rows_of(sizes: Sequence[Mapping[str, int]], inputs: Signature, places: Sequence[str]) -> tuple[list[int], bool]:
    """The number of samples in each of many feeds, and whether inputs have a batch at all.

    The first axes of graphs, of songs, of tokens are no batch: inputs differ in them, and each feed is one sample.

    Args:
        sizes: for each feed the length of the first axis of its `batched_inputs`.
        inputs: what the model takes.
        places: where each feed comes from, to start the error message.

    Raises:
        DataError: inputs disagree whose first axis has one name, but not in every feed: one of them is wrong.
    """
    odd = [index for index, each in enumerate(sizes) if len(set(each.values())) > 1]
    if not odd:
        return [next(iter(each.values()), 1) for each in sizes], True
    for index in odd if len(odd) < len(sizes) or len(sizes) == 1 else ():
        named: dict[Any, dict[str, int]] = {}
        for name, size in sizes[index].items():
            named.setdefault((inputs[name].shape or (None,))[0], {})[name] = size
        for alike in named.values():
            if len(set(alike.values())) > 1:
                raise DataError(different(alike, places[index]))
    return [1] * len(sizes), False


def fit(feeds: Mapping[str, Any], inputs: Signature, place: str, *, check_batch: bool = True) -> dict[str, Array]:
    """`feeds` with the model's dtypes, in the model's order, checked; a missing batch axis of one is added.

    Safe conversions only: between float widths, between integer widths where every value is kept, from bool to
    integers, from wide integers to float where every value is kept. uint8 and int8 are not made float: whether pixels
    are to be scaled is for the user to say.

    Args:
        feeds: {input name: array-like}.
        inputs: what the model takes.
        place: where the sample comes from, to start the error message.
        check_batch: False lets the first dimension differ from a fixed one (the reader will group the samples).

    Raises:
        DataError: an unknown or missing name, a wrong dtype or shape, NaN.
    """
    for name in feeds:
        if name not in inputs:
            raise DataError(f"{place}: the model has no input '{name}'{did_you_mean(name, inputs)}")
    missing = [name for name in inputs if name not in feeds]
    if missing:
        raise DataError(
            f"{place}: no data for input '{missing[0]}' ({inputs[missing[0]]}); given: {', '.join(feeds) or 'nothing'}"
        )
    fitted: dict[str, Array] = {}
    symbols: dict[str, tuple[int, str]] = {}
    for name, wanted in inputs.items():
        if wanted.sequence:
            raise DataError(
                f"{place}: input '{name}' is a {wanted}, which data cannot hold; without data it is made by itself"
            )
        array = convert(np.asarray(feeds[name]), wanted, place)
        array = _check_shape(array, wanted, place, check_batch, symbols)
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise DataError(f"{place}: input '{name}' has {int(np.isnan(array).sum())} NaN of {array.size} values")
        fitted[name] = array
    return fitted


def convert(array: Array, wanted: Input, place: str) -> Array:
    """`array` in the dtype that the model wants; DataError where that would change what the values mean."""
    have, want = array.dtype, wanted.dtype
    if have == want:
        return array
    if want.kind == "O":
        if have.kind in "US":
            return array.astype(object)
    elif have.kind in "US":
        pass
    elif have.kind == "f" and (want.kind == "f" or want.name == "bfloat16"):
        with np.errstate(over="ignore"):
            narrowed = array.astype(want)
        if np.isinf(narrowed.astype(np.float64)).sum() > np.isinf(array).sum():
            raise DataError(
                f"{place}: input '{wanted.name}' has values up to {np.nanmax(np.abs(array)):.3g}, "
                f"beyond the range of {want.name}"
            )
        return narrowed
    elif have.kind == "b" and want.kind in "iuf":
        return array.astype(want)
    elif have.kind in "iu" and (want.kind in "iub" or (want.kind == "f" and have.itemsize > 1)):
        exact = array.astype(want)
        if np.array_equal(exact.astype(have), array):
            return exact
        raise DataError(
            f"{place}: input '{wanted.name}' has values from {array.min()} to {array.max()}, "
            f"which {want.name} cannot hold"
        )
    cure = ""
    if have.kind in "iu" and want.kind == "f":
        cure = "; if these are pixels, say how to scale them, e.g. --preprocess scale=1/255"
    raise DataError(f"{place}: input '{wanted.name}' is {have.name}, the model wants {want.name}{cure}")


def _check_shape(
    array: Array, wanted: Input, place: str, check_batch: bool, symbols: dict[str, tuple[int, str]]
) -> Array:
    if wanted.shape is None:
        return array
    if array.ndim == len(wanted.shape) - 1 and (
        wanted.shape[0] == 1 or not isinstance(wanted.shape[0], int) or not check_batch
    ):
        array = array[None]
    fixed = [(i, d) for i, d in enumerate(wanted.shape) if isinstance(d, int) and (check_batch or i > 0)]
    if array.ndim != len(wanted.shape) or any(array.shape[i] != d for i, d in fixed):
        hint = ""
        if array.ndim == 4 and len(wanted.shape) == 4 and wanted.shape[1] in (1, 3) and array.shape[3] in (1, 3):
            hint = "; the channels are last: --preprocess layout=nchw moves them"
        raise DataError(f"{place}: input '{wanted.name}' has shape {list(array.shape)}, the model wants {wanted}{hint}")
    if array.shape[:1] == (0,) and wanted.shape[0] != 0:  # no sample; later axes may be empty, as a cache is at first
        raise DataError(f"{place}: input '{wanted.name}' is empty, shape {list(array.shape)}")
    for size, symbol in zip(array.shape, wanted.shape, strict=True):
        if isinstance(symbol, str):
            known, owner = symbols.setdefault(symbol, (size, wanted.name))
            if known != size and (check_batch or wanted.shape.index(symbol) > 0):
                raise DataError(
                    f"{place}: dimension '{symbol}' is {known} in input '{owner}' and {size} in '{wanted.name}'"
                )
    return array
