"""CP: 1 x 1, depthwise, 1 x 1 - a linear inverted residual.

    Khat[o, c, d] = sum_r A[o, r] K[r, d] B[r, c]                          (Lebedev et al. 2015; MobileNetV2's block)

A three-way canonical decomposition with the taps as one axis. It starts where the joint shift form ends (K one-hot),
so it is never worse than that, and fits A (least squares), K and B (conjugate gradients) in turn on the moments. Sums
of large terms that cancel (Phan et al. 2020) are not followed: a sweep that more than triples the terms' size is
undone, and the fit ends there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt

from lwgraph import ir
from lwgraph.arrays import Array, Floats
from lwgraph.layers.emit import Emitter
from lwgraph.layers.form import Fitted, Form, ceil16, cheaper
from lwgraph.layers.linalg import balance, conjugate_gradients, solve
from lwgraph.layers.moments import Block, Moments
from lwgraph.layers.site import Site
from lwgraph.passes.forms._refusals import dense_spatial
from lwgraph.passes.forms.shift import explained_jointly, joint

Single = npt.NDArray[np.float32]
SWEEPS, STEPS = 8, 3  # alternations at most, and conjugate-gradient steps for each of K and B
GROWTH = 3.0  # factor by which a sweep may enlarge the terms


@dataclass(frozen=True)
class Cp(Form):
    """A 1 x 1, a depthwise and a 1 x 1 convolution: an inverted residual without its activations."""

    name: ClassVar[str] = "cp"

    rank: Annotated[int, "channels of the depthwise stage; 0: by ratio"] = 0
    ratio: Annotated[float, "rank as a share of the input channels, rounded up to a multiple of 16"] = 1.0

    def __post_init__(self) -> None:
        self.check_option("rank", self.rank >= 0, "0 or more")
        self.check_option("ratio", self.ratio > 0, "above 0")

    @classmethod
    def refusal(cls, site: Site) -> str:
        """Why this form cannot stand at `site`; "" when it can."""
        return dense_spatial(site)

    @classmethod
    def menu(cls, site: Site) -> Sequence[Form]:
        """c / 2, c, 3 c / 2 and 2 c, where that saves work."""
        sizes = dict.fromkeys(cls(ratio=share).at(site) for share in (0.5, 1.0, 1.5, 2.0))
        return cheaper(sizes, site)

    @classmethod
    def full(cls, site: Site) -> Form:
        """The sum of the ranks that the taps' slices can have."""
        return cls(site.taps * min(site.inputs, site.outputs))

    def at(self, site: Site) -> Cp:
        """The rank that `site` gets."""
        limit = site.taps * min(site.inputs, site.outputs)
        return Cp(min(self.rank, limit) or ceil16(self.ratio * site.inputs, limit))

    def fit(self, site: Site, moments: Moments) -> Fitted:
        """Fit the three factors by alternating least squares, from the joint shift form."""
        form = self.at(site)
        (block,) = moments.blocks
        first, taps, last = decompose(block, form.rank)
        kernel = (last @ _features(first, taps)).reshape(site.shape)
        ones = (1,) * len(site.kernel)
        deep = taps.reshape(len(taps), 1, *site.kernel)
        first, deep = balance(first.reshape(*first.shape, *ones), deep.swapaxes(0, 1))
        deep, last = balance(deep.swapaxes(0, 1), last.reshape(*last.shape, *ones))
        return form.fitted(site, moments, {"expand": first, "depthwise": deep, "project": last}, kernel)

    def estimate(self, site: Site, moments: Moments) -> float:
        """The error of the joint shift form from which the fit starts; all ranks are computed at once."""
        (block,) = moments.blocks
        power = float(np.vdot(block.cross, block.matrix))
        return moments.relative(power - explained_jointly(block, self.at(site).rank))

    def blank(self, site: Site) -> Fitted:
        """Random weights."""
        form, random, ones = self.at(site), np.random.default_rng(0), (1,) * len(site.kernel)
        arrays = {
            "expand": random.standard_normal((form.rank, site.inputs, *ones)) / site.inputs,
            "depthwise": random.standard_normal((form.rank, 1, *site.kernel)) / site.taps,
            "project": random.standard_normal((site.outputs, form.rank, *ones)) / form.rank,
        }
        return form.unfitted(site, arrays)

    def emit(self, op: Emitter, x: ir.Value, fitted: Fitted) -> ir.Value:
        """Three convolutions; the depthwise one has the layer's stride and padding, the last one the bias."""
        arrays = fitted.arrays
        y = op.stage(x, arrays["expand"], "expand", axes=())
        y = op.stage(y, arrays["depthwise"], "depthwise", group=len(arrays["depthwise"]))
        return op.stage(y, arrays["project"], "project", bias=fitted.bias, axes=())

    def macs(self, site: Site) -> int:
        """Multiply-accumulates for one batch."""
        rank = self.at(site).rank
        return rank * (site.inputs * site.positions(()) + (site.taps + site.outputs) * site.positions())


