"""Probes: inputs of a form that sees more than the patches of its layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array, Floats
from lwgraph.calibrate.patches import Patches
from lwgraph.layers.site import Site


@dataclass(frozen=True, eq=False)
class Probe:
    """A layer written as one dense weight on features that are a linear function of its input, such as pooled patches.

    Or of its output, which is the layer's weight on itself: for forms that make outputs from others.

    Statistics take it for a layer, and `Moments` of it price any other weight on the same features.

    Attributes:
        site: the layer.
        patches: how the features (r, 1, D) are taken from the layer's input, or its output.
        weight: (o, D), the layer on these features.
        white: (D, D), their second moments for white inputs.
        behind: whether they are of the output, bias included.
    """

    site: Site
    patches: Patches
    weight: Floats
    white: Floats
    behind: bool = False

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.site.name

    @property
    def kind(self) -> str:
        """The layer's kind."""
        return self.site.kind

    @property
    def input(self) -> ir.Value:
        """The value that the features are taken from."""
        return self.site.output if self.behind else self.site.input

    def values(self, x: Array) -> Array:
        """The value of the probe for an input x (n, c, *spatial) of the layer. O(positions * o * D) for the output."""
        if not self.behind:
            return x
        own = Patches.of(self.site)
        rows = own.rows(x, np.arange(own.count(x.shape))).astype(np.float64)  # (r, groups, D)
        weight = self.site.weight.reshape(self.site.group, -1, self.site.fan_in)
        y = np.einsum("rgd,god->rgo", rows, weight, optimize=True).reshape(len(rows), -1)
        y = y if self.site.bias is None else y + self.site.bias
        return np.moveaxis(y.reshape(x.shape[0], *own.grid(x.shape), -1), -1, 1)

    @property
    def outputs(self) -> int:
        """Output channels o."""
        return len(self.weight)

    @property
    def fan_in(self) -> int:
        """D, how many features there are."""
        return int(self.weight.shape[1])

    @property
    def kernel(self) -> tuple[int, ...]:
        """The layer's taps per spatial axis."""
        return self.patches.kernel

    @property
    def strides(self) -> tuple[int, ...]:
        """The layer's, one per spatial axis."""
        return self.patches.strides

    @property
    def dilations(self) -> tuple[int, ...]:
        """The layer's, one per spatial axis."""
        return self.patches.dilations

    @property
    def pads(self) -> tuple[int, ...]:
        """The layer's, (begin..., end...)."""
        return self.patches.pads

    @property
    def auto_pad(self) -> str:
        """The layer's."""
        return self.patches.auto_pad

    @property
    def group(self) -> int:
        """1: features are of no group."""
        return 1

    @property
    def output_padding(self) -> tuple[int, ...]:
        """output_padding of a ConvTranspose."""
        return self.patches.output_padding


__all__ = ["Probe"]
