"""Crops squares from images, for models from images to images: many small ones teach more than few large ones.

A dense output is judged at every pixel, and pixels of one image are alike: a batch of whole images costs the time of
many squares out of as many images, whose mean gradient has less noise. Borders are the same for both models.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from lwgraph.calibrate.signature import Signature
from lwgraph.errors import LwgraphError

if TYPE_CHECKING:
    import torch

Tensor: TypeAlias = "torch.Tensor"
Values = Mapping[str, Any]


def croppable(
    side: int, inputs: Signature, batched: Collection[str], feeds: Values, runs: Sequence[Callable[[Any], Values]]
) -> tuple[str, ...]:
    """The inputs to cut squares of `side` out of; none where that would change what the models are asked.

    All images (batched inputs of rank 4) must have one size on the sample, of at least twice `side`, and free height
    and width; and every value that the models compute must be an image (n, c, h, w), too, whose size is to the input's
    as it is on the whole sample.

    Args:
        side: of the squares; 0: none are wanted.
        inputs, batched: what the models take, and which of it has one row per sample.
        feeds: a sample.
        runs: the models, each with the values that will be compared.
    """
    names = tuple(n for n in batched if np.asarray(feeds[n]).ndim == 4)
    sizes = {np.asarray(feeds[n]).shape[2:] for n in names}
    fixed = any(isinstance(d, int) for n in names for d in (inputs[n].shape or [0])[2:])
    if not side or len(sizes) != 1 or fixed:
        return ()
    (size,) = sizes
    if min(size) < 2 * side:
        return ()
    small = {n: np.ascontiguousarray(a[:, :, :side, :side]) if n in names else a for n, a in feeds.items()}
    for run in runs:
        try:
            whole, part = run(feeds), run(small)
        except LwgraphError:  # a size that the model cannot take
            return ()
        for name, value in whole.items():
            if value.ndim != 4:
                return ()
            expected = [value.shape[axis] * side / size[axis - 2] for axis in (2, 3)]
            if max(abs(n - e) for n, e in zip(part[name].shape[2:], expected, strict=True)) >= 0.5:
                return ()
    return names


def cut(feeds: Mapping[str, Tensor], names: Collection[str], side: int, generator: Any) -> dict[str, Tensor]:
    """The feeds with a square at a random place of each row, the same in all of `names`, where it is smaller."""
    import torch  # imported here, so that the pass and its options can be listed without the extra

    found = dict(feeds)
    if not names:
        return found
    rows, _, height, width = feeds[next(iter(names))].shape
    if min(height, width) <= side:
        return found
    top, left = (torch.randint(0, n - side + 1, (rows,), generator=generator).tolist() for n in (height, width))
    for name in names:
        found[name] = torch.stack(
            [image[:, y : y + side, x : x + side] for image, y, x in zip(feeds[name], top, left, strict=True)]
        )
    return found


__all__ = ["croppable", "cut"]
