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
import numpy.typing as npt

from lwgraph import ir
from lwgraph.errors import UsageError
from lwgraph.plan.emit import Emitter
from lwgraph.plan.fit import Block, Moments, balance, solve, top_basis
from lwgraph.plan.form import Fitted, Form, ceil16
from lwgraph.plan.site import Site

Array = npt.NDArray[np.float64]
Split = Literal["auto", "spatial", "vertical", "horizontal", "output", "input"]
SWEEPS, STEPS = 2, 3  # alternations, and conjugate-gradient steps in each; more gains 1 % of the error


@dataclass(frozen=True)
class LowRank(Form):
    """Two thin layers for one: k x 1 and 1 x k, k x k and 1 x 1, 1 x 1 and k x k, or a pair of matrices."""

    name: ClassVar[str] = "low-rank"

    rank: Annotated[int, "channels between the two stages (per group); 0: by ratio"] = 0
    ratio: Annotated[float, "rank as a share of min(inputs, outputs), rounded up to a multiple of 16"] = 0.5
    split: Annotated[Split, "which kernel axes the first stage has; auto: spatial, or output where that cannot be"] = (
        "auto"
    )

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise UsageError(f"option 'rank' of form 'low-rank' is {self.rank}; allowed: 0 or more")
        if not 0 < self.ratio <= 16:
            raise UsageError(f"option 'ratio' of form 'low-rank' is {self.ratio}; allowed: above 0, at most 16")

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
        found: dict[LowRank, None] = {}
        for split in ("spatial", "output", "input"):
            if split != "output" and not _spatial(site, split):
                continue
            for share in (1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1):
                form = cls(ceil16(share * small, _limit(site, split)), split=split)
                if form.macs(site) < 0.9 * site.macs():
                    found[form] = None
        return list(found)

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
        measured = moments.count is not None
        return Fitted(form, site, arrays, kernel, moments.shift(kernel), moments.error(kernel), measured)

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
        return Fitted(form, site, arrays, site.weight, np.zeros(site.outputs), 0.0, False)

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


def factor(block: Block, axes: Sequence[int], rank: int) -> tuple[Array, Array]:
    """The two stages (r, c, *k with 1 off `axes`) and (o, r, *k with 1 on `axes`) of least error on the moments.

    With T taps off `axes`, I = c * taps on `axes`, D = T I: O(rank D^2 (1 + SWEEPS (STEPS + 1)) + (rank T)^3) after
    one eigenproblem of min(I, o T), which all ranks share.
    """
    weight, moments = _arranged(block, axes)  # (o, T, I), (T, I, T, I)
    outputs, taps, inner = weight.shape
    cross = np.asarray(block.cache[("cross", tuple(axes))])
    _, first, second = start(block, axes, rank)
    if taps > 1 and rank < min(inner, outputs * taps):
        key = ("inverse", tuple(axes))
        if key not in block.cache:
            block.cache[key] = np.linalg.inv(_average(moments))
        for _ in range(SWEEPS):
            first = _first(moments, cross, first, second, block.cache[key])
            first /= np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-300)
            _, second = _second(moments, cross, first)
    on = [k if a in axes else 1 for a, k in enumerate(block.weight.shape[2:])]
    off = [1 if a in axes else k for a, k in enumerate(block.weight.shape[2:])]
    rows = first.reshape(rank, block.weight.shape[1], *on)
    columns = second.transpose(0, 2, 1).reshape(outputs, rank, *off)
    return balance(rows, columns)


def start(block: Block, axes: Sequence[int], rank: int) -> tuple[float, Array, Array]:
    """Loss (up to a constant), first and second stage of the better of two starts: whitened and plain SVD, refitted."""
    weight, moments = _arranged(block, axes)
    cross = np.asarray(block.cache[("cross", tuple(axes))])
    best: tuple[float, Array, Array] | None = None
    for basis in _bases(block, axes, weight, moments):
        loss, second = _second(moments, cross, basis[:rank])
        if best is None or loss < best[0]:
            best = loss, basis[:rank], second
    assert best is not None
    return best


def join(first: Array, second: Array) -> Array:
    """The dense kernel (o, c, *k) of the stages (r, c, *on) and (o, r, *off); either is 1 on each axis."""
    rank = first.ndim - 2
    a = first.reshape(first.shape[0], -1)
    b = second.reshape(second.shape[0], second.shape[1], -1)
    kernel = np.einsum("ort,ri->oit", b, a, optimize=True)
    kernel = kernel.reshape(second.shape[0], first.shape[1], *first.shape[2:], *second.shape[2:])
    # Axes are now (o, c, on..., off...); on axis a one of the pair is 1.
    order = [0, 1] + [axis for a in range(rank) for axis in (2 + a, 2 + rank + a)]
    shape = [max(first.shape[2 + a], second.shape[2 + a]) for a in range(rank)]
    return np.ascontiguousarray(kernel.transpose(order).reshape(second.shape[0], first.shape[1], *shape))


