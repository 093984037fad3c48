"""Low rank: two thin layers, the first into `rank` channels, for one dense layer.

A k x k convolution is split by its kernel's axes (Jaderberg et al. 2014), for any subset S of them in the first stage:

    Khat[o, c, y, x] = sum_r H[o, r, x] V[r, c, y]        (vertical: k x 1, then 1 x k; horizontal the other way)
    Khat[o, c, d]    = sum_r H[o, r] V[r, c, d]           (output: k x k, then 1 x 1)
    Khat[o, c, d]    = sum_r H[o, r, d] V[r, c]           (input: 1 x 1, then k x k)

Gemm, MatMul and 1 x 1 convolutions have only the second. The fit starts from the truncated SVD, plain and whitened by
the input's moments, refits H by least squares, takes the better start, and alternates between V (conjugate gradients)
and H. "output" is reduced-rank regression, where the whitened start is the optimum already.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np

from lwgraph import ir
from lwgraph.layers.emit import Emitter
from lwgraph.layers.form import Fitted, Form, ceil16, cheaper
from lwgraph.layers.moments import Moments
from lwgraph.layers.site import Site
from lwgraph.passes.forms._split import explained, factor, join, start

Split = Literal["auto", "spatial", "vertical", "horizontal", "output", "input"]


@dataclass(frozen=True)
class LowRank(Form):
    """Two thin layers for one: k x 1 and 1 x k, k x k and 1 x 1, 1 x 1 and k x k, or a pair of matrices."""

    name: ClassVar[str] = "low-rank"
    searched: ClassVar[int] = 1

    rank: Annotated[int, "channels between the two stages (per group); 0: by ratio"] = 0
    ratio: Annotated[float, "rank as a share of min(inputs, outputs), rounded up to a multiple of 16"] = 0.5
    split: Annotated[Split, "kernel axes of the first stage; auto: spatial; for layers without kernel axes: output"] = (
        "auto"
    )

    def __post_init__(self) -> None:
        self.check_option("rank", self.rank >= 0, "0 or more")
        self.check_option("ratio", 0 < self.ratio <= 16, "above 0, at most 16")

    @classmethod
    def refusal(cls, site: Site) -> str:
        """Why this form cannot stand at `site`; "" when it can."""
        if min(site.outputs // site.group, site.shape[1]) < 2:
            return "a group has a single input or output channel, so there is no rank to lower"
        return ""

    @classmethod
    def menu(cls, site: Site) -> Sequence[Form]:
        """Ranks at 1/8 to 1 of the channels where that saves work, for each split."""
        small = min(site.outputs // site.group, site.shape[1])
        sizes = dict.fromkeys(
            cls(ceil16(share * small, _limit(site, split)), split=split)
            for split in ("spatial", "output", "input")
            if split == "output" or _spatial(site, split)
            for share in (1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)
        )
        return cheaper(sizes, site)

    @classmethod
    def full(cls, site: Site) -> Form:
        """Rank min(rows, columns) of the reshaped weight."""
        split = _resolve("auto", site)
        return cls(_limit(site, split), split=split)

    def at(self, site: Site) -> LowRank:
        """The rank and the split that `site` gets."""
        split = _resolve(self.split, site)
        small = min(site.outputs // site.group, site.shape[1])
        limit = _limit(site, split)
        return LowRank(min(self.rank, limit) or ceil16(self.ratio * small, limit), split=split)

    def fit(self, site: Site, moments: Moments) -> Fitted:
        """Least squares on the moments; of "spatial", the order whose start is better."""
        form = self.at(site)
        if form.split == "spatial":
            orders: tuple[Split, Split] = ("vertical", "horizontal")
            both = [replace(form, split=order).at(site) for order in orders]
            form = min(both, key=lambda f: sum(start(b, first_axes(f.split, site), f.rank)[0] for b in moments.blocks))
        axes = first_axes(form.split, site)
        pairs = [factor(block, axes, form.rank) for block in moments.blocks]
        kernel = np.concatenate([join(first, second) for first, second in pairs])
        arrays = {f"stage{i + 1}": np.concatenate([pair[i] for pair in pairs]) for i in (0, 1)}
        return form.fitted(site, moments, arrays, kernel)

    def estimate(self, site: Site, moments: Moments) -> float:
        """The error of the whitened start (of the better order for "spatial"); all ranks are computed at once."""
        form = self.at(site)
        splits: tuple[Split, ...] = ("vertical", "horizontal") if form.split == "spatial" else (form.split,)
        losses = []
        for split in splits:
            axes, rank = first_axes(split, site), replace(form, split=split).at(site).rank
            power = [float(np.vdot(block.cross, block.matrix)) for block in moments.blocks]
            gains = [float(np.square(explained(block, axes, rank)).sum()) for block in moments.blocks]
            losses.append(sum(power) - sum(gains))
        return moments.relative(min(losses))

    def blank(self, site: Site) -> Fitted:
        """Random weights."""
        form = self.at(site)
        form = replace(form, split="vertical") if form.split == "spatial" else form
        axes, random = first_axes(form.split, site), np.random.default_rng(0)
        on = [k if a in axes else 1 for a, k in enumerate(site.kernel)]
        off = [1 if a in axes else k for a, k in enumerate(site.kernel)]
        rank = form.rank * site.group
        arrays = {
            "stage1": random.standard_normal((rank, site.shape[1], *on)) / site.fan_in,
            "stage2": random.standard_normal((site.outputs, form.rank, *off)),
        }
        return form.unfitted(site, arrays)

    def emit(self, op: Emitter, x: ir.Value, fitted: Fitted) -> ir.Value:
        """Two layers of the site's kind; the bias is on the second."""
        axes = first_axes(self.split, fitted.site)
        rest = [a for a in range(len(fitted.site.kernel)) if a not in axes]
        group = fitted.site.group
        y = op.stage(x, fitted.arrays["stage1"], "stage1", axes=axes, group=group)
        return op.stage(y, fitted.arrays["stage2"], "stage2", bias=fitted.bias, axes=rest, group=group)

    def macs(self, site: Site) -> int:
        """Multiply-accumulates for one batch; of "spatial", those of the vertical order."""
        form = self.at(site)
        axes = first_axes("vertical" if form.split == "spatial" else form.split, site)
        rest = [a for a in range(len(site.kernel)) if a not in axes]
        first = site.inputs * math.prod(site.kernel[a] for a in axes)
        second = site.outputs * math.prod(site.kernel[a] for a in rest)
        return form.rank * (first * site.stage_positions((), axes) + second * site.stage_positions(axes, rest))


def first_axes(split: str, site: Site) -> list[int]:
    """The spatial axes on which the first stage has its taps, stride and padding."""
    everything = list(range(len(site.kernel)))
    return {"output": everything, "input": [], "vertical": everything[:1], "horizontal": everything[1:]}[split]


def _spatial(site: Site, split: str) -> bool:
    if split == "input":
        return site.taps > 1
    return len(site.kernel) == 2 and min(site.kernel) > 1


def _resolve(split: str, site: Site) -> Split:
    if split == "auto":
        return "spatial" if _spatial(site, "spatial") else "output"
    if split in ("spatial", "vertical", "horizontal") and not _spatial(site, split):
        return "output"
    if split == "input" and site.taps == 1:
        return "output"
    return split  # type: ignore[return-value]  # one of the literals by construction


def _limit(site: Site, split: str) -> int:
    """The rank at which nothing is lost."""
    outputs, inputs = site.outputs // site.group, site.shape[1]
    if split == "spatial":
        return max(_limit(site, "vertical"), _limit(site, "horizontal"))
    on = math.prod(site.kernel[a] for a in first_axes(split, site))
    return min(inputs * on, outputs * (site.taps // on))


__all__ = ["LowRank", "first_axes"]
