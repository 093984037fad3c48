"""What every benchmark case gives: a model, calibration inputs, a metric on inputs that calibration never saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Feeds = dict[str, npt.NDArray[Any]]
Run = Callable[[Feeds], Mapping[str, npt.NDArray[Any]]]


@dataclass(frozen=True)
class Case:
    """One model with its data and score. The callables fetch what is not in the cache yet.

    `calibration` and `metric` are also what the command line takes: `--data benchmarks.zoo.orinet:calibration
    --metric benchmarks.zoo.orinet:metric`.
    """

    name: str
    about: str
    model: Callable[[], Path]
    calibration: Callable[[], list[Feeds]]  # unlabelled
    metric: Callable[[Run], float]  # higher is better
    example: Callable[[], Feeds]  # one realistic sample, for latency
    unit: str  # of the metric, as printed
    published: float  # the metric of the float model on the frozen data
    points_per_unit: float = 100.0  # accuracy-like metrics in 0..1; 10 for dB
    exported: bool = False  # made from PyTorch weights, which needs the extra [torch] once

    def points(self, base: float, new: float) -> float:
        """The loss from `base` to `new` in points, so that one budget means the same in every case."""
        return self.points_per_unit * (base - new)


def first(outputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """The model's first output."""
    return next(iter(outputs.values()))


def planes(
    images: npt.NDArray[np.uint8], scale: float = 255.0, mean: Any = 0.0, std: Any = 1.0
) -> npt.NDArray[np.float32]:
    """Bytes (..., h, w, c) to float32 (..., c, h, w): (pixel / scale - mean) / std, per channel."""
    values = (images.astype(np.float32) * np.float32(1 / scale) - np.float32(mean)) / np.float32(std)
    return np.ascontiguousarray(np.moveaxis(values, -1, -3))
