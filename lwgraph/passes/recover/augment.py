"""Varies unlabelled inputs: the teacher answers each, so any input that makes sense to it will do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

import torch
from torch.nn import functional as F  # noqa: N812

from lwgraph.calibrate.augmentations import AUGMENTATIONS, augmentations
from lwgraph.errors import UsageError

Tensor: TypeAlias = "torch.Tensor"
_SHIFT = 8  # the largest shift is the size over this
_SMALLEST = 0.5  # side of the part that zoom makes the whole, as a share
_CONTRAST = 1.5  # tone multiplies contrast by at most this, and divides by at most this
_BRIGHTNESS = 0.25  # tone adds at most so many standard deviations of the image


def kinds(spec: str, allowed: Collection[str]) -> tuple[str, ...]:
    """The augmentations of an option: "none", "auto" (what the data reader allows), or names joined by +.

    Raises:
        UsageError: an unknown name.
    """
    if spec == "none":
        return ()
    if spec == "auto":
        return tuple(kind for kind in AUGMENTATIONS if kind in allowed)
    return augmentations(spec, "option 'augment' of pass 'distill'")


def keep_labels(which: tuple[str, ...], spec: str) -> tuple[str, ...]:
    """The variations that keep a sample's label true: without mixup, which is refused where it was named.

    Raises:
        UsageError: mixup was asked for.
    """
    if "mixup" in which and spec != "auto":
        raise UsageError(
            "augmentation 'mixup' mixes images of different labels; leave out either it or the objective 'labels'"
        )
    return tuple(kind for kind in which if kind != "mixup")


def augment(
    feeds: Mapping[str, Tensor], which: Collection[str], batched: Collection[str], generator: Any
) -> dict[str, Tensor]:
    """Vary the images (batched float inputs of rank 4) of a batch; all other inputs stay.

    flip: left and right, each image with probability 1/2. turn: each image by 0, 90, 180 or 270 degrees; by 0 or 180
    where it is not square. zoom: a part of each image, of its shape and from half of its side to all of it, scaled to
    the whole. shift: up to an eighth of the size, edges repeated, the same for the whole batch. tone: contrast and
    brightness of each image, all of its channels alike. mixup (Zhang et al. 2018, arXiv 1710.09412): images mixed with
    others of the batch; the teacher's answer to the mixture is the target, so no labels are mixed.
    """
    varied = dict(feeds)
    for name, x in feeds.items():
        if name not in batched or x.ndim != 4 or not x.is_floating_point():
            continue
        rows = x.shape[0]
        if "flip" in which:
            turned = torch.rand(rows, generator=generator) < 0.5
            x = torch.where(turned[:, None, None, None], x.flip(3), x)
        if "turn" in which:
            x = _turned(x, generator)
        if "zoom" in which:
            x = _zoomed(x, generator)
        if "shift" in which:
            x = _shifted(x, generator)
        if "tone" in which:
            x = _toned(x, generator)
        if "mixup" in which and rows > 1:
            # Beta(1, 1) is uniform; half of the batches stay as they are, so that real inputs remain the majority.
            share = torch.rand(rows, 1, 1, 1, generator=generator) * (torch.rand((), generator=generator) < 0.5)
            x = torch.lerp(x, x[torch.randperm(rows, generator=generator)], share.to(x.dtype) / 2)
        varied[name] = x
    return varied


def _turned(x: Tensor, generator: Any) -> Tensor:
    step = 1 if x.shape[2] == x.shape[3] else 2
    quarters = torch.randint(0, 4 // step, (len(x),), generator=generator) * step
    return torch.stack([image.rot90(int(k), (1, 2)) for image, k in zip(x, quarters, strict=True)])


def _zoomed(x: Tensor, generator: Any) -> Tensor:
    """Bilinear; the middle of a pixel stays the middle of one, so that a part as large as the image is that image."""
    side = _SMALLEST + (1 - _SMALLEST) * torch.rand(len(x), generator=generator)
    y, z = ((2 * torch.rand(len(x), generator=generator) - 1) * (1 - side) for _ in range(2))
    none = torch.zeros(len(x))
    rows = [torch.stack(row, 1) for row in ((side, none, z), (none, side, y))]
    grid = F.affine_grid(torch.stack(rows, 1).to(x.dtype), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _toned(x: Tensor, generator: Any) -> Tensor:
    contrast, light = (2 * torch.rand(len(x), 1, 1, 1, generator=generator) - 1 for _ in range(2))
    mean, deviation = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (_CONTRAST**contrast).to(x.dtype) + (_BRIGHTNESS * light).to(x.dtype) * deviation


def _shifted(x: Tensor, generator: Any) -> Tensor:
    most = [max(1, n // _SHIFT) for n in x.shape[2:]]
    dy, dx = (int(torch.randint(-m, m + 1, (), generator=generator)) for m in most)
    pads = [max(dx, 0), max(-dx, 0), max(dy, 0), max(-dy, 0)]
    padded = F.pad(x, pads, mode="replicate")
    top, left = max(-dy, 0), max(-dx, 0)
    return padded[:, :, top : top + x.shape[2], left : left + x.shape[3]]
