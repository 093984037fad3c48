"""What a form looks at, where that is more than the patches of its layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lwgraph import ir
from lwgraph.calibrate.patches import Patches
from lwgraph.plan.site import Site

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Probe:
    """A layer written as one dense weight on features that are a linear function of its input, such as pooled patches.

    Statistics take it for a layer, and `Moments` of it price any other weight on the same features.

    Attributes:
        site: the layer.
        patches: how the features (r, 1, D) are taken from the layer's input.
        weight: (o, D), the layer on these features.
        white: (D, D), their second moments for white inputs.
    """

    site: Site
    patches: Patches
    weight: Array
    white: Array

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
        """The layer's data input."""
        return self.site.input

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
        """Of a ConvTranspose."""
        return self.patches.output_padding


__all__ = ["Probe"]
