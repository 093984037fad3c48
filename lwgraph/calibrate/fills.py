"""Arrays of generated inputs: pictures, masks, tokens, integers of both signs, texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lwgraph.arrays import Array
from lwgraph.calibrate.input_use import IntegerUse

_TEXTS = ("a", "B", "", "1.5", "two words", "ü")
SMALL = {"positive": (1, 7), "few": (1, 2)}  # least and greatest integers


# Where functions of floats are defined that are not so everywhere, by name.
DOMAINS: dict[str, Callable[[Array], Array]] = {
    "positive": lambda x: np.abs(x) + 0.05,
    "above one": lambda x: np.abs(x) + 1,
    "within one": lambda x: 0.95 * np.tanh(x),
}


@dataclass(frozen=True)
class Fill:
    """What feeds are made of: integers of unknown use (small, ones, zeros, or as SMALL has them), floats of one of
    DOMAINS or of any, and texts, by input, that the graph knows."""

    integers: str = "small"
    floats: str = ""
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def booleans(rng: np.random.Generator, shape: tuple[int, ...], index: int) -> Array:
    """Both, true at the first place; a single one is false in every second feed."""
    made = rng.integers(0, 2, shape).astype(bool)
    made.reshape(-1)[:1] = made.size > 1 or index % 2 == 0
    return made


def integers(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any], use: IntegerUse, fill: str, index: int
) -> Array:
    """Integers as feed number `index` of `generate` has them; `fill` is what those of unknown use are: small,
    ones, zeros, or as SMALL has them."""
    if use.bound is not None:
        made = rng.integers(0, use.bound, shape).astype(dtype)
        return np.sort(made, axis=-1) if use.bound == 2 and made.ndim else made  # the first sentence, then the second
    if fill not in ("small", *SMALL) and (not use.varied or index == 0):
        return np.full(shape, 1 if fill == "ones" else 0).astype(dtype)
    if use.mask:
        if not index or not shape:
            return np.ones(shape, dtype)
        lengths = rng.integers(1, shape[-1] + 1, (*shape[:-1], 1))  # a row without anything has no mean
        return np.asarray(np.arange(shape[-1]) < lengths).astype(dtype)
    low, high = use.ranges[index % len(use.ranges)]
    if not use.varied:
        low, high = SMALL.get(fill, (low, high))
    kind = np.uint64 if high >= 1 << 63 else np.int64
    made = rng.integers(low, high, shape, dtype=kind, endpoint=True)
    if index and use.varied:
        made.reshape(-1)[:2] = np.array([low, high], kind)[: made.size]
    return made.astype(dtype)


def looks_like_image(shape: tuple[int, ...]) -> bool:
    """Whether generated inputs of this shape are pictures."""
    return _image_axes(shape) is not None


def _image_axes(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The height and width axes of a shape that looks like images, or None."""
    if len(shape) != 4 or 0 in shape:
        return None
    if shape[1] in (1, 3, 4):
        return (2, 3)
    return (1, 2) if shape[3] in (1, 3, 4) else None


def picture(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Image-like values in 0..1: bilinearly enlarged noise whose strength falls with its frequency, a few flat
    rectangles for edges, a common luminance over the channels, and a little white noise. float64, like `shape`."""
    axes = _image_axes(shape)
    assert axes is not None
    channel = 1 if axes == (2, 3) else 3
    batch, channels, height, width = shape[0], shape[channel], shape[axes[0]], shape[axes[1]]
    image = np.zeros((batch, channels, height, width))
    cells = 2
    while cells <= max(height, width):
        grid = (min(cells, height), min(cells, width))
        common = rng.standard_normal((batch, 1, *grid)) + 0.5 * rng.standard_normal((batch, channels, *grid))
        image += _enlarge(common, height, width) * (2 / cells) ** 0.7
        cells *= 2
    for _ in range(4):
        top, bottom = np.sort(rng.integers(0, height + 1, 2))
        left, right = np.sort(rng.integers(0, width + 1, 2))
        image[:, :, top:bottom, left:right] += 1.5 * rng.standard_normal((batch, channels, 1, 1))
    image += 0.1 * rng.standard_normal(image.shape)
    low, high = np.quantile(image, (0.01, 0.99))
    image = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    return np.moveaxis(image, 1, channel)


def _enlarge(grid: Array, height: int, width: int) -> Array:
    """Bilinear interpolation of the last two axes."""
    for axis, size in ((-2, height), (-1, width)):
        at = np.linspace(0, grid.shape[axis] - 1, size)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, grid.shape[axis] - 1)
        share = (at - low).reshape((-1, 1) if axis == -2 else (-1,))
        grid = np.take(grid, low, axis) * (1 - share) + np.take(grid, high, axis) * share
    return grid


def floats(rng: np.random.Generator, shape: tuple[int, ...], index: int) -> Array:
    """Floats as feed number `index` of `generate` has them, in float64: pictures, a few strengths, or noise."""
    if looks_like_image(shape):
        image = picture(rng, shape)
        return image if index % 2 == 0 else (image - 0.45) / 0.225
    if math.prod(shape) <= 4:  # a strength, a temperature, a scale
        return rng.uniform(0.05, 0.95, shape)
    return rng.standard_normal(shape)


def texts(rng: np.random.Generator, shape: tuple[int, ...], known: tuple[str, ...], index: int) -> Array:
    """Texts that the graph knows; from the second feed on also others, and where it knows none."""
    pool = known or _TEXTS[:1] if not index else (*known, *_TEXTS)
    return np.array([pool[k] for k in rng.integers(0, len(pool), math.prod(shape))], object).reshape(shape)


__all__ = [
    "DOMAINS",
    "SMALL",
    "Fill",
    "booleans",
    "floats",
    "integers",
    "looks_like_image",
    "picture",
    "texts",
]
