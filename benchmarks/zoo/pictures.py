"""Cuts and sizes of pictures, and many of one height side by side in one array."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Bytes = npt.NDArray[np.uint8]


def stack(images: Iterable[Image.Image]) -> Bytes:
    """Images of one size as (n, h, w) or (n, h, w, 3)."""
    return np.stack([np.asarray(image) for image in images])


def letterbox(image: Image.Image, size: int) -> Image.Image:
    """Scaled to fit a white square of `size` and centred on it."""
    scale = size / max(image.size)
    width, height = (max(1, round(n * scale)) for n in image.size)
    square = Image.new("RGB", (size, size), "white")
    square.paste(image.resize((width, height), Image.Resampling.BILINEAR), ((size - width) // 2, (size - height) // 2))
    return square


def centre(image: Image.Image, size: int) -> Image.Image:
    """The short side scaled to `size`, then the central square."""
    scale = size / min(image.size)
    image = image.resize([max(size, round(n * scale)) for n in image.size], Image.Resampling.BICUBIC)
    x, y = ((n - size) // 2 for n in image.size)
    return image.crop((x, y, x + size, y + size))


def random_square(image: Image.Image, rng: np.random.Generator, size: int, least: float) -> Image.Image:
    """A square of at least `least` of the short side, anywhere, scaled to `size`, mirrored half of the time."""
    side = int(min(image.size) * rng.uniform(least, 1))
    x, y = (int(rng.integers(0, n - side + 1)) for n in image.size)
    square = image.resize((size, size), Image.Resampling.BICUBIC, box=(x, y, x + side, y + side))
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else square


def strip(images: Sequence[Image.Image]) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """Images of one height side by side, and the column at which each ends."""
    return np.concatenate([np.asarray(image) for image in images], axis=1), np.cumsum([image.width for image in images])


def unstrip(columns: Bytes, ends: npt.NDArray[Any]) -> list[Bytes]:
    """What `strip` put together, apart again."""
    return np.split(columns, ends[:-1], axis=1)
