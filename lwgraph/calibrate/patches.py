"""Input patches of a layer at chosen output positions: the inputs from which one output position is computed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array, Index


class Layer(Protocol):
    """The description of a layer that statistics need; `lwgraph.layers.site.Site` has it."""

    @property
    def name(self) -> str:
        """Name of the layer, for messages."""

    @property
    def kind(self) -> str:
        """ "conv", "conv_transpose", "gemm" or "matmul"."""

    @property
    def input(self) -> ir.Value:
        """Data input of the layer."""

    @property
    def outputs(self) -> int:
        """Output channels of all groups."""

    @property
    def fan_in(self) -> int:
        """Length of one input patch."""

    @property
    def kernel(self) -> tuple[int, ...]:
        """Taps per spatial axis; empty for Gemm and MatMul."""

    @property
    def strides(self) -> tuple[int, ...]:
        """One per spatial axis."""

    @property
    def dilations(self) -> tuple[int, ...]:
        """One per spatial axis."""

    @property
    def pads(self) -> tuple[int, ...]:
        """(begin..., end...)."""

    @property
    def auto_pad(self) -> str:
        """auto_pad of the node, as in ONNX."""

    @property
    def group(self) -> int:
        """Groups of channels."""

    @property
    def output_padding(self) -> tuple[int, ...]:
        """output_padding of a ConvTranspose; may be empty."""


@dataclass(frozen=True)
class Patches:
    """The geometry of a layer's input patches; hashable, so that layers can share what is collected for it.

    A patch has D = (channels per group) * prod(kernel) entries in the order (channel, *tap), that of a canonical weight
    (o, c/g, *k). Taps that fall on padding are 0, as the layer sees them. An empty kernel stands for Gemm and MatMul:
    patches are the rows of the input. `transposed` stands for ConvTranspose, with its taps in ONNX order.
    """

    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()  # (begin..., end...)
    auto_pad: str = "NOTSET"
    group: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()

    @classmethod
    def of(cls, layer: Layer) -> Patches:
        """The geometry of a layer; what it has as `patches`, where it has its own."""
        own = getattr(layer, "patches", None)
        if isinstance(own, cls):
            return own
        if not layer.kernel:
            return cls()
        transposed = layer.kind == "conv_transpose"
        return cls(
            layer.kernel,
            layer.strides,
            layer.dilations,
            layer.pads,
            layer.auto_pad,
            layer.group,
            transposed,
            layer.output_padding if transposed else (),
        )

    def width(self, channels: int) -> int:
        """D, the length of a patch of an input with so many channels (columns)."""
        return channels // self.group * math.prod(self.kernel)

    def grid(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The spatial sizes of the output for an input of `shape` (n, c, *spatial)."""
        sizes = []
        for axis, (begin, end) in enumerate(self._padding(shape)):
            size, extent, stride = shape[2 + axis], self._extent(axis), self.strides[axis]
            if self.transposed:
                sizes.append(stride * (size - 1) + self._extra(axis) + extent - begin - end)
            else:
                sizes.append((size + begin + end - extent) // stride + 1)
        return tuple(max(0, s) for s in sizes)

    def count(self, shape: tuple[int, ...]) -> int:
        """The number of patches of an input of `shape`."""
        if not self.kernel:
            return math.prod(shape[:-1])
        return shape[0] * math.prod(self.grid(shape))

    def rows(self, x: Array, at: Index) -> Array:
        """The patches at the flat output positions `at`, counted over (n, *grid) in C order.

        Args:
            x: (n, c, *spatial), or (..., K) for an empty kernel.
            at: (r,) positions below `count(x.shape)`.

        Returns:
            (r, G, D) in float32 (float64 for a float64 input). O(r G D) time and memory; where the patches are many,
            `x` is copied once with its channels last.
        """
        dtype = np.float64 if x.dtype == np.float64 else np.float32
        if not self.kernel:
            rows: Array = x.reshape(-1, x.shape[-1])[at][:, None].astype(dtype, copy=False)
            return rows
        images, channels, spatial = x.shape[0], x.shape[1], x.shape[2:]
        image, *where = np.unravel_index(at, (images, *self.grid(x.shape)))
        index = np.zeros((len(at), 1), np.intp)
        inside = np.ones((len(at), 1), bool)
        for axis, (begin, _) in enumerate(self._padding(x.shape)):
            tap = np.arange(self.kernel[axis]) * self.dilations[axis]
            if self.transposed:
                source = where[axis][:, None] + begin - tap
                valid = source % self.strides[axis] == 0
                source = source // self.strides[axis]
            else:
                source = where[axis][:, None] * self.strides[axis] - begin + tap
                valid = np.ones(source.shape, bool)
            valid &= (source >= 0) & (source < spatial[axis])
            source = np.clip(source, 0, spatial[axis] - 1)
            index = (index[:, :, None] * spatial[axis] + source[:, None, :]).reshape(len(at), -1)
            inside = (inside[:, :, None] & valid[:, None, :]).reshape(len(at), -1)
        size = math.prod(spatial)
        if at.size * index.shape[1] * 4 < images * size:  # few patches: no copy of the whole input
            found = x.reshape(images, channels, -1)[image[:, None], :, index].astype(dtype, copy=False)  # (r, taps, c)
        else:  # channels last: each tap of a patch is contiguous in memory
            together = x.reshape(images, channels, size).swapaxes(1, 2).astype(dtype, order="C")
            found = together.reshape(images * size, channels).take(image[:, None] * size + index, axis=0)
        if not inside.all():
            found[~inside] = 0  # a factor of 0 would leave NaN where a value is infinite
        taps = found.shape[1]
        patches: Array = found.reshape(len(at), taps, self.group, channels // self.group).transpose(0, 2, 3, 1)
        return patches.reshape(len(at), self.group, -1)

    def _extent(self, axis: int) -> int:
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1

    def _extra(self, axis: int) -> int:
        return self.output_padding[axis] if self.output_padding else 0

    def _padding(self, shape: tuple[int, ...]) -> list[tuple[int, int]]:
        """(begin, end) of each spatial axis, `auto_pad` resolved for this input size."""
        rank = len(self.kernel)
        if self.auto_pad in ("NOTSET", ""):
            pads = self.pads or (0,) * (2 * rank)
            return list(zip(pads[:rank], pads[rank:], strict=True))
        if self.auto_pad == "VALID":
            return [(0, 0)] * rank
        found = []
        for axis in range(rank):
            size, stride = shape[2 + axis], self.strides[axis]
            if self.transposed:
                total = stride * (size - 1) + self._extra(axis) + self._extent(axis) - size * stride
            else:
                total = max(0, (math.ceil(size / stride) - 1) * stride + self._extent(axis) - size)
            small, large = total // 2, total - total // 2
            found.append((small, large) if self.auto_pad == "SAME_UPPER" else (large, small))
        return found


def positions(total: int, wanted: int, rng: np.random.Generator) -> Index:
    """`wanted` distinct positions below `total`, increasing: one at a random place of each of as many equal stretches;
    all of them when there are no more. O(wanted)."""
    if wanted >= total:
        return np.arange(total)
    # Stretches are at least one long, so consecutive picks can meet only by rounding; integer ends rule that out.
    ends = (np.arange(wanted + 1, dtype=np.int64) * total) // wanted
    picked: Index = ends[:-1] + (rng.random(wanted) * (ends[1:] - ends[:-1])).astype(np.intp)
    return picked
