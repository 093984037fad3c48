"""Octave: some input channels are seen, and some output channels computed, at half the resolution.

    y_H = W_HH * x_H + up(W_HL * pool(x_L)),    y_L = up(W_L * pool(x))          (Chen et al. 2019; linear)

pool is the mean of 2 x 2 positions, up repeats each position 2 x 2. With both resolutions as features f = [patch of x,
patch of pool(x)] this is one dense weight, zero where a channel is not seen, and least squares on the moments of f.
The low inputs L are those whose patches are best predicted by their own pooled ones, weighted by what the layer makes
of them; low outputs are those that lose least when they are predicted from the pooled input alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array, Floats, Index, Weights
from lwgraph.errors import UsageError
from lwgraph.layers.emit import Emitter
from lwgraph.layers.form import Fitted, Form, ceil16
from lwgraph.layers.linalg import solve
from lwgraph.layers.moments import Block, Moments
from lwgraph.layers.probe import Probe
from lwgraph.layers.site import Site
from lwgraph.passes.forms._halved import HalvedPatches
from lwgraph.passes.forms._refusals import dense_conv, partly_known
from lwgraph.passes.forms._reorder import reorder

ENLARGES = 11  # the opset from which Resize says how places correspond
OPTIONAL_ROI = 13  # that from which it needs no region, which only another way to enlarge looks at
MOST = 10_000  # features of a layer: moments of so many are 800 MB


@dataclass(frozen=True)
class Octave(Form):
    """A convolution that reads and computes some of its channels at half the resolution."""

    name: ClassVar[str] = "octave"

    inputs: Annotated[float, "share of the inputs seen at half resolution only; the others: a multiple of 16"] = 0.5
    outputs: Annotated[float, "share of the outputs computed at half resolution; the others: a multiple of 16"] = 0.0

    def __post_init__(self) -> None:
        for side, share in (("inputs", self.inputs), ("outputs", self.outputs)):
            if not 0 <= share < 1:
                raise UsageError(f"option '{side}' of form 'octave' is {share}; allowed: from 0 to below 1")

    @classmethod
    def refusal(cls, site: Site) -> str:
        """Why this form cannot stand at `site`; "" when it can."""
        if refused := dense_conv(site):
            return refused
        if ir.opset(site.node) < ENLARGES:
            return f"the model has opset {ir.opset(site.node)}; the form needs the Resize of opset {ENLARGES}"
        if 2 * site.fan_in > MOST:
            return f"it would need moments of {2 * site.fan_in} features; allowed: {MOST}"
        if site.output_shape is not None and any(size == 1 for size in site.output_shape[2:]):
            return "the output is a single position on an axis"
        return partly_known(site)

    @classmethod
    def menu(cls, site: Site) -> Sequence[Form]:
        """Nothing: moments of pooled inputs double the time of calibration, and low-rank does better everywhere.

        It is there for those who ask for it by name.
        """
        return []

    @classmethod
    def full(cls, site: Site) -> Form:
        """Everything at full resolution."""
        return cls(0.0)

    def counts(self, site: Site) -> tuple[int, int]:
        """The numbers of low inputs and low outputs."""
        high_in = ceil16((1 - self.inputs) * site.inputs, site.inputs)
        return site.inputs - high_in, site.outputs - ceil16((1 - self.outputs) * site.outputs, site.outputs)

    def seen(self, site: Site) -> Probe:
        """The layer's patches of the image and of the halved image."""
        patches = HalvedPatches.at(site)
        weight = site.weight.reshape(site.outputs, -1)
        return Probe(site, patches, np.hstack([weight, np.zeros_like(weight)]), patches.white(site.inputs))

    def fit(self, site: Site, moments: Moments) -> Fitted:
        """The choice of low channels, then least squares for the outputs of each resolution."""
        both = moments.seen(self.seen)
        (block,) = both.blocks
        low_in, low_out = self.counts(site)
        inputs, outputs, kernel = halve_channels(block, site.inputs, low_in, low_out)
        shape = (site.outputs, 2 * site.inputs, *site.kernel)
        kernel = kernel.reshape(site.outputs, 2, site.inputs, -1).reshape(shape)
        return self.fitted(site, both, self._arrays(site, kernel, inputs, outputs), kernel)

    def _arrays(self, site: Site, kernel: Floats, inputs: Index, outputs: Index) -> dict[str, Floats]:
        high_in, high_out = (_others(low, size) for low, size in ((inputs, site.inputs), (outputs, site.outputs)))
        pooled = kernel[:, site.inputs :]
        arrays = {
            "high": kernel[np.ix_(high_out, high_in)],
            "inputs": inputs.astype(np.float64),
            "outputs": outputs.astype(np.float64),
        }
        if len(inputs):
            arrays["mixed"] = pooled[np.ix_(high_out, inputs)]
        if len(outputs):
            arrays["low"] = pooled[outputs]
        return arrays

    def blank(self, site: Site) -> Fitted:
        """Random weights, random low channels."""
        random = np.random.default_rng(0)
        low_in, low_out = self.counts(site)
        inputs, outputs = (
            np.sort(random.permutation(size)[:low]) for size, low in ((site.inputs, low_in), (site.outputs, low_out))
        )
        shape = (site.outputs, 2 * site.inputs, *site.kernel)
        return self.unfitted(site, self._arrays(site, random.standard_normal(shape) / site.fan_in, inputs, outputs))

    def emit(self, op: Emitter, x: ir.Value, fitted: Fitted) -> ir.Value:
        """Emit up to three convolutions, with a pool before and an enlargement after the low ones."""
        site, arrays, bias = fitted.site, fitted.arrays, fitted.bias
        inputs, outputs = (arrays[side].astype(np.int64) for side in ("inputs", "outputs"))
        high_in, high_out = (_others(low, size) for low, size in ((inputs, site.inputs), (outputs, site.outputs)))
        own, other = (None if bias is None else bias[which] for which in (high_out, outputs))
        y = op.part(
            _pick(op, x, high_in, site.inputs, "high_inputs"),
            arrays["high"],
            "high",
            first=(0,) * len(site.kernel),
            bias=own,
        )
        if not len(inputs) and not len(outputs):
            return y
        if len(outputs):
            small = halved(op, x)
            picked = _pick(op, small, inputs, site.inputs, "low_inputs")
        else:
            picked = halved(op, _pick(op, x, inputs, site.inputs, "low_inputs"))
        parts, like, cut = [y], y, may_be_larger(site, x)
        if len(inputs):
            parts[0] = op.Add(y, doubled(op, low_conv(op, picked, arrays["mixed"], "mixed"), like, "mixed", cut))
        if len(outputs):
            parts.append(doubled(op, low_conv(op, small, arrays["low"], "low", other), like, "low", cut))
        y = parts[0] if len(parts) == 1 else op.Concat(*parts, axis=1)
        return reorder(op, y, np.argsort(np.concatenate([high_out, outputs])), "order")

    def dense(self, op: Emitter, x: ir.Value, fitted: Fitted) -> ir.Value:
        """The weight on both resolutions, all channels in each."""
        site = fitted.site
        y = op.stage(x, fitted.kernel[:, : site.inputs], "dense", bias=fitted.bias)
        small = low_conv(op, halved(op, x), fitted.kernel[:, site.inputs :], "dense_low")
        return op.Add(y, doubled(op, small, y, "dense_low", cut=True))

    def macs(self, site: Site) -> int:
        """Multiply-accumulates for one batch; a mean counts as one for each position that it reads."""
        low_in, low_out = self.counts(site)
        high = (site.inputs - low_in) * (site.outputs - low_out) * site.taps * site.positions()
        low = low_in * (site.outputs - low_out) + site.inputs * low_out
        pooled = site.inputs if low_out else low_in
        few = math.ceil(site.positions() / int(2 ** len(site.kernel)))
        return high + low * site.taps * few + pooled * site.positions(())


