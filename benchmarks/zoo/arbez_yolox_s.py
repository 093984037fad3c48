"""A YOLOX-s that finds bar codes: SiLU, Concat, Slice and Resize around dense and 1x1 convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.zoo import cache, data, fetch, pictures, scores
from benchmarks.zoo.case import Case, Feeds, Run, first, planes

PACKAGE, FILE = "arbez==0.2.1", "arbez/_assets/arbez_yolox_s.onnx"
LEAST_SCORE = 0.05


def model() -> Path:
    """The network's file in the package."""
    return fetch.package_file(PACKAGE, FILE)


def _build(scenes: data.Pictures) -> cache.Arrays:
    images = {part: pictures.stack(images) for part, images in scenes.images.items()}
    return images | {"boxes": scenes.arrays["eval_boxes"]}  # rows: index of the scene, x0, y0, x1, y1


def _scenes() -> cache.Arrays:
    return data.arrays("barcodes", _build)


def calibration() -> list[Feeds]:
    """16 scenes, each as it is and mirrored."""
    return [{"input": planes(scene)[None]} for image in _scenes()["calib"] for scene in (image, image[:, ::-1])]


def _evaluation() -> Iterator[Feeds]:
    for scene in _scenes()["eval"]:
        yield {"input": planes(scene)[None]}


def _boxes(rows: npt.NDArray[Any]) -> tuple[scores.Floats, scores.Floats]:
    """Boxes and scores of one scene's rows: centre x, y, width, height, objectness, a score per class."""
    score = rows[:, 4] * rows[:, 5:].max(1)
    rows, score = rows[score > LEAST_SCORE], score[score > LEAST_SCORE]
    centre, half = rows[:, :2], rows[:, 2:4] / 2
    return np.concatenate([centre - half, centre + half], axis=1), score


def metric(run: Run) -> float:
    """Average precision at an overlap of 0.5, all classes as one."""
    truth = _scenes()["boxes"]
    all_scores, all_hits = [], []
    for i, feed in enumerate(_evaluation()):
        boxes, score = _boxes(first(run(feed))[0])
        kept = scores.suppress(boxes, score)
        all_scores.append(score[kept])
        all_hits.append(scores.hits(boxes[kept], truth[truth[:, 0] == i, 1:]))
    return scores.average_precision(np.concatenate(all_scores), np.concatenate(all_hits), len(truth))


def example() -> Feeds:
    """One scene."""
    return next(_evaluation())


CASE = Case("arbez_yolox_s", "YOLOX-s bar code detector", model, calibration, metric, example, "AP50", 0.8188)
