"""Writes the samples on which input and result disagree, to be labelled: see `lwgraph.measure.labels`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array, Ints
from lwgraph.calibrate import Reader
from lwgraph.errors import UsageError
from lwgraph.executor import Executor, Feeds
from lwgraph.measure.labels import FILE, Labels, Row, models_of, write_labels
from lwgraph.optimizer.judge import Judge

_LEAST_SIDE = 8  # pixels of what is taken for an image


def check_labelling(folder: str | Path, judge: Judge, reader: Reader | None, original: ir.Model, run: Executor) -> None:
    """UsageError where disagreements cannot be written, or labels of them would say nothing; makes the folder.

    Args:
        folder: to write to; new or empty.
        judge: that candidates are compared by.
        reader: the samples of the last look, which are those that count.
        original: the model.
        run: executes it.
    """
    if judge.metric.name == "top1":
        raise UsageError("--label-these asks for labels, which the data have; leave it out")
    if reader is None:
        raise UsageError("--label-these needs at least three samples to judge on; give more --data or --eval-data")
    batch = next(reader.batches())
    value = np.asarray(next(iter(run.prepare(original)(batch.feeds).values())))
    if judge.metric.name != "agreement" or _answers(value, batch.count) is None:
        raise UsageError(
            "--label-these is for models that give one class for each sample; leave it out, or state "
            "--output-kind classes"
        )
    path = Path(folder)
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UsageError(f"--label-these '{path}' exists and is not an empty folder; name another")
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--label-these '{path}' cannot be written: {error.strerror}; name another") from error


def write_disagreements(
    folder: str | Path, original: ir.Model, result: ir.Model, executor: Executor, reader: Reader
) -> Labels:
    """Write the samples on which two models disagree, with a CSV to fill in; nothing where there are none.

    A sample is a copy of its file where the data are image files, a PNG of its pixels where its one input is an image
    (stretched to 0..255 where it is not of bytes), else an .npz of its inputs by name. Names are positions in the data.

    Returns:
        the samples, without labels.
    """
    first, second = executor.prepare(original), executor.prepare(result)
    batched = reader.batched
    rows, at = list[Row](), 0
    for batch in reader.batches():
        says = [_answers(np.asarray(next(iter(run(batch.feeds).values()))), batch.count) for run in (first, second)]
        before, after = says
        assert before is not None and after is not None
        for i in np.flatnonzero(before != after).tolist():
            feeds = {name: array[i : i + 1] if name in batched else array for name, array in batch.feeds.items()}
            file = None if reader.files is None else reader.files[at + i]
            name = _write_sample(Path(folder), f"{at + i:06d}", feeds, file)
            rows.append(Row(name, int(before[i]), int(after[i])))
        at += batch.count
    labels = Labels(tuple(rows), at, models_of(original, result))
    if rows:
        write_labels(Path(folder) / FILE, labels)
    return labels


def _answers(value: Array, count: int) -> Ints | None:
    """The class of each of `count` samples; None where there is not one for each."""
    rows = value[:count] if value.ndim else value
    if rows.ndim and len(rows) == count:
        if value.dtype.kind in "iu" and rows.size == count:  # the model ends in ArgMax
            found: Ints = rows.reshape(count).astype(np.int64)
            return found
        if value.dtype.kind == "f" and value.ndim >= 2 and rows[0].size == value.shape[1] > 1:
            best: Ints = rows.reshape(count, -1).argmax(axis=1)
            return best
    return None


def _write_sample(folder: Path, stem: str, feeds: Feeds, file: Path | None) -> str:
    if file is not None:
        shutil.copyfile(file, folder / f"{stem}{file.suffix}")
        return f"{stem}{file.suffix}"
    pixels = _pixels(next(iter(feeds.values()))[0]) if len(feeds) == 1 else None
    if pixels is None:
        arrays: dict[str, Any] = dict(feeds)
        np.savez(folder / f"{stem}.npz", **arrays)
        return f"{stem}.npz"
    from PIL import Image

    Image.fromarray(pixels).save(folder / f"{stem}.png")
    return f"{stem}.png"


def _pixels(array: Array) -> Array | None:
    """Bytes (h, w) or (h, w, 3) of what looks like an image, channels first or last; else None."""
    if array.ndim != 3 or array.dtype.kind not in "fu":
        return None
    if array.shape[0] in (1, 3) and min(array.shape[1:]) >= _LEAST_SIDE:
        array = np.moveaxis(array, 0, -1)
    elif array.shape[2] not in (1, 3) or min(array.shape[:2]) < _LEAST_SIDE:
        return None
    if array.dtype != np.uint8:
        low, high = float(array.min()), float(array.max())
        array = ((array.astype(np.float64) - low) * (255 / max(high - low, 1e-12))).round().astype(np.uint8)
    return np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array)


__all__ = ["check_labelling", "write_disagreements"]