def decompose(block: Block, rank: int) -> tuple[Floats, Floats, Floats]:
    """B (R, c), K (R, t) and A (o, R) of least error on the moments. O(R D^2 + R^2 D) per step and R^3 per sweep."""
    at, first, last = joint(block, rank)
    taps = np.zeros((rank, block.matrix.shape[1] // first.shape[1]))
    taps[np.arange(rank), at] = 1
    if rank >= taps.shape[1] * min(first.shape[1], len(block.weight)):
        return first, taps, last
    loss, last = _project(block, first, taps)
    size = _terms(first, taps, last)
    for _ in range(block.sweeps(SWEEPS)):
        better_taps, better_first = _factors(block, first, taps, last)
        found, better_last = _project(block, better_first, better_taps)
        grown = _terms(better_first, better_taps, better_last)
        if found >= loss or grown > GROWTH * size:
            break
        done = block.settled(loss, found)
        loss, size, first, taps, last = found, max(size, grown), better_first, better_taps, better_last
        if done:
            break
    return first, taps, last


def _features(first: Any, taps: Any) -> Any:
    return (first[:, :, None] * taps[:, None, :]).reshape(len(first), -1)


def _project(block: Block, first: Floats, taps: Floats) -> tuple[float, Floats]:
    """Loss (up to a constant) and the best A (o, R)."""
    features = _features(first, taps)
    right = block.cross @ features.T
    product = (features.astype(block.working.dtype, copy=False) @ block.working).astype(np.float64, copy=False)
    last = solve(product @ features.T, right)
    return -float(np.vdot(last, right)), last


def _factors(block: Block, first: Floats, taps: Floats, last: Floats) -> tuple[Floats, Floats]:
    """Better K (R, t), then a better B (R, c), for A (o, R); in float32, since the next A decides if they are."""
    rank, inputs, count = len(first), first.shape[1], taps.shape[1]
    moments, outer = block.single, last.astype(np.float32)
    wide = rank < len(outer)
    products = outer.T @ outer if wide else outer
    target = (outer.T @ block.cross.astype(np.float32)).reshape(rank, inputs, count)
    scale = np.maximum(np.square(outer).sum(0), 1e-30)[:, None]

    def image(features: Single) -> Single:
        spread = (products @ features) @ moments
        return np.asarray(spread if wide else outer.T @ spread).reshape(rank, inputs, count)

    def along(vectors: Single, images: Single) -> Single:
        return np.asarray(vectors[:, None] @ images)[:, 0]

    start: Array = taps.astype(np.float32)
    other: Array = first.astype(np.float32)
    tap_inverse = np.linalg.inv(block.tap_moments).astype(np.float32)
    start = conjugate_gradients(
        lambda v: along(other, image(_features(other, v))),
        along(other, target),
        start,
        STEPS,
        lambda v: v / scale @ tap_inverse,
    )
    start = start / np.maximum(np.linalg.norm(start, axis=1, keepdims=True), 1e-30)
    channel_inverse = np.linalg.inv(block.channel_moments).astype(np.float32)
    other = conjugate_gradients(
        lambda v: along(start, image(_features(v, start)).swapaxes(1, 2)),
        along(start, target.swapaxes(1, 2)),
        other,
        STEPS,
        lambda v: v / scale @ channel_inverse,
    )
    taps, first = start.astype(np.float64), other.astype(np.float64)
    return taps, first / np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-300)


def _terms(first: Floats, taps: Floats, last: Floats) -> float:
    """The summed squared size of the rank-one terms; large against the kernel's when they cancel."""
    sizes = [np.square(part).sum(axis) for part, axis in ((first, 1), (taps, 1), (last, 0))]
    return float((sizes[0] * sizes[1] * sizes[2]).sum())


__all__ = ["Cp", "decompose"]