def _others(some: Array, size: int) -> Index:
    return np.setdiff1d(np.arange(size), some)


def _pick(op: Emitter, x: ir.Value, which: Array, size: int, stem: str) -> ir.Value:
    """Some of the channels; all of them are the value itself."""
    return x if len(which) == size else op.Gather(x, op.const(which.astype(np.int64), stem, shared=True), axis=1)


def halved(op: Emitter, x: ir.Value) -> ir.Value:
    """Means of two positions per spatial axis; of one at the end of an odd axis, where there is only one."""
    rank = len(op.site.kernel)
    return op.AveragePool(
        x, kernel_shape=(2,) * rank, strides=(2,) * rank, pads=(0,) * rank + (1,) * rank, count_include_pad=0
    )


def low_conv(op: Emitter, x: ir.Value, weight: Weights, stem: str, bias: Floats | None = None) -> ir.Value:
    """The layer's convolution on the halved image."""
    site, pads = op.site, HalvedPatches.at(op.site).halved
    operands = [x, op.const(weight, stem, shared=True)]
    if bias is not None:
        operands.append(op.const(bias, f"{stem}_bias"))
    return op.Conv(
        *operands,
        kernel_shape=site.kernel,
        strides=site.strides,
        dilations=site.dilations,
        pads=pads,
    )


