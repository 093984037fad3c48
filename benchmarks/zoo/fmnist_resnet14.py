"""The embedded classifier on all 10,000 test images of Fashion-MNIST."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.zoo import fashion
from benchmarks.zoo.case import Case, Feeds, Run, first
from lwgraph import demo


def model() -> Path:
    """The file in the package."""
    return demo.MODEL


def calibration() -> list[Feeds]:
    """256 training images, one to a feed."""
    pick = np.random.default_rng(0).choice(60000, 256, replace=False)
    return [{"image": image[None]} for image in demo.normalize(fashion.images("train")[pick])]


def metric(run: Run) -> float:
    """Top-1 accuracy."""
    batches = np.split(demo.normalize(fashion.images("t10k")), 100)
    predicted = np.concatenate([first(run({"image": batch})).argmax(1) for batch in batches])
    return float((predicted == fashion.labels("t10k")).mean())


def evaluation() -> Feeds:
    """All test images with their labels, for --eval-data: as many of them judge as there is time for."""
    return {"image": demo.normalize(fashion.images("t10k")), "labels": fashion.labels("t10k")}


def example() -> Feeds:
    """The first test image."""
    return {"image": demo.normalize(fashion.images("t10k")[:1])}


CASE = Case(
    "fmnist_resnet14", "ResNet-14 classifier, BatchNorm kept", model, calibration, metric, example, "top-1", 0.9390
)
