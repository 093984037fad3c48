"""The photographs of the two image cases, cut to size."""

from __future__ import annotations

import numpy as np

from benchmarks.zoo import cache, data, pictures


def _build(photos: data.Pictures) -> cache.Arrays:
    plain, labelled, unlabelled = (photos.images[part] for part in ("eval", "labelled", "calib"))
    labels = photos.arrays["labels"]
    rng = np.random.default_rng(0)  # the draws below are one sequence: their order is part of the data

    def cuts(of: list[pictures.Image.Image], count: int, size: int, least: float) -> pictures.Bytes:
        return pictures.stack(pictures.random_square(of[k % len(of)], rng, size, least) for k in range(count))

    return {
        "eval_240": pictures.stack(pictures.centre(image, 240) for image in plain + labelled),
        "calib_160": cuts(unlabelled, 64, 160, 0.5),
        "eval_224": cuts(labelled, 400, 224, 0.6),
        "calib_224": cuts(plain + unlabelled, 116, 224, 0.5),
        "labels_224": np.resize(labels, 400),
    }


def arrays() -> cache.Arrays:
    """eval_240, calib_160 (denoising), eval_224, labels_224, calib_224 (ImageNet): bytes (n, size, size, 3)."""
    return data.arrays("photos", _build)
