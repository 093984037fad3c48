"""Variations of unlabelled inputs: the teacher is asked again, so any input on which it is meaningful will do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

import torch
from torch.nn import functional as F  # noqa: N812

from lwgraph.calibrate.augmentations import AUGMENTATIONS, augmentations
from lwgraph.errors import UsageError

Tensor: TypeAlias = "torch.Tensor"
_SHIFT = 8  # the largest shift is the size over this


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
    """Those after which a sample's label is still true: mixup is left out of "auto", and refused where it was named.

    Raises:
        UsageError: mixup was asked for.
    """
    if "mixup" in which and spec != "auto":
        raise UsageError("augmentation 'mixup' mixes images of unlike labels; leave it or the objective 'labels' out")
    return tuple(kind for kind in which if kind != "mixup")


def augment(
    feeds: Mapping[str, Tensor], which: Collection[str], batched: Collection[str], generator: Any
) -> dict[str, Tensor]:
    """Vary the images (batched float inputs of rank 4) of a batch; all other inputs stay.

    flip: left and right, each image with probability 1/2. shift: up to an eighth of the size, edges repeated, the same
    for the whole batch. mixup (Zhang et al. 2018, arXiv 1710.09412): images mixed with others of the batch; the
    teacher's answer to the mixture is the target, so no labels are mixed.
    """
    varied = dict(feeds)
    for name, x in feeds.items():
        if name not in batched or x.ndim != 4 or not x.is_floating_point():
            continue
        rows = x.shape[0]
        if "flip" in which:
            turned = torch.rand(rows, generator=generator) < 0.5
            x = torch.where(turned[:, None, None, None], x.flip(3), x)
        if "shift" in which:
            x = _shifted(x, generator)
        if "mixup" in which and rows > 1:
            # Beta(1, 1) is uniform; half of the batches stay as they are, so that real inputs remain the majority.
            share = torch.rand(rows, 1, 1, 1, generator=generator) * (torch.rand((), generator=generator) < 0.5)
            x = torch.lerp(x, x[torch.randperm(rows, generator=generator)], share.to(x.dtype) / 2)
        varied[name] = x
    return varied


def _shifted(x: Tensor, generator: Any) -> Tensor:
    most = [max(1, n // _SHIFT) for n in x.shape[2:]]
    dy, dx = (int(torch.randint(-m, m + 1, (), generator=generator)) for m in most)
    pads = [max(dx, 0), max(-dx, 0), max(dy, 0), max(-dy, 0)]
    padded = F.pad(x, pads, mode="replicate")
    top, left = max(-dy, 0), max(-dx, 0)
    return padded[:, :, top : top + x.shape[2], left : left + x.shape[3]]