def doubled(op: Emitter, x: ir.Value, like: ir.Value, stem: str, cut: bool) -> ir.Value:
    """Each position twice per spatial axis; where it may be too large, cut to the image size of `like`."""
    rank = len(op.site.kernel)
    scales = op.const(np.asarray([1.0, 1.0, *[2.0] * rank]), f"{stem}_scales")
    roi = op.const(np.zeros(0), f"{stem}_roi") if ir.opset(op.site.node) < OPTIONAL_ROI else None
    y = op.Resize(x, roi, scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    if not cut:
        return y
    first, last = (op.const(np.asarray([n]), f"{stem}_{name}") for name, n in (("first", 2), ("last", 2 + rank)))
    begin, axes = op.const(np.zeros(rank, np.int64), f"{stem}_begin"), op.const(np.arange(2, 2 + rank), f"{stem}_axes")
    return op.Slice(y, begin, op.Slice(op.Shape(like), first, last), axes)


def may_be_larger(site: Site, x: ir.Value) -> bool:
    """Whether twice the low positions may be more than the layer has, for an input x of sizes as far as known."""
    sizes = [] if x.shape is None else list(x.shape)[2:]
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) != len(site.kernel):
        return True
    patches = HalvedPatches.at(site)
    return patches.grid((1, 1, *known)) != tuple(2 * n for n in patches.low_grid((1, 1, *known)))


def halve_channels(block: Block, channels: int, low_in: int, low_out: int) -> tuple[Index, Index, Floats]:
    """The low inputs, the low outputs, and the weight (o, 2 D) of least error for them.

    Args:
        block: the layer on the features of both resolutions.
        channels: the layer's inputs c.
        low_in, low_out: how many are low.

    O(D^3 + o D^2), D being c * taps.
    """
    width = block.matrix.shape[1] // 2
    taps = width // channels
    inputs = np.sort(np.argsort(_unseen(block, channels), kind="stable")[:low_in])
    every = np.arange(2 * channels)
    seen = np.concatenate([_others(inputs, channels), channels + inputs])
    high_loss, high = _fit(block, seen, taps)
    kernel = high
    outputs = np.zeros(0, np.intp)
    if low_out:
        low_loss, low = _fit(block, every[channels:], taps)
        outputs = np.sort(np.argsort(low_loss - high_loss, kind="stable")[:low_out])
        kernel[outputs] = low[outputs]
    return inputs, outputs, kernel


def _unseen(block: Block, channels: int) -> Floats:
    """The power of the outputs that each input's pooled patch leaves unexplained of its patch, (c,)."""
    taps = block.matrix.shape[1] // (2 * channels)
    lost = np.zeros(channels)
    for c in range(channels):
        at, low = np.arange(c * taps, (c + 1) * taps), np.arange((channels + c) * taps, (channels + c + 1) * taps)
        mixed = block.moments[np.ix_(at, low)]
        rest = block.moments[np.ix_(at, at)] - mixed @ solve(block.moments[np.ix_(low, low)], mixed).T
        weight = block.matrix[:, at]
        lost[c] = float(np.vdot(weight @ rest, weight))
    return lost


def _fit(block: Block, seen: Index, taps: int) -> tuple[Floats, Floats]:
    """The loss of each output (up to a constant) and the weight, least squares on the features of some channels."""
    columns = (seen[:, None] * taps + np.arange(taps)).reshape(-1)
    right = block.cross[:, columns]
    found = solve(block.moments[np.ix_(columns, columns)], right)
    kernel = np.zeros_like(block.matrix)
    kernel[:, columns] = found
    return -np.einsum("oi,oi->o", found, right), kernel


__all__ = ["Octave", "halve_channels"]
