"""One sample, or one batch, as other libraries hold it: tensors, pairs with labels, rows of a table, pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lwgraph.arrays import Array
from lwgraph.calibrate.preprocess import Preprocess
from lwgraph.calibrate.signature import Signature, batched_inputs, count_rows, fit
from lwgraph.errors import DataError

LABEL_NAMES = ("labels", "label", "y", "target", "targets")  # of the classes, in a mapping


@dataclass
class Taker:
    """Takes samples apart into feeds and labels.

    Attributes:
        inputs: what the model takes.
        more: whether names that are no inputs are left out, with a note, and labels that cannot be stacked, too;
            else they are errors.
        preprocess: makes inputs of pictures; None: as the input implies.
        notes: what the user should be told.
    """

    inputs: Signature
    more: bool = False
    preprocess: Preprocess | None = None
    notes: list[str] = field(default_factory=list)

    def take(self, sample: Any, place: str) -> tuple[dict[str, Array], Any]:
        """The feeds, checked, and the label or labels as they are given; None where there are none.

        Args:
            sample: an array or tensor; a mapping {input: array}, maybe with labels; a sequence of one value for each
                input, of these and the labels, or of all inputs together (a mapping or a sequence) and the labels.
            place: where it comes from, to start an error message.

        Raises:
            DataError: it is none of these, or does not fit the model.
        """
        values, label = self._apart(sample, place)
        arrays = {name: self._array(name, value, place) for name, value in values.items()}
        fitted = fit(arrays, self.inputs, place, check_batch=False)
        return {name: a.copy() if a is values.get(name) else a for name, a in fitted.items()}, label

    def rows(self, sample: Any, place: str) -> list[tuple[dict[str, Array], Array | None]]:
        """The rows of a batch, each a feed of one row with its label."""
        feeds, label = self.take(sample, place)
        batched = batched_inputs(self.inputs)
        count = count_rows(feeds, batched, place)
        labels = self._labels(label, count)
        return [
            (
                {name: a[r : r + 1] if name in batched else a for name, a in feeds.items()},
                None if labels is None else labels[r : r + 1],
            )
            for r in range(count)
        ]

    def _apart(self, sample: Any, place: str) -> tuple[Mapping[str, Any], Any]:
        names = list(self.inputs)
        if isinstance(sample, Mapping):
            return self._named(sample)
        if not isinstance(sample, (tuple, list)):
            if len(names) == 1 and (_is_picture(sample) or is_tensor(sample)):
                return {names[0]: sample}, None
        elif len(sample) == 2 and isinstance(sample[0], Mapping):
            return self._named(sample[0])[0], sample[1]
        elif len(sample) == 2 and isinstance(sample[0], (tuple, list)) and len(sample[0]) == len(names):
            return dict(zip(names, sample[0], strict=True)), sample[1]
        elif len(names) <= len(sample) <= len(names) + 1 and all(_is_array(s) or _is_picture(s) for s in sample[:1]):
            label = sample[len(names)] if len(sample) > len(names) else None
            return dict(zip(names, sample, strict=False)), label
        raise DataError(
            f"{place} is a {_called(sample)}; a sample is a dict {{input name: array}} of "
            f"{', '.join(names)}, or the arrays in that order, or a pair of these and the label"
        )

    def _named(self, sample: Mapping[str, Any]) -> tuple[Mapping[str, Any], Any]:
        label = next((name for name in LABEL_NAMES if name in sample and name not in self.inputs), None)
        others = {name: value for name, value in sample.items() if name != label}
        found = {name: value for name, value in others.items() if name in self.inputs}
        rest = [name for name in others if name not in self.inputs]
        if not found and len(self.inputs) == 1 and self.more:
            values = [name for name in rest if _is_picture(others[name]) or _is_array(others[name])]
            if len(values) == 1:  # one value, one input: no doubt
                found, rest = {next(iter(self.inputs)): others[values[0]]}, [n for n in rest if n != values[0]]
        if self.more and rest and len(found) == len(self.inputs):
            self._note(f"left out of the data, being no inputs of the model: {', '.join(map(str, rest))}")
            others = found
        elif not rest:
            others = found
        return others, None if label is None else sample[label]

    def _array(self, name: str, value: Any, place: str) -> Array:
        if _is_picture(value) and name in self.inputs:
            if self.preprocess is None:
                self._note(
                    "no preprocessing was given, so images are resized to the size of the input and scaled to 0..1"
                )
            return (self.preprocess or Preprocess()).for_input(self.inputs[name]).image(value)[None]
        try:
            return array_of(value)
        except (ValueError, TypeError) as error:
            words = " ".join(str(error).split())
            raise DataError(f"{place}: '{name}' is a {_called(value)}, which is no array: {words}") from None

    def _labels(self, label: Any, count: int) -> Array | None:
        """(count, ...) labels of a batch; None where there are none, or none that can be stacked."""
        if label is None:
            return None
        try:
            labels = np.atleast_1d(array_of(label))
        except (ValueError, TypeError):
            labels = np.zeros(0, object)
        if labels.dtype.kind in "iub" and labels.size == count:
            return labels.reshape(count)
        if labels.dtype.kind == "O" or len(labels) != count:
            self._note("the data's labels are not one array for each sample; they were left out")
            return None
        return labels

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def array_of(value: Any) -> Array:
    """A NumPy array of a tensor on any device, an array-like, a number or lists of them.

    Raises:
        ValueError, TypeError: it is none.
    """
    if hasattr(value, "detach"):  # torch, wherever the tensor lies; NumPy has no bfloat16
        value = value.detach().cpu()
        try:
            return np.asarray(value.numpy())
        except TypeError:
            return np.asarray(value.float().numpy())
    array = np.asarray(value)
    if array.dtype.kind == "O" and not all(isinstance(item, str) for item in array.flat):
        raise TypeError("it holds Python objects")
    return array


def is_table(thing: Any) -> bool:
    """Whether it is a table of rows by column name, as of the package `datasets`."""
    return hasattr(thing, "column_names") and hasattr(thing, "features")


def is_loader(thing: Any) -> bool:
    """Whether it gives batches of a data set, as torch's DataLoader."""
    return hasattr(thing, "dataset") and hasattr(thing, "batch_size") and hasattr(thing, "__iter__")


