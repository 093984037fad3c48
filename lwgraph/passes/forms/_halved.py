"""An image at half the resolution, and a layer's patches of both; the geometry of the octave form.

Output positions 2 q and 2 q + 1 of an axis share position q of a convolution with the layer's kernel, strides and
dilations on the halved image. Its padding centres their common window on the middle of their two own, as nearly as
whole positions allow: begin' = (d + begin + (1 - s) / 2) / 2 with d the distance from the first tap to the middle one.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from lwgraph.arrays import Array, Floats, Index
from lwgraph.calibrate.patches import Patches
from lwgraph.layers.emit import known_padding
from lwgraph.layers.site import Site


def halved_pads(site: Site) -> tuple[int, ...]:
    """The padding (begin..., end...) of the layer's convolution on the halved image, for any image size.

    The end is the least that gives a position for every pair of output positions.
    """
    pads, rank = known_padding(site), len(site.kernel)
    assert pads is not None
    begin, end = [], []
    for axis in range(rank):
        stride, reach = site.strides[axis], (site.kernel[axis] - 1) * site.dilations[axis] + 1
        own = pads[axis] + pads[rank + axis]
        middle = (reach - 1) / 2 + pads[axis] + (1 - stride) / 2
        begin.append(max(0, math.floor(middle / 2 + 0.5)))
        least = max(1, reach - own)
        sizes = range(least, least + 4 * stride + 1)  # both counts grow by one with 2 s positions
        end.append(
            next(e for e in itertools.count() if all(_pairs(n, own, reach, stride, begin[axis] + e) for n in sizes))
        )
    return (*begin, *end)


def _pairs(size: int, own: int, reach: int, stride: int, padding: int) -> bool:
    """Whether the halved image of an axis of `size` gives enough positions."""
    positions = (size + own - reach) // stride + 1
    return (-(-size // 2) + padding - reach) // stride + 1 >= -(-positions // 2)


def halve(x: Array) -> Array:
    """The means of 2 x 2 positions of (n, c, *spatial), of fewer at the end of an odd axis."""
    for axis in range(2, x.ndim):
        size = x.shape[axis]
        even, odd = (np.take(x, range(start, size, 2), axis) for start in (0, 1))
        if size % 2:
            last = np.take(even, [-1], axis)
            odd = np.concatenate([odd, last], axis)
        x = (even + odd) / 2
    return x


@dataclass(frozen=True)
class HalvedPatches(Patches):
    """A layer's patches, and behind them those of the halved image: (channel, *tap) of the one, then of the other."""

    halved: tuple[int, ...] = ()  # the padding on the halved image

    @classmethod
    def at(cls, site: Site) -> HalvedPatches:
        """The geometry of a convolution without groups whose padding is known."""
        pads = known_padding(site)
        assert pads is not None
        return cls(site.kernel, site.strides, site.dilations, pads, halved=halved_pads(site))

    def width(self, channels: int) -> int:
        """2 D, the features of an input with so many channels."""
        return 2 * super().width(channels)

    def rows(self, x: Array, at: Index) -> Array:
        """The features (r, 1, 2 D) at the flat output positions `at`; as `Patches.rows`."""
        grid = self.grid(x.shape)
        image, *where = np.unravel_index(at, (x.shape[0], *grid))
        small = halve(x)
        index = np.ravel_multi_index((image, *(w // 2 for w in where)), (x.shape[0], *self.low_grid(x.shape)))
        return np.concatenate([super().rows(x, at), self._low.rows(small, index)], axis=2)

    def low_grid(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The spatial sizes of the convolution of the halved image, for an input of `shape` (n, c, *spatial)."""
        return self._low.grid((*shape[:2], *(-(-size // 2) for size in shape[2:])))

    @property
    def _low(self) -> Patches:
        return Patches(self.kernel, self.strides, self.dilations, self.halved)

    def white(self, channels: int) -> Floats:
        """(2 D, 2 D), the features' second moments for white inputs far from the edges, over both positions of a pair.

        A product over the axes: a tap meets the cell of two positions that it is averaged in, or does not.
        """
        own: Array
        mixed: Array
        low: Array
        own, mixed, low = (np.ones((1, 1)) for _ in range(3))
        for axis, kernel in enumerate(self.kernel):
            s, d = self.strides[axis], self.dilations[axis]
            tap, cell = np.arange(kernel)[:, None] * d - self.pads[axis], np.arange(kernel) * d - self.halved[axis]
            meets = sum(np.isin(s * phase + tap - 2 * cell, (0, 1)) for phase in (0, 1))
            own, low = np.kron(own, np.eye(kernel)), np.kron(low, np.eye(kernel) / 2)
            mixed = np.kron(mixed, np.asarray(meets) / 4)
        eye = np.eye(channels)
        rows = [[np.kron(eye, own), np.kron(eye, mixed)], [np.kron(eye, mixed.T), np.kron(eye, low)]]
        return np.block(rows)


__all__ = ["HalvedPatches", "halve", "halved_pads"]
