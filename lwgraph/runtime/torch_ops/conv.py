"""Convolution, transposed convolution, and the geometry they share with pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812

from lwgraph.runtime.torch_ops.rounded import convolution as rounded_convolution
from lwgraph.runtime.torch_ops.table import Compute, Op, Tensor, operator

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True)
class Window:
    """A sliding window: kernel, strides, dilations and pads (begin, end) along each spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """The number of input positions that one window spans."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def symmetric(self) -> bool:
        """Whether torch can take the padding as its own argument."""
        return self.begin == self.end and min(self.begin, default=0) >= 0

    @property
    def flat_pads(self) -> list[int]:
        """The pads in the order of torch.nn.functional.pad: last axis first."""
        return [n for pair in reversed(list(zip(self.begin, self.end, strict=True))) for n in pair]

    def sizes(self, spatial: Sequence[int], ceil: bool = False) -> list[int]:
        """Output sizes. With `ceil` a last window may hang over, as long as it starts inside input or left padding."""
        found = []
        each = zip(spatial, self.reach, self.strides, self.begin, self.end, strict=True)
        for n, reach, stride, before, after in each:
            steps = (n + before + after - reach) / stride
            size = (math.ceil(steps) if ceil else math.floor(steps)) + 1
            if ceil and (size - 1) * stride >= n + before:
                size -= 1
            found.append(size)
        return found


def window(op: Op, kernel: Sequence[int], spatial: Sequence[int], ceil: bool = False) -> Window:
    """The window of a Conv or pool node over an input of these spatial sizes, auto_pad resolved."""
    rank = len(kernel)
    strides = op.ints("strides") or [1] * rank
    dilations = op.ints("dilations") or [1] * rank
    pads = op.ints("pads") or [0] * (2 * rank)
    auto = op.attr("auto_pad", "NOTSET")
    begin, end = pads[:rank], pads[rank:]
    if auto == "VALID":
        begin, end = [0] * rank, [0] * rank
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
            for n, s, k, d in zip(spatial, strides, kernel, dilations, strict=True)
        ]
        small = [t // 2 for t in total]
        large = [t - t // 2 for t in total]
        begin, end = (small, large) if auto == "SAME_UPPER" else (large, small)
    return Window(tuple(kernel), tuple(strides), tuple(dilations), tuple(begin), tuple(end))


@operator("Conv")
def _conv(op: Op) -> Compute:
    group = op.attr("group", 1)

    def compute(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        rank = w.ndim - 2
        if rank not in _CONV:
            raise op.refuse(f"{rank} spatial axes; 1 to 3 are supported")
        view = window(op, w.shape[2:], x.shape[2:])
        if not view.symmetric:
            x = F.pad(x, view.flat_pads)
        pads = view.begin if view.symmetric else [0] * rank
        rounded = op.mode.rounded_gradients and x.dtype == w.dtype == torch.float32
        conv = rounded_convolution if rounded and not torch.is_autocast_enabled("cpu") else _CONV[rank]
        y = conv(x, w, b, view.strides, pads, view.dilations, group)
        if rank == 2 and x.shape[1] == 1 and y.shape[1] > 1:
            # One channel does not tell the layouts apart, and torch then takes the slow one for all that follows.
            return y.contiguous(memory_format=torch.channels_last)
        return y

    return compute


@operator("ConvTranspose")
def _conv_transpose(op: Op) -> Compute:
    group = op.attr("group", 1)

    def compute(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        rank = w.ndim - 2
        if rank not in _TRANSPOSED:
            raise op.refuse(f"{rank} spatial axes; 1 to 3 are supported")
        strides = op.ints("strides") or [1] * rank
        dilations = op.ints("dilations") or [1] * rank
        extra = op.ints("output_padding") or [0] * rank
        reach = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilations, strict=True)]
        begin, end = _transposed_pads(op, list(x.shape[2:]), strides, reach, extra)
        full = _TRANSPOSED[rank](x, w, None, strides, 0, 0, group, dilations)
        # Cropping by the pads and growing at the end by output_padding; torch's own arguments cover fewer cases.
        each = [n for i in reversed(range(rank)) for n in (-begin[i], extra[i] - end[i])]
        y = F.pad(full, each) if any(each) else full
        return y if b is None else y + b.reshape([-1] + [1] * rank)

    return compute


def _transposed_pads(
    op: Op, spatial: list[int], strides: list[int], reach: list[int], extra: list[int]
) -> tuple[list[int], list[int]]:
    rank = len(spatial)
    pads, auto, wanted = op.ints("pads") or [0] * (2 * rank), op.attr("auto_pad", "NOTSET"), op.ints("output_shape")
    if wanted is None and auto not in ("SAME_UPPER", "SAME_LOWER"):
        return ([0] * rank, [0] * rank) if auto == "VALID" else (pads[:rank], pads[rank:])
    target = [n * s for n, s in zip(spatial, strides, strict=True)] if wanted is None else wanted[-rank:]
    total = [s * (n - 1) + e + r - t for n, s, e, r, t in zip(spatial, strides, extra, reach, target, strict=True)]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return (small, large) if auto == "SAME_UPPER" else (large, small)
