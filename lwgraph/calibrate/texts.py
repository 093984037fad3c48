"""Texts for models that read tokens: lines of a .txt or .jsonl file, or a folder of .txt files, by a tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lwgraph.arrays import Array
from lwgraph.calibrate.signature import Input, Signature, fit
from lwgraph.calibrate.sources import BaseSource, spread_over
from lwgraph.errors import DataError, UsageError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

SUFFIXES = (".txt", ".jsonl")
# Keys of the objects in a .jsonl file, as public data sets name them: a text, or two that are read as a pair.
KEYS = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question", "context"),
    ("text",),
    ("sentence",),
    ("content",),
)
LONGEST = 512  # tokens, where neither the model nor the tokenizer says how many it takes
_NOT_STATED = 1 << 20  # tokenizers state a number beyond this where they know none
_PADDING = ("[PAD]", "<pad>", "<|endoftext|>")


@dataclass(frozen=True)
class Text:
    """One sample: a text, or a pair, and its class where that is known."""

    text: str
    pair: str | None = None
    label: int | None = None


@dataclass
class Texts(BaseSource):
    """Texts as tokens, each of its own length, or padded to the length that the model states.

    Attributes:
        texts: the samples.
        inputs: integer inputs, told apart by their names; see `part_of`.
        tokenizer: the tokenizer.json.
        place: where the samples come from.
        limit: at most so many, evenly spread.
        classes: names of the classes, where a folder gave them.
    """

    texts: Sequence[Text]
    inputs: Signature
    tokenizer: Path
    place: str
    limit: int | None = None

    def __post_init__(self) -> None:
        if not self.texts:
            raise DataError(f"{self.place} has no texts")
        self._picked: list[Text] = spread_over(self.texts, self.limit)
        self._parts = {name: part_of(wanted, self.place) for name, wanted in self.inputs.items()}
        self._length = _stated_length(self.inputs)
        self._reader = _opened(self.tokenizer, self._length)
        if all(each.label is not None for each in self._picked):
            self.labels = [np.array([each.label]) for each in self._picked]
        self.rows = [1] * len(self._picked)
        self[0]  # what does not fit the model is told at the start

    def __len__(self) -> int:
        return len(self._picked)

    def __getitem__(self, index: int) -> dict[str, Array]:
        each = self._picked[index]
        encoding = (
            self._reader.encode(each.text, each.pair) if each.pair is not None else self._reader.encode(each.text)
        )
        if not encoding.ids:
            raise DataError(f"{self.place}, text {index} ({each.text[:20]!r}) has no tokens")
        arrays = {name: _array(part, encoding)[None] for name, part in self._parts.items()}
        return fit(arrays, self.inputs, f"{self.place}, text {index}", check_batch=False)


def part_of(wanted: Input, place: str) -> str:
    """What of an encoding an input takes, by its name: "types", "mask", "positions" or "ids"."""
    name = wanted.name.lower()
    if wanted.rank in (None, 2):
        for part, words in (("types", ("type", "segment")), ("mask", ("mask",)), ("positions", ("position",))):
            if any(word in name for word in words):
                return part
        if wanted.dtype.kind in "iu":
            return "ids"
    raise DataError(
        f"{place} holds texts; input '{wanted.name}' ({wanted}) takes no tokens: give arrays as .npz, or "
        "module:attribute"
    )


def _array(part: str, encoding: Encoding) -> Array:
    values = {"ids": encoding.ids, "mask": encoding.attention_mask, "types": encoding.type_ids}
    return np.arange(len(encoding.ids)) if part == "positions" else np.array(values[part], np.int64)


def _stated_length(inputs: Signature) -> int | None:
    """The number of tokens that the model is fixed at; None where it is open."""
    stated = {i.shape[1] for i in inputs.values() if i.shape is not None and len(i.shape) == 2}
    return next((size for size in stated if isinstance(size, int)), None)


def _opened(path: Path, length: int | None) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise UsageError("texts are read with the package tokenizers: pip install 'lwgraph[text]'") from None
    try:
        reader = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises a plain Exception
        raise DataError(f"'{path}' is not a tokenizer: {' '.join(str(error).split())}") from error
    if length is None:
        reader.no_padding()
        reader.enable_truncation(_longest(path))
        return reader
    padding = reader.padding or {}
    token = padding.get("pad_token") or next((t for t in _PADDING if reader.token_to_id(t) is not None), "[PAD]")
    reader.enable_truncation(length)
    reader.enable_padding(length=length, pad_token=token, pad_id=reader.token_to_id(token) or 0)
    return reader


def _longest(path: Path) -> int:
    """Tokens that the model was made for, as the tokenizer_config.json beside the tokenizer says."""
    config = _json(path.with_name("tokenizer_config.json"))
    stated = config.get("model_max_length") if isinstance(config, Mapping) else None
    return int(stated) if isinstance(stated, (int, float)) and 0 < stated < _NOT_STATED else LONGEST


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def find_tokenizer(folders: Sequence[Path], place: str) -> Path:
    """The tokenizer.json in the first folder that has one; DataError where none has."""
    for folder in folders:
        if (folder / "tokenizer.json").is_file():
            return folder / "tokenizer.json"
    looked = " and ".join(f"'{folder}'" for folder in dict.fromkeys(folders))
    raise DataError(f"{place} holds texts, which need a tokenizer.json beside the model; there is none in {looked}")


def read_texts(path: Path) -> tuple[list[Text], list[str] | None]:
    """The texts of a file, one a line, or of the .txt files below a folder, and its classes: subfolders, in order.

    Raises:
        DataError: a file that is no UTF-8, a line that is no JSON or has none of KEYS.
    """
    if path.is_dir():
        return _of_folder(path)
    lines = [(number, line) for number, line in enumerate(_lines(path), 1) if line.strip()]
    if path.suffix == ".txt":
        return [Text(line.strip()) for _, line in lines], None
    return [_of_json(line, f"'{path}', line {number}") for number, line in lines], None


def text_paths(folder: Path) -> list[Path]:
    """The .txt files below `folder`, sorted by path, hidden ones left out."""
    return sorted(
        p
        for p in folder.rglob("*.txt")
        if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )


def _of_folder(folder: Path) -> tuple[list[Text], list[str] | None]:
    paths = text_paths(folder)
    groups = sorted({p.relative_to(folder).parts[0] for p in paths if len(p.relative_to(folder).parts) > 1})
    labelled = len(groups) > 1 and all(len(p.relative_to(folder).parts) > 1 for p in paths)
    found = [
        Text(" ".join(_lines(p)).strip(), None, groups.index(p.relative_to(folder).parts[0]) if labelled else None)
        for p in paths
    ]
    return [each for each in found if each.text], groups if labelled else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' cannot be read as text in UTF-8: {error}") from None


def _of_json(line: str, place: str) -> Text:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is not JSON: {error}") from None
    if isinstance(row, str):
        return Text(row)
    if not isinstance(row, Mapping):
        raise DataError(f"{place} is neither a text nor an object with one")
    for keys in KEYS:
        if all(isinstance(row.get(key), str) for key in keys):
            label = row.get("label")
            return Text(row[keys[0]], row[keys[1]] if len(keys) > 1 else None, label if _is_class(label) else None)
    known = ", ".join(dict.fromkeys(keys[0] for keys in KEYS))
    raise DataError(f"{place} has no text under one of the keys {known}; it has: {', '.join(map(str, row)) or 'none'}")


def _is_class(label: Any) -> bool:
    return isinstance(label, int) and not isinstance(label, bool) and label >= 0


__all__ = ["KEYS", "SUFFIXES", "Text", "Texts", "find_tokenizer", "part_of", "read_texts", "text_paths"]
