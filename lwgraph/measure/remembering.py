"""A run that computes the outputs of the same inputs only once."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from lwgraph.executor import Feeds, Run

KEPT_BYTES = 64 << 20  # of outputs; those of further inputs are computed each time


def remembering(run: Run, limit: float = KEPT_BYTES) -> Run:
    """The run, which keeps what it gave.

    Args:
        run: of a model that does not change.
        limit: bytes of outputs that are kept.
    """
    known: dict[bytes, dict[str, Any]] = {}
    left = limit

    def remembered(feeds: Feeds) -> dict[str, Any]:
        nonlocal left
        key = _digest(feeds)
        if key in known:
            return dict(known[key])
        outputs = run(feeds)
        if all(isinstance(value, np.ndarray) for value in outputs.values()):  # else it is a sequence, or a map
            size = sum(value.nbytes for value in outputs.values())
            if size <= left:
                known[key], left = dict(outputs), left - size
        return outputs

    return remembered


def _digest(feeds: Feeds) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name, value in feeds.items():
        array = np.ascontiguousarray(value)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.digest()


__all__ = ["KEPT_BYTES", "remembering"]
