"""Smaller kernel: some taps of a spatial kernel, chosen where the others are missed least.

    Khat[o, c, d] = A[o, c, d] for d in the support, 0 elsewhere

The support is an evenly spaced grid of taps - a smaller kernel, in a corner, in the middle or dilated - or a cross of
one row and one column, which are two thin layers summed. For a support, A is least squares on its part of the moments:
A = (W R)[:, S] R[S, S]^-1. All placements of a grid are tried; where they are many, axis by axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Floats, Index
from lwgraph.errors import UsageError
from lwgraph.layers.emit import Emitter
from lwgraph.layers.form import Fitted, Form, cheaper
from lwgraph.layers.linalg import solve
from lwgraph.layers.moments import WIDE, Block, Moments
from lwgraph.layers.site import Site
from lwgraph.passes.forms._refusals import partly_known

Taps = tuple[int, ...]  # taps kept on one axis, evenly spaced
MANY = 27  # placements tried together; of more, each axis is placed on its own
CLOSE = 3  # placements of a wide layer that are fitted, those that promise most


@dataclass(frozen=True)
class Support:
    """The taps that are kept: the grid of `lines`, one per axis; or the row and the column through its one tap."""

    lines: tuple[Taps, ...]
    cross: bool = False

    def taps(self, kernel: tuple[int, ...]) -> Index:
        """Their numbers, increasing."""
        kept = np.zeros(kernel, bool)
        if self.cross:
            kept[self.lines[0]], kept[:, self.lines[1]] = True, True
        else:
            kept[np.ix_(*self.lines)] = True
        return np.flatnonzero(kept)

    def off_centre(self, kernel: tuple[int, ...]) -> float:
        """The distance from the middle of the grid to that of the kernel, in half taps; breaks ties."""
        return sum(abs(line[0] + line[-1] - (k - 1)) for line, k in zip(self.lines, kernel, strict=True))


@dataclass(frozen=True)
class SmallerKernel(Form):
    """A smaller or dilated spatial kernel, or a cross of a row and a column."""

    name: ClassVar[str] = "smaller-kernel"

    size: Annotated[str, "taps kept on each axis, such as 3x1, or 2 for all axes; auto: half of them, rounded up"] = (
        "auto"
    )
    cross: Annotated[bool, "whether to keep a whole row and a whole column instead"] = False

    def __post_init__(self) -> None:
        sizes = self.size.split("x")
        if self.size != "auto" and not all(part.isdecimal() and int(part) > 0 for part in sizes):
            raise UsageError(f"option 'size' of form 'smaller-kernel' is '{self.size}'; allowed: auto, 2, 3x1 ...")
        if self.cross and self.size != "auto":
            raise UsageError("options 'size' and 'cross' of form 'smaller-kernel' exclude each other")

    @classmethod
    def refusal(cls, site: Site) -> str:
        """Why this form cannot stand at `site`; "" when it can."""
        if site.kind != "conv":
            return f"the layer is a {site.node.op_type}; the form needs a Conv"
        if site.taps == 1:
            return "the layer has no spatial kernel"
        return partly_known(site)

    @classmethod
    def menu(cls, site: Site) -> Sequence[Form]:
        """1, 2, 3 and 5 taps on all axes, one of the axes alone, and the cross, where that saves work."""
        sizes = [tuple(min(n, k) for k in site.kernel) for n in (1, 2, 3, 5)]
        if len(site.kernel) == 2:
            sizes += [(1, site.kernel[1]), (site.kernel[0], 1)]
        found = dict.fromkeys(cls("x".join(map(str, size))) for size in sizes)
        crosses = [cls(cross=True)] if _crosses(site) else []
        return cheaper((*found, *crosses), site)

    @classmethod
    def full(cls, site: Site) -> Form:
        """All taps."""
        return cls("x".join(map(str, site.kernel)))

    def at(self, site: Site) -> SmallerKernel:
        """The taps that `site` keeps on each axis; without two spatial axes a cross is a whole kernel."""
        if self.cross and _crosses(site):
            return self
        return SmallerKernel("x".join(map(str, self.sizes(site))))

    def sizes(self, site: Site) -> tuple[int, ...]:
        """Taps kept on each axis; the last number of `size` stands for all further axes."""
        if self.cross:
            return site.kernel
        if self.size == "auto":
            return tuple((k + 1) // 2 for k in site.kernel)
        wanted = [int(part) for part in self.size.split("x")]
        wanted += wanted[-1:] * (len(site.kernel) - len(wanted))
        return tuple(min(n, k) for n, k in zip(wanted, site.kernel, strict=False))

    def fit(self, site: Site, moments: Moments) -> Fitted:
        """Least squares for each placement; the best."""
        form = self.at(site)
        choices = _crossings(site) if form.cross else _placements(site, form.sizes(site))
        if len(choices) > MANY and not form.cross:
            choices = [_axis_by_axis(site, form.sizes(site), moments)]
        if not moments.blocks[0].refine:
            choices = [max(choices, key=lambda s: _energy(moments.blocks, site, s))]
        best = _best(choices, site, moments)
        taps = best.taps(site.kernel)
        kernel = np.concatenate([_refit(block, site, taps)[1] for block in moments.blocks]).reshape(site.shape)
        return form.fitted(site, moments, form._arrays(site, kernel, best), kernel)

    def _arrays(self, site: Site, kernel: Floats, support: Support) -> dict[str, Floats]:
        lines = [np.asarray(line) for line in support.lines]
        arrays = {f"taps{axis}": line.astype(np.float64) for axis, line in enumerate(lines)}
        if not support.cross:
            every = [np.arange(n) for n in site.shape[:2]]
            return arrays | {"kernel": np.ascontiguousarray(kernel[np.ix_(*every, *lines)])}
        column = np.ascontiguousarray(kernel[:, :, :, lines[1]])
        row = np.ascontiguousarray(kernel[:, :, lines[0], :])
        row[:, :, :, lines[1]] = 0  # the crossing tap is the column's
        return arrays | {"column": column, "row": row}

    def blank(self, site: Site) -> Fitted:
        """Random weights, in the middle."""
        form = self.at(site)
        choices = _crossings(site) if form.cross else _placements(site, form.sizes(site))
        support = min(choices, key=lambda s: s.off_centre(site.kernel))
        random = np.random.default_rng(0).standard_normal(site.shape) / site.fan_in
        return form.unfitted(site, form._arrays(site, random, support))

    def emit(self, op: Emitter, x: ir.Value, fitted: Fitted) -> ir.Value:
        """One convolution, or two and their sum."""
        site, arrays, bias = fitted.site, fitted.arrays, fitted.bias
        lines = [arrays[f"taps{axis}"].astype(int) for axis in range(len(site.kernel))]
        first = [int(line[0]) for line in lines]
        if "kernel" in arrays:
            step = [int(line[1] - line[0]) if len(line) > 1 else 1 for line in lines]
            return op.part(x, arrays["kernel"], "kernel", first=first, step=step, bias=bias, group=site.group)
        column = op.part(x, arrays["column"], "column", first=(0, first[1]), group=site.group)
        row = op.part(x, arrays["row"], "row", first=(first[0], 0), bias=bias, group=site.group)
        return op.Add(column, row)

    def macs(self, site: Site) -> int:
        """Multiply-accumulates for one batch."""
        form = self.at(site)
        taps = sum(site.kernel) if form.cross else math.prod(form.sizes(site))
        return site.outputs * site.shape[1] * taps * site.positions()


def _crosses(site: Site) -> bool:
    return len(site.kernel) == 2 and min(site.kernel) > 1


def _crossings(site: Site) -> list[Support]:
    return [Support(((y,), (x,)), cross=True) for y, x in np.ndindex(*site.kernel)]


def _lines(kernel: int, size: int) -> list[Taps]:
    """Every `size` evenly spaced taps of an axis."""
    steps = range(1, (kernel - 1) // (size - 1) + 1) if size > 1 else (1,)
    return [tuple(range(a, a + (size - 1) * s + 1, s)) for s in steps for a in range(kernel - (size - 1) * s)]


def _placements(site: Site, sizes: Sequence[int]) -> list[Support]:
    lines = (_lines(k, n) for k, n in zip(site.kernel, sizes, strict=True))
    return [Support(grid) for grid in itertools.product(*lines)]


def _axis_by_axis(site: Site, sizes: Sequence[int], moments: Moments) -> Support:
    """The best placement along each axis, given those of earlier axes and with later axes whole."""
    found = Support(tuple(tuple(range(k)) for k in site.kernel))
    for axis, (kernel, size) in enumerate(zip(site.kernel, sizes, strict=True)):
        before, after = found.lines[:axis], found.lines[axis + 1 :]
        found = _best([Support((*before, line, *after)) for line in _lines(kernel, size)], site, moments)
    return found


def _best(choices: Sequence[Support], site: Site, moments: Moments) -> Support:
    if len(choices) > CLOSE and site.fan_in >= WIDE:
        promised = [sum(_separable_loss(b, s.taps(site.kernel)) for b in moments.blocks) for s in choices]
        choices = [choices[i] for i in np.argsort(promised, kind="stable")[:CLOSE]]
    if len(choices) == 1:
        return choices[0]
    losses = [sum(_refit(b, site, s.taps(site.kernel))[0] for b in moments.blocks) for s in choices]
    return min(zip(losses, choices, strict=True), key=lambda pair: (pair[0], pair[1].off_centre(site.kernel)))[1]


def _refit(block: Block, site: Site, taps: Index) -> tuple[float, Floats]:
    """Loss (up to a constant) and kernel (o, D) of least squares on the taps. O((D')^3) for D' columns kept."""
    columns = (np.arange(site.shape[1])[:, None] * site.taps + taps).reshape(-1)
    right = block.cross[:, columns]
    found = solve(block.moments[np.ix_(columns, columns)], right)
    kernel = np.zeros_like(block.matrix)
    kernel[:, columns] = found
    return -float(np.vdot(found, right)), kernel


def _separable_loss(block: Block, taps: Index) -> float:
    """About the loss of a support, up to a factor: what it is if the moments are a product of a channel and a tap part.

    The rest of the tap moments M given the kept taps S is M - M_:S M_SS^-1 M_S:, and each output's kernel W_o (c, t)
    loses tr(W_o rest W_o^T) in the metric of the channels. O(t^3) after O(o c^2 t) once.
    """
    key = "tap energy"
    if key not in block.cache:
        weight = block.weight.reshape(*block.weight.shape[:2], -1)
        mixed = np.einsum("cd,odt->oct", block.channel_moments, weight, optimize=True)
        block.cache[key] = np.einsum("ocs,oct->st", weight, mixed, optimize=True)
    whole = block.tap_moments
    rest = whole - whole[:, taps] @ np.linalg.solve(whole[np.ix_(taps, taps)], whole[taps])
    return float(np.vdot(block.cache[key], rest))


def _energy(blocks: Sequence[Block], site: Site, support: Support) -> float:
    """The contribution of the kept taps if inputs are uncorrelated."""
    energy = sum(np.square(block.matrix).sum(0) * np.diagonal(block.moments) for block in blocks)
    return float(np.asarray(energy).reshape(-1, site.taps)[:, support.taps(site.kernel)].sum())


__all__ = ["SmallerKernel", "Support"]
