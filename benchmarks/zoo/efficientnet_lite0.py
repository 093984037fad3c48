"""EfficientNet-Lite0: an ImageNet classifier that is light already (depthwise and 1x1 convolutions)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.zoo import export, photos
from benchmarks.zoo.case import Case, Feeds, Run, first, planes


def model() -> Path:
    """The network, exported once from its PyTorch weights."""
    return export.model("efficientnet_lite0")


def feeds(key: str) -> Iterator[Feeds]:
    """The crops of "calib_224" or "eval_224", one to a feed."""
    for photo in photos.arrays()[key]:
        yield {"x": planes(photo, scale=1.0, mean=127.0, std=128.0)[None]}


def calibration() -> list[Feeds]:
    """116 crops of unlabelled photos."""
    return list(feeds("calib_224"))


def metric(run: Run) -> float:
    """Top-1 accuracy on 400 crops of 20 labelled photos."""
    predicted = [first(run(feed))[0].argmax() for feed in feeds("eval_224")]
    return float((predicted == photos.arrays()["labels_224"]).mean())


def example() -> Feeds:
    """One crop."""
    return next(feeds("eval_224"))


CASE = Case(
    "efficientnet_lite0",
    "ImageNet classifier, depthwise",
    model,
    calibration,
    metric,
    example,
    "top-1",
    0.8775,
    exported=True,
)
