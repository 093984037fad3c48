"""The embedded demo: a ResNet-14 trained on Fashion-MNIST, unlabelled calibration and labelled evaluation images.

`lwgraph optimize "$(python -c 'import lwgraph.demo as d; print(d.MODEL)')" --data lwgraph.demo:calibration
--metric lwgraph.demo:accuracy` is what `lwgraph demo` does, which takes half of the images to be quicker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lwgraph.arrays import Ints

FOLDER = Path(__file__).resolve().parent
MODEL = FOLDER / "fmnist_resnet14.onnx"
INPUT = "image"
MEAN, STD = 0.2860, 0.3530  # mean and deviation of Fashion-MNIST's training images, in 0..1
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

Feeds = dict[str, npt.NDArray[np.float32]]


def _array(name: str) -> npt.NDArray[np.uint8]:
    with np.load(FOLDER / "fashion_mnist.npz", allow_pickle=False) as file:
        return file[name]  # type: ignore[no-any-return]


def normalize(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Grey images (n, 28, 28) of bytes to the network's input (n, 1, 28, 28) of float32."""
    scaled = pixels[:, None].astype(np.float32) / np.float32(255)
    return np.asarray((scaled - np.float32(MEAN)) / np.float32(STD), np.float32)


def _batches(name: str, batch: int) -> Iterator[Feeds]:
    images = normalize(_array(name))
    for start in range(0, len(images), batch):
        yield {INPUT: images[start : start + batch]}


def calibration(batch: int = 32) -> list[Feeds]:
    """512 unlabelled training images, `batch` to a feed: {"image": (batch, 1, 28, 28) float32}."""
    return list(_batches("calibration", batch))


def evaluation(batch: int = 100) -> tuple[list[Feeds], Ints]:
    """2,000 test images, `batch` to a feed, and their classes (2000,), 0..9, in the same order."""
    return list(_batches("evaluation", batch)), _array("labels").astype(np.int64)


def accuracy(run: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> float:
    """Top-1 accuracy on the evaluation images, 0..1. `run` executes the model: {input: array} to {output: array}."""
    feeds, labels = evaluation()
    predicted = np.concatenate([next(iter(run(feed).values())).argmax(1) for feed in feeds])
    return float((predicted == labels).mean())