def first_axes(split: str, site: Site) -> list[int]:
    """The spatial axes on which the first stage has its taps, stride and padding."""
    everything = list(range(len(site.kernel)))
    return {"output": everything, "input": [], "vertical": everything[:1], "horizontal": everything[1:]}[split]


def _arranged(block: Block, axes: Sequence[int]) -> tuple[Array, Array]:
    key = ("arranged", tuple(axes))
    if key not in block.cache:
        shape = block.weight.shape[1:]
        rest = [1 + a for a in range(len(shape) - 1) if a not in axes]
        order = [*rest, 0, *[1 + a for a in axes]]
        taps = math.prod(shape[a] for a in rest)
        inner = math.prod(shape) // taps
        n = len(shape)
        weight = block.weight.transpose(0, *[1 + a for a in order]).reshape(-1, taps, inner)
        moments = block.moments.reshape(*shape, *shape).transpose(*order, *[n + a for a in order])
        moments = np.ascontiguousarray(moments).reshape(taps, inner, taps, inner)
        cross = block.cross.reshape(-1, *shape).transpose(0, *[1 + a for a in order]).reshape(-1, taps, inner)
        block.cache[key] = weight, moments
        block.cache[("cross", tuple(axes))] = np.ascontiguousarray(cross)
    found: tuple[Array, Array] = block.cache[key]
    return found


def _bases(block: Block, axes: Sequence[int], weight: Array, moments: Array) -> tuple[Array, ...]:
    """The whitened and the plain basis (I, I) of the first stage, best directions first."""
    key = ("bases", tuple(axes))
    if key not in block.cache:
        right = weight.transpose(2, 0, 1).reshape(weight.shape[2], -1)
        white = top_basis(_average(moments), right)
        block.cache[key] = (white, top_basis(None, right)) if block.ridge else (white,)
    found: tuple[Array, ...] = block.cache[key]
    return found


def _second(moments: Array, cross: Array, first: Array) -> tuple[float, Array]:
    """The best second stage (o, T, r) for a first stage (r, I), and the loss up to a constant."""
    taps, inner = moments.shape[:2]
    rank = len(first)
    product = first @ moments.reshape(taps, inner, taps * inner)  # (T, r, T I)
    normal = (product.reshape(taps * rank * taps, inner) @ first.T).reshape(taps * rank, taps * rank)
    right = (cross @ first.T).reshape(len(cross), -1)
    second = solve((normal + normal.T) / 2, right)
    return -float(np.vdot(second, right)), second.reshape(len(cross), taps, rank)


def _average(moments: Array) -> Array:
    """The (I, I) moments of the first stage's patches, over the T places at which it stands: (T, I, T, I) -> (I, I)."""
    return np.asarray(sum(moments[t, :, t] for t in range(len(moments)))) / len(moments)


def _first(moments: Array, cross: Array, first: Array, second: Array, average_inverse: Array) -> Array:
    """A better first stage (r, I) for a second stage (o, T, r): preconditioned conjugate gradients from `first`.

    The normal operator is V -> sum_ts (H_t^T H_s) V R_st, never formed as a matrix of (r I)^2.
    """
    taps, inner = moments.shape[:2]
    rank = len(first)
    flat = moments.reshape(taps * inner, taps, inner)
    inner_products = np.einsum("otr,osq->trsq", second, second, optimize=True)  # H_t^T H_s

    def operate(v: Array) -> Array:
        spread = np.tensordot(inner_products, v, axes=(3, 0))  # (T, r, S, I)
        return np.asarray(sum(spread[t].reshape(rank, -1) @ flat[:, t] for t in range(taps)))

    target = np.einsum("otr,oti->ri", second, cross, optimize=True)
    rows = np.einsum("trtq->rq", inner_products)
    rows_inverse = np.linalg.pinv(rows, rcond=1e-10, hermitian=True)

    def precondition(v: Array) -> Array:
        return np.asarray(rows_inverse @ v @ average_inverse)

    residual = target - operate(first)
    direction = z = precondition(residual)
    rho = float(np.vdot(residual, z))
    for _ in range(STEPS):
        if rho <= 0:
            break
        image = operate(direction)
        curvature = float(np.vdot(direction, image))
        if curvature <= 0:
            break
        step = rho / curvature
        first = first + step * direction
        residual = residual - step * image
        z = precondition(residual)
        rho, previous = float(np.vdot(residual, z)), rho
        direction = z + rho / previous * direction
    return first


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


__all__ = ["LowRank", "factor", "first_axes", "join"]
