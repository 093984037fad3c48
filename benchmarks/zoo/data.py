"""The evaluation and calibration data: the frozen files in the folder `LWGRAPH_ZOO_DATA`, else generated ones.

Published figures come from the frozen data. The generated data are of the same kind and anyone can make them; scores on
them are comparable with each other, not with the published ones.
"""

from __future__ import annotations

import functools
import importlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.zoo import cache


@dataclass(frozen=True)
class Pictures:
    """Images by part ("calib", "eval", ...), and the other arrays (labels, boxes, texts)."""

    images: dict[str, list[Image.Image]]
    arrays: dict[str, npt.NDArray[Any]]


def frozen_folder() -> Path | None:
    """The folder of the frozen data, or None."""
    given = os.environ.get("LWGRAPH_ZOO_DATA")
    return Path(given).expanduser() if given else None


def _unpack(path: Path, mode: str) -> Pictures:
    """A frozen file: per part one blob of encoded images and the offset at which each ends."""
    with np.load(path, allow_pickle=False) as file:
        content = {key: file[key] for key in file.files}
    images = {}
    for part in [key.removesuffix("_blob") for key in content if key.endswith("_blob")]:
        pieces = np.split(content.pop(f"{part}_blob"), content.pop(f"{part}_ends")[:-1])
        images[part] = [Image.open(io.BytesIO(piece.tobytes())).convert(mode) for piece in pieces]
    return Pictures(images, content)


@functools.cache
def arrays(name: str, build: Callable[[Pictures], cache.Arrays], mode: str = "RGB") -> cache.Arrays:
    """The arrays that `build` makes of the data set `name`, kept in the cache.

    Args:
        name: pages, barcodes, strings, lines or photos.
        build: decodes, cuts and stacks; must be deterministic.
        mode: of the images, as Pillow calls it.
    """
    if folder := frozen_folder():
        path = folder / f"{name}.npz"
        return cache.arrays(f"{name}-frozen", f"2 {mode} {cache.stamp(path)}", lambda: build(_unpack(path, mode)))
    generator = importlib.import_module(f"benchmarks.zoo.generate.{name}")

    def generate() -> cache.Arrays:
        made: Pictures = generator.make()
        converted = {part: [image.convert(mode) for image in images] for part, images in made.images.items()}
        return build(Pictures(converted, made.arrays))

    return cache.arrays(f"{name}-generated", f"2 {mode} {generator.RECIPE}", generate)
