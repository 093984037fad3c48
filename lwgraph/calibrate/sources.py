"""Sources of samples: image folders, array files, ONNX test data sets, Python objects."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lwgraph.arrays import Array
from lwgraph.calibrate.preprocess import Preprocess
from lwgraph.calibrate.samples import LABEL_NAMES, Taker, array_of
from lwgraph.calibrate.signature import Signature, batched_inputs, fit, rows_of
from lwgraph.errors import DataError, UsageError, did_you_mean
from lwgraph.temporary import TemporaryFolder

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
LABELS = "labels"  # the key of an array file that holds the classes
UNNAMED = "arr_0"  # what NumPy calls an array that was saved without a name
_SPOOL_BYTES = 256 << 20  # one-shot samples kept in memory; the rest goes to temporary files


class DataSource(Protocol):
    """Random access to checked items. Loading is lazy; everything bad has been found when the source was made."""

    rows: list[int]  # samples per item: the length of axis 0 of its batched inputs
    labels: list[Array] | None
    skipped: list[tuple[str, str]]
    notes: list[str]
    classes: list[str] | None
    files: list[Path] | None  # of the items, where each is one image
    batched: bool  # whether the first axes of inputs are a batch; where not, each item is one sample

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Array]: ...


@dataclass
class BaseSource:
    """The facts that every source tells besides its items."""

    rows: list[int] = field(default_factory=list, init=False)
    labels: list[Array] | None = field(default=None, init=False)
    skipped: list[tuple[str, str]] = field(default_factory=list, init=False)
    notes: list[str] = field(default_factory=list, init=False)
    classes: list[str] | None = field(default=None, init=False)
    files: list[Path] | None = field(default=None, init=False)
    batched: bool = field(default=True, init=False)

    def _measure(self, sizes: Sequence[Mapping[str, int]], inputs: Signature, places: Sequence[str]) -> None:
        """Set `rows` and `batched`."""
        self.rows, self.batched = rows_of(sizes, inputs, places)
        if not self.batched:
            self.notes.append("inputs differ in the length of their first axis: each feed is taken as one sample")


@dataclass
class Images(BaseSource):
    """A folder of images for the model's one input; class subfolders give labels.

    Labels are the subfolders' positions in sorted order, or the numbers that they are all named by. Every file is
    decoded once here, at reduced size where the format can, so that a damaged one is skipped and named at the start.
    """

    folder: Path
    inputs: Signature
    preprocess: Preprocess | None
    limit: int | None = None

    def __post_init__(self) -> None:
        if len(self.inputs) != 1:
            raise DataError(
                f"'{self.folder}' holds images, which feed one input; the model has {len(self.inputs)}: "
                f"{', '.join(self.inputs)}; give .npz files or module:attribute"
            )
        (self._input,) = self.inputs.values()
        if self.preprocess is None:
            self.notes.append(
                "no preprocessing was given, so images are resized to the size of the input and scaled to 0..1"
            )
        self._preprocess = (self.preprocess or Preprocess()).for_input(self._input)
        paths = image_paths(self.folder)
        groups = sorted(
            {p.relative_to(self.folder).parts[0] for p in paths if len(p.relative_to(self.folder).parts) > 1}
        )
        labelled = len(groups) > 1 and all(len(p.relative_to(self.folder).parts) > 1 for p in paths)
        self._paths: list[Path] = []
        for path in spread_over(paths, self.limit):
            reason = _unreadable(path)
            if reason is None:
                self._paths.append(path)
            else:
                self.skipped.append((str(path), reason))
        if labelled:
            numeric = all(g.isdigit() for g in groups)
            code = {g: int(g) if numeric else i for i, g in enumerate(groups)}
            self.classes = groups
            self.labels = [np.array([code[p.relative_to(self.folder).parts[0]]]) for p in self._paths]
        self.rows, self.files = [1] * len(self._paths), self._paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict[str, Array]:
        from PIL import Image

        path = self._paths[index]
        with Image.open(path) as image:
            array = self._preprocess.image(image)[None]
        return fit({self._input.name: array}, self.inputs, f"'{path}'", check_batch=False)


@dataclass
class Arrays(BaseSource):
    """Arrays that hold all samples along axis 0: {input: (count, ...)}, and optionally `labels`.

    An array of the input's rank has one sample per entry of axis 0; one of a rank more holds whole feeds. An array
    with one entry (or of the input's exact shape where others have many) is the same for every sample.
    """

    arrays: Mapping[str, Array]
    inputs: Signature
    preprocess: Preprocess | None
    place: str
    limit: int | None = None

    def __post_init__(self) -> None:
        arrays = dict(self.arrays)
        labels = arrays.pop(LABELS, None) if LABELS not in self.inputs else None
        arrays = _only_array(arrays, self.inputs, self.place, self.notes)
        for name in arrays:
            if name not in self.inputs:
                hint = f"; labels go by the name '{LABELS}'" if name.lower() in LABEL_NAMES and labels is None else ""
                raise DataError(
                    f"{self.place} has an array '{name}', which is no input of the model"
                    + (hint or did_you_mean(name, self.inputs))
                )
        for name, wanted in self.inputs.items():
            if name not in arrays:
                raise DataError(
                    f"{self.place} has no array for input '{name}' ({wanted}); it has: {', '.join(arrays) or 'none'}"
                )
        self._arrays = {name: np.asarray(array) for name, array in arrays.items()}
        if self.preprocess is not None:
            self._preprocess = {
                n: self.preprocess.for_input(i)
                for n, i in self.inputs.items()
                if i.rank == 4 and self._arrays[n].ndim in (3, 4)
            }
            if not self._preprocess:
                raise UsageError(f"--preprocess is for images; {self.place} has none for the model's inputs")
        else:
            self._preprocess = {}
        counts = {name: self._count(name) for name in self._arrays}
        many = {c for c in counts.values() if c is not None and c != 1} or {1}
        if len(many) > 1:
            stated = ", ".join(f"'{n}' {c}" for n, c in counts.items() if c is not None)
            raise DataError(f"{self.place} has different numbers of samples: {stated}")
        (total,) = many
        if total == 0:
            raise DataError(f"{self.place} has no samples (an empty first axis)")
        self._shared = {name for name, c in counts.items() if c is None or (c == 1 and total > 1)}
        self._picked = spread_over(range(total), self.limit)
        if labels is not None:
            labels = np.asarray(labels)
            if labels.ndim == 0 or len(labels) != total:
                raise DataError(f"{self.place}: '{LABELS}' has shape {list(labels.shape)} for {total} samples")
            self.labels = [labels[i : i + 1] for i in self._picked]
        self._measure(_sizes_of_all(self, self.inputs), self.inputs, [self.place] * len(self))

    def _count(self, name: str) -> int | None:
        """The number of samples in an array; None: the array is one value for all samples (a scalar input)."""
        array, rank = self._arrays[name], self.inputs[name].rank
        return (
            None
            if array.ndim == 0 or (rank is not None and array.ndim < rank - (name in self._preprocess))
            else len(array)
        )

    def __len__(self) -> int:
        return len(self._picked)

    def __getitem__(self, index: int) -> dict[str, Array]:
        row = self._picked[index]
        feeds: dict[str, Array] = {}
        for name, array in self._arrays.items():
            if name in self._shared and array.ndim == 0:
                feeds[name] = array
                continue
            sample = (
                array
                if array.ndim < (self.inputs[name].rank or 0) and name not in self._preprocess
                else array[0 if name in self._shared else row]
            )
            if name in self._preprocess:
                stated = self._preprocess[name]
                if sample.dtype != np.uint8 and self.preprocess is not None and self.preprocess.scale is None:
                    stated = Preprocess(**{**stated.__dict__, "scale": 1.0})
                sample = stated.array(sample)
            feeds[name] = _as_row(sample, self.inputs[name].rank)
        return fit(feeds, self.inputs, f"{self.place}, sample {row}", check_batch=False)


@dataclass
class TestSets(BaseSource):
    """ONNX `test_data_set_*` folders: `input_<k>.pb` feeds the input of its name, or else the k-th."""

    __test__ = False  # pytest must not take the class for a test
    folders: Sequence[Path]
    inputs: Signature

    def __post_init__(self) -> None:
        self._measure(_sizes_of_all(self, self.inputs), self.inputs, [f"'{folder}'" for folder in self.folders])

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int) -> dict[str, Array]:
        import onnx

        folder, names = self.folders[index], list(self.inputs)
        feeds: dict[str, Array] = {}
        for path in sorted(folder.glob("input_*.pb"), key=lambda p: _number(p.stem)):
            tensor = onnx.TensorProto()
            try:
                tensor.ParseFromString(path.read_bytes())
                array = onnx.numpy_helper.to_array(tensor)
            except Exception as error:
                raise DataError(f"'{path}' is not an ONNX tensor: {error}") from error
            position = _number(path.stem)
            if tensor.name in self.inputs:
                feeds[tensor.name] = array
            elif position < len(names):
                feeds[names[position]] = array
            else:
                raise DataError(f"'{path}' is input {position}, the model has {len(names)}: {', '.join(names)}")
        return fit(feeds, self.inputs, f"'{folder}'", check_batch=False)


@dataclass
class Files(BaseSource):
    """A folder of .npz files, one feed each."""

    paths: Sequence[Path]
    inputs: Signature

    def __post_init__(self) -> None:
        self._measure(_sizes_of_all(self, self.inputs), self.inputs, [f"'{path}'" for path in self.paths])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Array]:
        path = self.paths[index]
        arrays = _only_array(load_arrays(path, self.inputs), self.inputs, "a folder of .npz files", self.notes)
        return fit(arrays, self.inputs, f"'{path}'", check_batch=False)


@dataclass
class Items(BaseSource):
    """Samples by their numbers: a table of rows (`datasets.Dataset`), or a map-style data set."""

    items: Any
    taker: Taker
    place: str
    limit: int | None = None

    def __post_init__(self) -> None:
        self._picked = spread_over(range(len(self.items)), self.limit)
        labels: list[Array] = []
        sizes: list[dict[str, int]] = []
        for index in range(len(self._picked)):
            feeds, label = self._row(index)
            sizes.append(_sizes(feeds, self.taker.inputs))
            if label is not None:
                labels.append(label)
        if len(labels) == len(self._picked):
            self.labels = labels or None
        self.notes = self.taker.notes
        self._measure(sizes, self.taker.inputs, [f"{self.place}, sample {index}" for index in range(len(sizes))])

    def _row(self, index: int) -> tuple[dict[str, Array], Array | None]:
        place = f"{self.place}, sample {self._picked[index]}"
        (sample,) = list(_guarded([self.items[self._picked[index]]], place))
        rows = self.taker.rows(sample, place)
        if len(rows) != 1:
            raise DataError(f"{place} holds {len(rows)} samples; a data set gives one for each number")
        return rows[0]

    def __len__(self) -> int:
        return len(self._picked)

    def __getitem__(self, index: int) -> dict[str, Array]:
        return self._row(index)[0]


@dataclass
class Spool(BaseSource):
    """Samples of an iterable that may run only once, kept: in memory up to a limit, beyond it in temporary files.

    Batches are kept as they come, or, of a loader, row by row: a loader's batch is no property of the samples.
    """

    samples: Iterable[Any]
    inputs: Signature
    place: str
    limit: int | None = None
    memory: int = _SPOOL_BYTES
    loader: bool = False

    def __post_init__(self) -> None:
        self._kept: list[dict[str, Array] | Path] = []
        self._used = 0
        self._folder: TemporaryFolder | None = None
        labels: list[Array] = []
        sizes: list[dict[str, int]] = []
        for feeds, label in itertools.islice(self._taken(), self.limit):
            if label is not None:
                labels.append(np.atleast_1d(np.asarray(label)))
            sizes.append(_sizes(feeds, self.inputs))
            self._keep(feeds)
        self._measure(sizes, self.inputs, [f"{self.place}, sample {index}" for index in range(len(sizes))])
        self.samples = ()  # the iterable is used up; do not keep what it holds alive
        if labels and len(labels) != len(self._kept):
            raise DataError(f"{self.place} gives labels for {len(labels)} of {len(self._kept)} samples")
        self.labels = labels or None

    def _taken(self) -> Iterator[tuple[dict[str, Array], Any]]:
        taker = Taker(self.inputs, more=self.loader, notes=self.notes)
        for index, sample in enumerate(_guarded(self.samples, self.place)):
            place = f"{self.place}, {'batch' if self.loader else 'sample'} {index}"
            if self.loader:
                yield from taker.rows(sample, place)
            else:
                feeds, label = taker.take(sample, place)
                yield feeds, None if label is None else array_of(label)

    def _keep(self, feeds: dict[str, Array]) -> None:
        size = sum(a.nbytes for a in feeds.values())
        if self._used + size <= self.memory:
            self._used += size
            self._kept.append(feeds)
            return
        if self._folder is None:
            self._folder = TemporaryFolder()
        path = self._folder.path / f"{len(self._kept)}.npz"
        arrays: dict[str, Any] = {f"i{k}": a for k, a in enumerate(feeds.values())}
        np.savez(path, **arrays)
        self._kept.append(path)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> dict[str, Array]:
        kept = self._kept[index]
        if isinstance(kept, dict):
            return kept
        with np.load(kept) as stored:
            return {name: stored[f"i{k}"] for k, name in enumerate(self.inputs)}


def samples_of(thing: Any, place: str) -> Iterable[Any]:
    """An iterable of samples from an iterable, a callable that returns one, or an ONNX Runtime CalibrationDataReader.

    Raises:
        DataError: it is none of these, or calling it raises.
    """
    if isinstance(thing, type) or (callable(thing) and not hasattr(thing, "get_next")):
        thing = _called(thing, place)
    if hasattr(thing, "get_next"):
        return _drain(thing)
    if isinstance(thing, (str, bytes)) or not hasattr(thing, "__iter__"):
        raise DataError(
            f"{place} is a {type(thing).__name__}; give an iterable of {{input: array}} dicts, a callable "
            "that returns one, or a CalibrationDataReader"
        )
    return thing  # type: ignore[no-any-return]


def _sizes(feeds: Mapping[str, Array], inputs: Signature) -> dict[str, int]:
    """The length of the first axis of each input that may have a batch."""
    return {name: len(feeds[name]) for name in sorted(batched_inputs(inputs))}


def _sizes_of_all(source: DataSource, inputs: Signature) -> list[dict[str, int]]:
    """Load every item once, so that what is wrong is found at the start; the first axes of each."""
    return [_sizes(source[index], inputs) for index in range(len(source))]


def _called(thing: Callable[[], Any], place: str) -> Any:
    try:
        return thing()
    except Exception as error:
        raise DataError(f"{place} raised {type(error).__name__}: {_line(error)}") from error


def _drain(reader: Any) -> Iterator[Any]:
    if hasattr(reader, "rewind"):
        with contextlib.suppress(NotImplementedError):  # ONNX Runtime's base class: the reader has not started yet
            reader.rewind()
    while (sample := reader.get_next()) is not None:
        yield sample


def _guarded(samples: Iterable[Any], place: str) -> Iterator[Any]:
    """The samples; what their producer raises becomes a DataError that says after how many."""
    done = 0
    try:
        for sample in samples:
            yield sample
            done += 1
    except (DataError, UsageError):
        raise
    except Exception as error:
        raise DataError(f"{place} raised {type(error).__name__} after {done} samples: {_line(error)}") from error


def image_paths(folder: Path) -> list[Path]:
    """The image files below `folder`, sorted by path, hidden ones left out."""
    return sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in IMAGE_SUFFIXES
        and p.is_file()
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )


def load_arrays(path: Path, inputs: Signature) -> dict[str, Array]:
    """The arrays of a .npz (each under its key) or .npy file (memory-mapped, for the model's one input)."""
    try:
        loaded = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
        if path.suffix == ".npy":
            if len(inputs) != 1:
                raise DataError(
                    f"'{path}' holds one array, the model has {len(inputs)} inputs: {', '.join(inputs)}; "
                    "give a .npz with their names as keys"
                )
            return {next(iter(inputs)): loaded}
        with loaded:
            return {key: loaded[key] for key in loaded.files}
    except DataError:
        raise
    except Exception as error:
        reason = "it holds Python objects, not plain arrays" if "pickle" in str(error) else _line(error)
        raise DataError(f"'{path}' cannot be read as {path.suffix}: {reason}") from error


def _only_array(arrays: dict[str, Array], inputs: Signature, place: str, notes: list[str]) -> dict[str, Array]:
    """One array is for a model's one input, whatever its name; a name that somebody chose is told, labels are refused.

    Raises:
        DataError: by its name, the array holds labels.
    """
    if len(arrays) != 1 or len(inputs) != 1 or next(iter(arrays)) in inputs:
        return arrays
    ((name, array),), ((wanted, kind),) = arrays.items(), inputs.items()
    if name.lower() in LABEL_NAMES:
        raise DataError(
            f"{place} has labels ('{name}') and no array for input '{wanted}' ({kind}); name the input's '{wanted}'"
        )
    told = f"{place}: the only array, '{name}', is taken for input '{wanted}'"
    if name != UNNAMED and told not in notes:
        notes.append(told)
    return {wanted: array}


def _unreadable(path: Path) -> str | None:
    """Why an image cannot be decoded, or None."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.draft("L", (image.width // 8, image.height // 8))
            image.load()
    except Exception as error:  # decoders raise whatever they like on damaged files
        return _line(error)
    return None


def _as_row(sample: Array, rank: int | None) -> Array:
    return sample[None] if rank is not None and sample.ndim == rank - 1 else sample


def spread_over(items: Sequence[Any], limit: int | None) -> list[Any]:
    """`limit` of the items, evenly spaced (so that sorted classes all stay), or all."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, limit).round()]


def _number(stem: str) -> int:
    found = re.search(r"\d+$", stem)
    return int(found[0]) if found else 0


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