def is_indexed(thing: Any) -> bool:
    """Whether samples are had by their numbers alone, as from torch's Dataset."""
    return hasattr(thing, "__getitem__") and hasattr(thing, "__len__") and not hasattr(thing, "__iter__")


def is_tensor(thing: Any) -> bool:
    """Whether it is an array, of NumPy or of another library."""
    return hasattr(thing, "__array__") or hasattr(thing, "detach")


def pair_of_arrays(spec: Any, inputs: Signature) -> tuple[dict[str, Any], Array | None] | None:
    """Of (x, y): the arrays by input, and the labels; None where it is no such pair.

    x is an array, a mapping of them, or a sequence with one for each input, all samples along axis 0; y is one label
    for each, or None. Two samples in a tuple are no pair: they have the same number of axes, and both fit.
    """
    if not isinstance(spec, tuple) or len(spec) != 2 or isinstance(spec[1], Mapping):
        return None
    x, y = spec
    names = list(inputs)
    if isinstance(x, (tuple, list)) and len(x) == len(names) and all(map(_is_array, x)):
        x = dict(zip(names, x, strict=True))
    elif _is_array(x) and len(names) == 1:
        x = {names[0]: x}
    if not isinstance(x, Mapping) or not x:
        return None
    try:
        arrays = {str(name): array_of(value) for name, value in x.items()}
        labels = None if y is None else array_of(y)
    except (ValueError, TypeError):
        return None
    first = next(iter(arrays.values()))
    if labels is None:
        return arrays, None
    if labels.ndim == 0 or first.ndim == 0 or len(labels) != len(first):
        return None
    if labels.ndim >= first.ndim and len(names) == 1 and _fits(labels, inputs):
        return None
    return arrays, labels.reshape(-1) if labels.dtype.kind in "iub" and labels.size == len(labels) else labels


def _fits(array: Array, inputs: Signature) -> bool:
    try:
        fit({next(iter(inputs)): array}, inputs, "", check_batch=False)
    except DataError:
        return False
    return True


def _is_picture(value: Any) -> bool:
    return hasattr(value, "convert") and hasattr(value, "getbands")  # PIL, which is not imported for this


def _is_array(value: Any) -> bool:
    """Whether it is an array, a tensor, a number, or lists of numbers."""
    if isinstance(value, (str, bytes, Mapping)) or value is None:
        return False
    if isinstance(value, (list, tuple)):
        return bool(value) and _is_array(value[0])
    return is_tensor(value) or isinstance(value, (int, float))


def _called(thing: Any) -> str:
    if isinstance(thing, (tuple, list)):
        return f"{type(thing).__name__} of {len(thing)}"
    return type(thing).__name__


__all__ = ["LABEL_NAMES", "Taker", "array_of", "is_indexed", "is_loader", "is_table", "is_tensor", "pair_of_arrays"]
