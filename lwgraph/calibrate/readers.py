"""`open_data`: one Reader for every kind of calibration and evaluation data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.calibrate import sources
from lwgraph.calibrate.augmentations import augmentations
from lwgraph.calibrate.image_processor import read_processor
from lwgraph.calibrate.preprocess import Preprocess
from lwgraph.calibrate.samples import Taker, array_of, is_indexed, is_loader, is_table, is_tensor, pair_of_arrays
from lwgraph.calibrate.signature import Signature, batched_inputs, signature
from lwgraph.calibrate.texts import SUFFIXES, Texts, find_tokenizer, read_texts, text_paths
from lwgraph.errors import DataError, UsageError
from lwgraph.objects import is_object_name, load_object


@dataclass(frozen=True)
class Batch:
    """The feeds of one run. Rows from `count` on are padding and not to be scored; `labels` has `count` entries.

    Where the feeds are `whole`, they have no batch and are one sample together.
    """

    feeds: dict[str, Array]
    count: int
    labels: Array | None = None
    whole: bool = False


class Reader:
    """Samples as feeds of a model; iterate it as often as needed, the order is always the same.

    Iterating gives {input: array}; `batches()` gives the labels and the number of real rows besides. Samples are loaded
    lazily; all have been checked when the reader was opened.

    Attributes:
        labels: the labels of all samples in order, or None.
        count: the number of samples (rows), padding not counted; `len(reader)` is the number of feeds.
        skipped: (name, reason) of what could not be read.
        notes: what the user should be told (assumed preprocessing, padding).
        batched: the inputs whose first axis is the batch; none where the samples show that it is none.
        classes: the names of the classes, where a folder gave them.
        files: of the samples, in order, where each is an image; else None.
        augment: how training may vary the inputs without making them something else, of AUGMENTATIONS; () for none,
            as long as neither the user nor the data (an attribute `augment` of the object given) say so.
    """

    def __init__(
        self,
        source: sources.DataSource,
        inputs: Signature,
        place: str,
        batch: int | None = None,
        items: Sequence[int] | None = None,
    ) -> None:
        self._source, self.inputs, self.place = source, inputs, place
        self._items = list(range(len(source)) if items is None else items)
        self.batched = batched_inputs(inputs) if source.batched else frozenset[str]()
        self._requested = batch
        self._batch = _batch_size(inputs, self.batched, batch)
        self.skipped, self.classes, self.notes = list(source.skipped), source.classes, list(source.notes)
        self.augment: tuple[str, ...] = ()
        self.files = None if source.files is None else [source.files[i] for i in self._items]
        self.labels: Array | None = None
        if source.labels is not None and self._items:
            self.labels = np.concatenate([source.labels[i] for i in self._items])
        self._rows = [source.rows[i] for i in self._items]
        self.count = sum(self._rows)
        if self.labels is not None and len(self.labels) != self.count:
            raise DataError(f"{place} has {len(self.labels)} labels for {self.count} samples")
        self._feeds: int | None = None
        if self._batch_fixed() and self._batch is not None and self.count % self._batch:
            self.notes.append(
                f"the model's batch is fixed at {self._batch}, which {self.count} samples do not fill: "
                "padded by repeating a sample (not scored)"
            )

    def __len__(self) -> int:
        if self._feeds is None:
            if self._batch is None:
                self._feeds = len(self._items)
            elif self._batch == 1:
                self._feeds = self.count
            elif all(
                n in self.batched and all(isinstance(d, int) for d in (i.shape or (None, None))[1:])
                for n, i in self.inputs.items()
            ):
                self._feeds = math.ceil(self.count / self._batch)
            else:  # samples of different shapes are not grouped
                self._feeds = sum(1 for _ in self.batches())
        return self._feeds

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for batch in self.batches():
            yield batch.feeds

    def __str__(self) -> str:
        text = f"{self.count} sample{'s' if self.count != 1 else ''} from {self.place}"
        if self.classes:
            text += f", {len(self.classes)} classes"
        if self.skipped:
            name, reason = self.skipped[0]
            more = f" and {len(self.skipped) - 1} more" if len(self.skipped) > 1 else ""
            text += f"; skipped '{name}' ({reason}){more}"
        return text

    @property
    def items(self) -> int:
        """The number of items that `subset` chooses from (images, rows of arrays, or whole feeds)."""
        return len(self._items)

    def subset(self, indices: Sequence[int]) -> Reader:
        """A reader of some items only."""
        part = Reader(self._source, self.inputs, self.place, self._requested, [self._items[i] for i in indices])
        part.augment = self.augment
        return part

    def batches(self) -> Iterator[Batch]:
        """The feeds with their labels and number of real rows."""
        if self._batch is None:
            for index, rows in zip(self._items, self._rows, strict=True):
                yield Batch(self._source[index], rows, self._label(index), whole=not self._source.batched)
            return
        pending: list[tuple[dict[str, Array], Array | None]] = []
        for row in self._single_rows():
            if pending and not self._groupable(pending[0][0], row[0]):
                yield self._stack(pending)
                pending = []
            pending.append(row)
            if len(pending) == self._batch:
                yield self._stack(pending)
                pending = []
        if pending:
            yield self._stack(pending)

    def _single_rows(self) -> Iterator[tuple[dict[str, Array], Array | None]]:
        for index, rows in zip(self._items, self._rows, strict=True):
            feeds, labels = self._source[index], self._label(index)
            for r in range(rows):
                yield (
                    {name: a[r : r + 1] if name in self.batched else a for name, a in feeds.items()},
                    None if labels is None else labels[r : r + 1],
                )

    def _label(self, index: int) -> Array | None:
        return None if self._source.labels is None else self._source.labels[index]

    def _groupable(self, a: dict[str, Array], b: dict[str, Array]) -> bool:
        return all(a[n].shape == b[n].shape and (n in self.batched or np.array_equal(a[n], b[n])) for n in a)

    def _stack(self, rows: list[tuple[dict[str, Array], Array | None]]) -> Batch:
        count = len(rows)
        feeds = [feeds for feeds, _ in rows]
        if self._batch_fixed():
            assert self._batch is not None
            feeds += [feeds[-1]] * (self._batch - count)
        stacked = {
            name: np.concatenate([f[name] for f in feeds]) if name in self.batched else feeds[0][name]
            for name in feeds[0]
        }
        labels = [label for _, label in rows if label is not None]
        return Batch(stacked, count, np.concatenate(labels) if labels else None)

    def _batch_fixed(self) -> bool:
        return any(isinstance((self.inputs[n].shape or (None,))[0], int) for n in self.batched)


def open_data(
    spec: Any,
    model: ir.Model | Signature,
    *,
    preprocess: str | Path | Mapping[str, Any] | Preprocess | None = None,
    batch: int | None = None,
    limit: int | None = None,
    option: str = "--data",
    augment: str | Sequence[str] | None = None,
) -> Reader:
    """A Reader from anything that holds samples.

    Args:
        spec: a folder of images or of .txt files (class subfolders are labels), a .npz or .npy file, texts in a .txt
            or .jsonl file, one a line (see `lwgraph.calibrate.texts`), a folder with ONNX `test_data_set_*` or of .npz
            files, `module:attribute`; or the object itself: an iterable of
            {input: array} (or of pairs with a label), a callable that returns one, a CalibrationDataReader, a mapping
            {input: (count, ...) array}, one array, (x, y) arrays, a Reader; a DataLoader (batches as a tensor,
            [tensor], (inputs, labels) or dictionaries), a map-style data set of the same, a `datasets.Dataset` with
            columns named as the inputs, or one of pictures.
        model: the model, or its `signature`.
        preprocess: how pixels become inputs; see `Preprocess.parse`. "auto": as a preprocessor_config.json beside the
            model says. For images and arrays only.
        batch: samples per feed when the model's batch is dynamic; None: as the data come (images: one). A fixed batch
            of the model is always filled, the last one padded.
        limit: at most so many samples (spread evenly over files, the first ones of an iterable).
        option: how messages name the data.
        augment: how training may vary the inputs: names of AUGMENTATIONS, in text joined by commas. None: what an
            attribute `augment` of the given object says, else not at all.

    Raises:
        UsageError: `preprocess`, `augment`, `batch` or `module:attribute` is wrong.
        DataError: the data do not exist, cannot be read, do not fit the model, or there are none.
    """
    inputs = signature(model) if isinstance(model, ir.Model) else model
    own_path = model.meta.get("path") if isinstance(model, ir.Model) else None
    beside = [own_path.parent] if isinstance(own_path, Path) else []
    stated_augment = None if augment is None else augmentations(augment, "--augment")
    if batch is not None and batch < 1:
        raise UsageError(f"batch {batch} must be at least 1")
    if limit is not None and limit < 1:
        raise UsageError(f"limit {limit} must be at least 1")
    if isinstance(spec, Reader):
        if stated_augment is not None:
            spec.augment = stated_augment
        return spec
    if preprocess == "auto":
        preprocess = read_processor(beside)
    stated = preprocess if isinstance(preprocess, Preprocess) or preprocess is None else Preprocess.parse(preprocess)
    place = option if not isinstance(spec, (str, Path)) else f"'{spec}'"
    source, own = _source(spec, inputs, stated, limit, option, place, beside)
    reader = Reader(source, inputs, place, batch)
    reader.augment = augmentations(own, f"attribute 'augment' of {place}") if stated_augment is None else stated_augment
    if not reader.count:
        bad = (
            f"; {len(reader.skipped)} could not be read, first '{reader.skipped[0][0]}': {reader.skipped[0][1]}"
            if reader.skipped
            else ""
        )
        raise DataError(f"{place} has no samples{bad}")
    return reader


def split(reader: Reader, fractions: Sequence[float], seed: int) -> list[Reader]:
    """Disjoint parts of a reader, in a random order fixed by `seed`, none empty.

    Args:
        reader: what is divided, by items (images, rows of arrays, whole feeds).
        fractions: the share of each part; they sum to at most 1.
        seed: the same seed gives the same parts.

    Raises:
        DataError: fewer items than parts.
        UsageError: fractions that are not positive or sum to more than 1.
    """
    if any(f <= 0 for f in fractions) or sum(fractions) > 1 + 1e-9:
        raise UsageError(f"fractions {list(fractions)} must be positive and sum to at most 1")
    total = reader.items
    if total < len(fractions):
        raise DataError(f"{reader.place} has {total} samples; {len(fractions)} disjoint parts need at least as many")
    order = np.random.default_rng(seed).permutation(total)
    ends = [round(e * total) for e in np.cumsum(fractions)]
    for i in range(len(ends)):  # every part has at least one item
        ends[i] = min(max(ends[i], (ends[i - 1] if i else 0) + 1), total - (len(ends) - 1 - i))
    return [
        reader.subset(sorted(int(i) for i in order[start:end]))
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]


def _source(
    spec: Any,
    inputs: Signature,
    preprocess: Preprocess | None,
    limit: int | None,
    option: str,
    place: str,
    beside: Sequence[Path],
) -> tuple[sources.DataSource, Sequence[str]]:
    """The samples, and how the object that they came from says that they may be varied."""
    if isinstance(spec, (str, Path)):
        path = Path(spec)
        if not str(spec).strip():  # such as a variable of a script that is not set
            raise UsageError(f"{option} is '{spec}'; give data, or leave it out")
        try:
            there = path.exists()
        except OSError as error:
            raise DataError(f"{option} '{spec}' cannot be read: {error.strerror}") from None
        if there:
            return _from_path(path, inputs, preprocess, limit, beside), ()
        if not is_object_name(str(spec)):
            raise DataError(
                f"{option} '{spec}' does not exist; give a folder of images or texts, .npz, .npy, .txt, .jsonl, a "
                "folder of test_data_set_*, or module:attribute"
            )
        spec = load_object(str(spec), option)
    if isinstance(spec, Mapping) and any(map(is_table, spec.values())):
        raise DataError(f"{place} holds several tables: {', '.join(spec)}; give one of them, such as {place}['train']")
    if is_indexed(spec) or (is_table(spec) and hasattr(spec, "__len__")):
        taker = Taker(inputs, more=True, preprocess=preprocess)
        return sources.Items(spec, taker, place, limit), getattr(spec, "augment", ())
    if is_tensor(spec):
        spec = array_of(spec)
    if isinstance(spec, np.ndarray):
        if len(inputs) != 1:
            raise DataError(f"{place} is one array, the model has {len(inputs)} inputs: {', '.join(inputs)}")
        spec = {next(iter(inputs)): spec}
    if (pair := pair_of_arrays(spec, inputs)) is not None:
        arrays, labels = pair
        spec = arrays if labels is None else {**arrays, sources.LABELS: labels}
    if isinstance(spec, Mapping):
        return sources.Arrays(spec, inputs, preprocess, place, limit), ()
    if preprocess is not None:
        raise UsageError(f"--preprocess is for images and arrays; {place} gives finished samples")
    samples = sources.samples_of(spec, place)
    loader = is_loader(spec) or is_table(spec)
    augment = getattr(samples, "augment", getattr(spec, "augment", ()))
    return sources.Spool(samples, inputs, place, limit, loader=loader), augment


def _from_path(
    path: Path, inputs: Signature, preprocess: Preprocess | None, limit: int | None, beside: Sequence[Path]
) -> sources.DataSource:
    if path.is_file():
        if path.suffix in SUFFIXES:
            return _texts(path, inputs, preprocess, limit, beside)
        if path.suffix not in (".npz", ".npy"):
            raise DataError(f"'{path}' is neither a folder nor .npz, .npy, .txt or .jsonl")
        return sources.Arrays(sources.load_arrays(path, inputs), inputs, preprocess, f"'{path}'", limit)
    sets = (
        [path]
        if (path / "input_0.pb").exists()
        else sorted((p for p in path.glob("test_data_set_*") if p.is_dir()), key=lambda p: (len(p.name), p.name))
    )
    files = sorted(path.glob("*.npz"))
    if sources.image_paths(path):
        return sources.Images(path, inputs, preprocess, limit)
    if preprocess is not None:
        raise UsageError(f"--preprocess is for images and arrays; '{path}' has no images")
    if sets:
        return sources.TestSets(sets[:limit], inputs)
    if files:
        return sources.Files(files[:limit], inputs)
    if text_paths(path):
        return _texts(path, inputs, preprocess, limit, beside)
    raise DataError(
        f"folder '{path}' has no images ({', '.join(sorted(sources.IMAGE_SUFFIXES))}), no .npz, no .txt and no "
        "test_data_set_*"
    )


def _texts(
    path: Path, inputs: Signature, preprocess: Preprocess | None, limit: int | None, beside: Sequence[Path]
) -> Texts:
    if preprocess is not None:
        raise UsageError(f"--preprocess is for images and arrays; '{path}' has texts")
    texts, classes = read_texts(path)
    folders = [*beside, path if path.is_dir() else path.parent]
    source = Texts(texts, inputs, find_tokenizer(folders, f"'{path}'"), f"'{path}'", limit)
    source.classes = classes
    return source


def _batch_size(inputs: Signature, batched: frozenset[str], requested: int | None) -> int | None:
    """Rows per feed; None: items are fed as they come."""
    lead = next(((i.shape or (None,))[0] for n, i in inputs.items() if n in batched), None)
    if isinstance(lead, int):
        if requested is not None and requested != lead:
            raise UsageError(f"batch {requested}: the model's batch is fixed at {lead}")
        return lead
    if requested is not None and not batched:
        raise UsageError(f"batch {requested}: the model's inputs have no batch axis")
    return requested
