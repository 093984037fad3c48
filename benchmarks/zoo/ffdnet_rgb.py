"""FFDNet: a denoiser of dense 3x3 convolutions (Zhang, Zuo, Zhang 2018). GPLv3: run, never kept in the repository."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.zoo import export, photos, scores
from benchmarks.zoo.case import Case, Feeds, Run, first, planes

SIGMA = 25 / 255


def model() -> Path:
    """The network, exported once from its PyTorch weights."""
    return export.model("ffdnet_rgb")


def _feeds(key: str, seed: int) -> Iterator[Feeds]:
    rng = np.random.default_rng(seed)
    for photo in photos.arrays()[key]:
        clean = planes(photo)
        noisy = (clean + rng.normal(0, SIGMA, clean.shape)).astype(np.float32)
        yield {"image": noisy[None], "sigma": np.array([SIGMA], np.float32)}


def calibration() -> list[Feeds]:
    """64 noisy crops of 160x160."""
    return list(_feeds("calib_160", 1))


def metric(run: Run) -> float:
    """Mean PSNR against the clean photos, in dB."""
    restored = (first(run(feed))[0].clip(0, 1) for feed in _feeds("eval_240", 0))
    clean = (planes(photo) for photo in photos.arrays()["eval_240"])
    return float(np.mean([scores.psnr(*pair) for pair in zip(restored, clean, strict=True)]))


def example() -> Feeds:
    """One noisy photo of 240x240."""
    return next(_feeds("eval_240", 0))


CASE = Case(
    "ffdnet_rgb",
    "denoiser, all dense 3x3",
    model,
    calibration,
    metric,
    example,
    "dB",
    31.84,
    points_per_unit=10.0,
    exported=True,
)
