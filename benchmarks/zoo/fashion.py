"""Fashion-MNIST from its four IDX files (MIT, Zalando SE): 60,000 training and 10,000 test images in ten classes."""

from __future__ import annotations

import functools
import gzip
import struct

import numpy as np
import numpy.typing as npt

from benchmarks.zoo import fetch


def _idx(name: str) -> npt.NDArray[np.uint8]:
    """The array of an IDX file of unsigned bytes: magic 0 0 8 ndim, big-endian sizes, then the values."""
    with gzip.open(fetch.fashion_mnist() / name) as file:
        content = file.read()
    zero, kind, dimensions = struct.unpack(">HBB", content[:4])
    if (zero, kind) != (0, 8):
        raise fetch.FetchError(f"'{name}' is not an IDX file of unsigned bytes")
    shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


@functools.cache
def images(part: str) -> npt.NDArray[np.uint8]:
    """The images of "train" or "t10k": (n, 28, 28), 0 is background."""
    return _idx(f"{part}-images-idx3-ubyte.gz")


@functools.cache
def labels(part: str) -> npt.NDArray[np.uint8]:
    """The classes 0..9 of "train" or "t10k": (n,)."""
    return _idx(f"{part}-labels-idx1-ubyte.gz")
