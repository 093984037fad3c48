"""The few labels that settle a loss: a CSV of the samples on which two classifiers disagree, and what it says.

Where both give the same class the loss is 0, whatever the label. So labels of the others alone give the exact paired
loss on all samples that were looked at.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lwgraph import ir
from lwgraph.errors import DataError
from lwgraph.measure.evidence import Pairs

FILE = "labels.csv"
COLUMNS = ("file", "original", "candidate", "label", "samples", "models")


@dataclass(frozen=True)
class Row:
    """One sample on which two models disagree.

    Attributes:
        file: of the sample, beside the CSV.
        original, candidate: the class that each model says, from 0.
        label: the right class; None: not known.
    """

    file: str
    original: int
    candidate: int
    label: int | None = None


@dataclass(frozen=True)
class Labels:
    """The samples on which two models disagree.

    Attributes:
        rows: at least one.
        samples: of how many they are all on which the models disagree.
        models: which two these are: see `models_of`.
    """

    rows: tuple[Row, ...]
    samples: int
    models: str

    @property
    def known(self) -> tuple[Row, ...]:
        """The rows with a label."""
        return tuple(row for row in self.rows if row.label is not None)

    @property
    def lost(self) -> int:
        """How many went from right to wrong."""
        return sum(row.label == row.original for row in self.known)

    @property
    def gained(self) -> int:
        """How many went from wrong to right."""
        return sum(row.label == row.candidate for row in self.known)

    @property
    def unknown(self) -> int:
        """How many have no label."""
        return len(self.rows) - len(self.known)

    def evidence(self) -> Pairs:
        """What the labels say of the loss. The bounds hold whatever those would be that are not known.

        The estimate takes rows without a label to be as those with one; without any, lost and gained alike.
        """
        share = len(self.rows) / self.samples
        expected = (
            (self.lost / len(self.known) * share, self.gained / len(self.known) * share)
            if self.known
            else (share / 2, share / 2)
        )
        return Pairs(self.lost, self.gained, self.samples, unknown=self.unknown, expected=expected)


def models_of(original: ir.Model, candidate: ir.Model) -> str:
    """What tells a pair of models from others: twelve digits of the fingerprint of each."""
    return "-".join(ir.fingerprint(model)[:12] for model in (original, candidate))


def classes_of(model: ir.Model) -> int | None:
    """How many classes a classifier's first output tells apart; None where its shape does not say."""
    shape = model.graph.outputs[0].shape
    dtype = model.graph.outputs[0].dtype
    if shape is None or len(shape) < 2 or dtype is None or not dtype.is_floating_point():
        return None
    return shape[1] if isinstance(shape[1], int) else None


def write_labels(path: Path, labels: Labels) -> None:
    """Write the CSV, with what is known in the column `label`."""
    with open(path, "w", newline="", encoding="utf8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in labels.rows:
            label = "" if row.label is None else row.label
            writer.writerow([row.file, row.original, row.candidate, label, labels.samples, labels.models])


def read_labels(path: Path, models: str, classes: int | None = None) -> Labels:
    """Read the CSV back, filled in all or in part. Order of rows and further columns do not matter.

    Args:
        path: the file.
        models: that it must have been written for: see `models_of`.
        classes: how many there are; None: not known.

    Raises:
        DataError: the file cannot be read, is of other models, or a row is wrong.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            sample = file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DataError(f"labels '{path}' cannot be read: {reason}") from None
    first = sample.partition("\n")[0]
    table = csv.DictReader(sample.splitlines(), delimiter=";" if first.count(";") > first.count(",") else ",")
    missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
    if missing:
        raise DataError(f"labels '{path}' has no column '{missing[0]}'; its first line must name {', '.join(COLUMNS)}")
    rows, totals, seen = list[Row](), set[int](), set[str]()
    for record in table:
        place = f"labels '{path}', line {table.line_num}"
        if not any((record[name] or "").strip() for name in COLUMNS):
            continue  # spreadsheets leave empty lines
        found, total = _row(record, place, classes)
        if record["models"].strip() != models:
            raise DataError(
                f"{place}: was written for models {record['models'].strip() or 'without a name'}, these are {models}; "
                "give the input and the result of the run with --label-these"
            )
        if found.file in seen:
            raise DataError(f"{place}: file '{found.file}' is there twice")
        seen.add(found.file)
        rows.append(found)
        totals.add(total)
    if not rows:
        raise DataError(f"labels '{path}' has no rows")
    if len(totals) > 1:
        raise DataError(f"labels '{path}': column 'samples' has {min(totals)} and {max(totals)}; it must be the same")
    if len(rows) > max(totals):
        raise DataError(f"labels '{path}' has {len(rows)} rows of {max(totals)} samples")
    return Labels(tuple(rows), max(totals), models)


def _row(record: Mapping[str, str | None], place: str, classes: int | None) -> tuple[Row, int]:
    def whole(name: str) -> int:
        text = (record[name] or "").strip()
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            allowed = "a class, from 0" if name != "samples" else "a number of samples"
            raise DataError(f"{place}: {name} is '{text}'; allowed: {allowed}" + " or nothing" * (name == "label"))
        if name != "samples" and classes is not None and int(text) >= classes:
            raise DataError(f"{place}: {name} is {text}; allowed: 0 to {classes - 1}")
        return int(text)

    missing = [name for name in COLUMNS if record[name] is None]
    if missing:
        raise DataError(f"{place}: has no '{missing[0]}'; each row must have {len(COLUMNS)} columns")
    label = whole("label") if (record["label"] or "").strip() else None
    row = Row((record["file"] or "").strip(), whole("original"), whole("candidate"), label)
    if row.original == row.candidate:
        raise DataError(f"{place}: both models say {row.original}; rows are samples on which they disagree")
    return row, whole("samples")


def told(labels: Labels) -> str:
    """One line on what the labels are."""
    wrong = len(labels.known) - labels.lost - labels.gained
    parts = [f"{labels.lost} right before", f"{labels.gained} right now", f"{wrong} never right"]
    if labels.unknown:
        parts.append(f"{labels.unknown} without a label")
    return f"the models disagree on {len(labels.rows)} of {labels.samples:,} samples: {', '.join(parts)}"


__all__ = ["COLUMNS", "FILE", "Labels", "Row", "classes_of", "models_of", "read_labels", "told", "write_labels"]
