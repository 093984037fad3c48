"""How many bytes of a model go over a line: after compression, as servers and package registries do it."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from typing import Any

from lwgraph import ir

LARGEST = 1 << 28  # bytes of a model that is compressed for the figure alone
RATE = 4e6  # bytes a second that all of the ways together compress, about


def download_bytes(models: dict[str, ir.Model]) -> dict[str, dict[str, int]]:
    """Bytes of each model's file by how it is compressed: "zlib" and, where they are installed, "zstd" and "brotli".

    All at level 9: of zlib the highest, of the others nearly as small as that and many times as fast. Models of more
    than LARGEST bytes are left out.
    """
    codecs = _codecs()
    found = {}
    for name, model in models.items():
        if ir.size(model) <= LARGEST:
            file = ir.to_proto(model).SerializeToString()
            found[name] = {codec: pack(file) for codec, pack in codecs.items()}
    return found


def _codecs() -> dict[str, Callable[[bytes], int]]:
    """What tells the compressed bytes, by name."""
    found: dict[str, Callable[[bytes], int]] = {"zlib": lambda data: len(zlib.compress(data, 9))}
    zstd, brotli = _installed("zstandard"), _installed("brotli")
    if zstd is not None:
        found["zstd"] = lambda data: len(zstd.ZstdCompressor(level=9).compress(data))
    if brotli is not None:
        found["brotli"] = lambda data: len(brotli.compress(data, quality=9))
    return found


def _installed(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


__all__ = ["LARGEST", "RATE", "download_bytes"]
