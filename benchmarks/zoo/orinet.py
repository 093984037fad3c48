"""OriNet: which way up is a page? A VGG-like network of dense 3x3 convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.zoo import cache, data, fetch, pictures
from benchmarks.zoo.case import Case, Feeds, Run, first, planes

PACKAGE, FILE = "occular-deskew==0.5.0", "occular_deskew/weights/orientation_orinet_fp32.onnx"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TURNS = 4


def model() -> Path:
    """The network's file in the package."""
    return fetch.package_file(PACKAGE, FILE)


def build(pages: data.Pictures) -> cache.Arrays:
    """Both parts, letterboxed: bytes (n, 320, 320, 3)."""
    return {part: pictures.stack(pictures.letterbox(i, 320) for i in images) for part, images in pages.images.items()}


def feeds(part: str) -> Iterator[Feeds]:
    """The fragments of a part, "calib" or "eval", each turned by 0 to 3 quarters, one after the other."""
    for page in data.arrays("pages", build)[part]:
        for turn in range(TURNS):
            yield {"x": planes(np.rot90(page, -turn), mean=MEAN, std=STD)[None]}


def calibration() -> list[Feeds]:
    """24 page fragments in four rotations."""
    return list(feeds("calib"))


def metric(run: Run) -> float:
    """Share of the fragments whose rotation is recognised."""
    return float(np.mean([first(run(feed))[0].argmax() == i % TURNS for i, feed in enumerate(feeds("eval"))]))


def example() -> Feeds:
    """One upright fragment."""
    return next(feeds("eval"))


CASE = Case(
    "orinet", "page orientation, VGG-like, all dense 3x3", model, calibration, metric, example, "accuracy", 0.8550
)
