"""A captcha reader: convolutional trunk, LSTM, Gemm, CTC; inputs of varying width."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt

from benchmarks.zoo import cache, data, fetch, pictures, scores
from benchmarks.zoo.case import Case, Feeds, Run, first, planes

PACKAGE, FILE = "ddddocr==1.6.1", "ddddocr/common.onnx"


def model() -> Path:
    """The network's file in the package."""
    return fetch.package_file(PACKAGE, FILE)


@functools.cache
def alphabet() -> list[str]:
    """The characters by class, read from the package's source without running it."""
    source = fetch.package_file(PACKAGE, "ddddocr/charsets.py").read_text("utf8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == "CHARSET_BETA" for target in targets) and node.value:
                return list(ast.literal_eval(node.value))
    raise fetch.FetchError(f"{PACKAGE} no longer defines CHARSET_BETA")


def _build(strings: data.Pictures) -> cache.Arrays:
    result = dict(strings.arrays)
    for part, images in strings.images.items():
        result[part], result[f"{part}_ends"] = pictures.strip(images)
    return result


def _strings() -> cache.Arrays:
    return data.arrays("strings", _build, "L")


def feeds(part: str) -> Iterator[Feeds]:
    """The strings of a part, "calib" or "eval", one to a feed."""
    for image in pictures.unstrip(_strings()[part], _strings()[f"{part}_ends"]):
        yield {"input1": planes(image[..., None])[None]}


def calibration() -> list[Feeds]:
    """96 strings."""
    return list(feeds("calib"))


def text(output: npt.NDArray[Any]) -> str:
    """What the network reads on one image, in lower case: its output (t, 1, classes) decoded."""
    return scores.ctc_text(output[:, 0].argmax(1), alphabet()).lower()


def truth() -> list[str]:
    """What is written on the images of "eval", in lower case."""
    return [str(each).lower() for each in _strings()["eval_text"]]


def metric(run: Run) -> float:
    """1 - character error rate, case-insensitive."""
    read = (text(first(run(feed))) for feed in feeds("eval"))
    return scores.character_score(zip(read, truth(), strict=True))


def example() -> Feeds:
    """One string."""
    return next(feeds("eval"))


CASE = Case("ddddocr_common", "captcha OCR, conv trunk and LSTM", model, calibration, metric, example, "1-CER", 0.9980)
