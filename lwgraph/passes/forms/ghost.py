"""Ghost: a dense layer for some of the outputs, and a cheap one that makes the others from them.

    y_S = P * x,    y_rest = T y_S             (pointwise; GhostNet, Han et al. 2020, without its activations)
    y_S = W_S * x,  y_j = k_j * y_s(j) + b_j   (depthwise)

Pointwise: the dense kernel is Khat = [P; T P], of rank |S|. Any kernel A V of that rank can be written so, with
P = A_S V and T = A_rest A_S^-1, for any S whose rows of A are independent. So the fit is reduced-rank regression, which
is optimal, and S only decides how well the cheap layer is conditioned. Outputs pivoted by their correlations are best,
but need a Gather behind the Concat; the first or the last outputs do in float32 mostly, and come in order.

Depthwise: each cheap output is made from the neighbours in one primary output, which is the layer's own; see
`_neighbours`. It needs moments of the layer's output, and errs much more than the other kind.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Floats, Index
from lwgraph.layers.emit import Emitter
from lwgraph.layers.form import Fitted, Form, ceil16, cheaper
from lwgraph.layers.moments import Block, Moments
from lwgraph.layers.probe import Probe
from lwgraph.layers.site import Site
from lwgraph.passes.forms._neighbours import SIDE, choose, output_probe
from lwgraph.passes.forms._reorder import reorder
from lwgraph.passes.forms._split import explained, factor

Order = Literal["auto", "pivoted"]
Cheap = Literal["pointwise", "depthwise"]
MOST = 10_000  # output patches of so many numbers have moments of 800 MB
AMPLIFIED = {2: 4.0, 4: 100.0, 8: 100.0}  # limits by bytes per number, see `turn`; 100 roundings of float32 are 6e-6


@dataclass(frozen=True)
class Ghost(Form):
    """A smaller dense layer, and a 1 x 1 layer that makes the other outputs from its results."""

    name: ClassVar[str] = "ghost"

    primary: Annotated[int, "outputs of the dense layer; 0: by ratio"] = 0
    ratio: Annotated[float, "primary outputs as a share of all, rounded up to a multiple of 16"] = 0.5
    cheap: Annotated[Cheap, "layer that makes the others; depthwise: 3 x 3, where the layer is a Conv"] = "pointwise"
    order: Annotated[Order, "pivoted: best for int8, needs a Gather; auto: without one where rounding allows"] = "auto"

    def __post_init__(self) -> None:
        self.check_option("primary", self.primary >= 0, "0 or more")
        self.check_option("ratio", 0 < self.ratio <= 1, "above 0, at most 1")

    @classmethod
    def refusal(cls, site: Site) -> str:
        """Why this form cannot stand at `site`; "" when it can."""
        if site.group > 1:
            return f"the layer has {site.group} groups; the form needs a dense one"
        if min(site.outputs, site.inputs) < 2:
            return "the layer has a single input or output channel"
        return ""

    @classmethod
    def menu(cls, site: Site) -> Sequence[Form]:
        """1/4, 3/8, 1/2 and 3/4 of the outputs, where that saves work."""
        sizes = dict.fromkeys(cls(ratio=share).at(site) for share in (1 / 4, 3 / 8, 1 / 2, 3 / 4))
        return cheaper(sizes, site)

    @classmethod
    def full(cls, site: Site) -> Form:
        """All outputs, or as many as the weight has columns."""
        return cls(min(site.outputs, site.fan_in))

    def at(self, site: Site) -> Ghost:
        """The number of primary outputs that `site` gets."""
        cheap = self.cheap if _takes_neighbours(site) else "pointwise"
        limit = site.outputs if cheap == "depthwise" else min(site.outputs, site.fan_in)
        primary = min(self.primary, limit) or ceil16(self.ratio * site.outputs, limit)
        return Ghost(primary, cheap=cheap, order=self.order)

    def seen(self, site: Site) -> Site | Probe:
        """The layer's patches; for depthwise ones those of its output."""
        return output_probe(site) if self.at(site).cheap == "depthwise" else site

    def dense(self, op: Emitter, x: ir.Value, fitted: Fitted) -> ir.Value:
        """One layer; for depthwise ones the layer as it is, and a dense one behind it."""
        site, rank = fitted.site, len(fitted.site.kernel)
        if self.at(site).cheap == "pointwise":
            return super().dense(op, x, fitted)
        y = op.stage(x, site.weight, "dense", bias=site.bias)
        kernel = op.const(fitted.kernel, "mix")
        bias = op.const(fitted.shift, "mix_bias")
        return op.Conv(y, kernel, bias, kernel_shape=(SIDE,) * rank, pads=(SIDE // 2,) * (2 * rank))

    def fit(self, site: Site, moments: Moments) -> Fitted:
        """Reduced-rank regression, turned so that the primary outputs are outputs of the layer; or `choose`."""
        form, (block,) = self.at(site), moments.blocks
        if form.cheap == "depthwise":
            return form._fit_neighbours(site, moments.seen(form.seen))
        first, second = factor(block, range(len(site.kernel)), form.primary)
        rows, columns = first.reshape(form.primary, -1), second.reshape(site.outputs, form.primary)
        picked, cheap = turn(block, rows, columns, 0 if form.order == "pivoted" else AMPLIFIED[site.dtype.itemsize])
        rest = np.setdiff1d(np.arange(site.outputs), picked)
        kernel = np.zeros_like(block.matrix)
        kernel[picked] = columns[picked] @ rows
        kernel[rest] = cheap @ kernel[picked]
        arrays = {"primary": kernel[picked].reshape(-1, *site.shape[1:])}
        if len(rest):
            arrays["cheap"] = cheap.reshape(*cheap.shape, *(1,) * len(site.kernel))
        arrays["outputs"] = picked.astype(np.float64)
        return form.fitted(site, moments, arrays, kernel.reshape(site.shape))

    def _fit_neighbours(self, site: Site, moments: Moments) -> Fitted:
        picked, source, taps = choose(moments.blocks[0], site.outputs, self.primary)
        rest, middle = np.setdiff1d(np.arange(site.outputs), picked), SIDE ** len(site.kernel) // 2
        kernel = np.zeros((site.outputs, site.outputs, SIDE ** len(site.kernel)))
        kernel[picked, picked, middle] = 1
        kernel[rest, source] = taps
        side = (SIDE,) * len(site.kernel)
        arrays = {"primary": site.weight[picked], "outputs": picked.astype(np.float64)}
        if len(rest):
            arrays["neighbours"] = taps.reshape(len(rest), 1, *side)
            arrays["sources"] = np.searchsorted(picked, source).astype(np.float64)
        return self.fitted(site, moments, arrays, kernel.reshape(site.outputs, site.outputs, *side))

    def estimate(self, site: Site, moments: Moments) -> float:
        """The error of reduced-rank regression; all sizes are computed at once."""
        (block,) = moments.blocks
        if self.at(site).cheap == "depthwise":
            return super().estimate(site, moments)
        gain = explained(block, range(len(site.kernel)), self.at(site).primary)
        return moments.relative(float(np.vdot(block.cross, block.matrix)) - float(np.square(gain).sum()))

    def blank(self, site: Site) -> Fitted:
        """Random weights; the first outputs are primary."""
        form, random = self.at(site), np.random.default_rng(0)
        arrays = {
            "primary": random.standard_normal((form.primary, *site.shape[1:])) / site.fan_in,
            "outputs": np.arange(float(form.primary)),
        }
        if form.primary < site.outputs and form.cheap == "depthwise":
            rest = site.outputs - form.primary
            arrays["neighbours"] = random.standard_normal((rest, 1, *(SIDE,) * len(site.kernel)))
            arrays["sources"] = np.arange(float(rest)) % form.primary
        elif form.primary < site.outputs:
            shape = (site.outputs - form.primary, form.primary, *(1,) * len(site.kernel))
            arrays["cheap"] = random.standard_normal(shape) / form.primary
        return form.unfitted(site, arrays)

    def emit(self, op: Emitter, x: ir.Value, fitted: Fitted) -> ir.Value:
        """The primary layer, the cheap one behind it, Concat, and a Gather where the order needs it."""
        site, arrays, bias = fitted.site, fitted.arrays, fitted.bias
        picked = arrays["outputs"].astype(np.int64)
        y = op.stage(x, arrays["primary"], "primary", bias=None if bias is None else bias[picked])
        if "cheap" not in arrays and "neighbours" not in arrays:
            return reorder(op, y, np.argsort(picked), "order")
        if "neighbours" in arrays:
            return self._emit_neighbours(op, y, fitted)
        rest = np.setdiff1d(np.arange(site.outputs), picked)
        cheap = arrays["cheap"]
        # What the primary bias adds to the cheap outputs is taken off again.
        own = None if bias is None else bias[rest] - cheap.reshape(len(rest), -1) @ bias[picked]
        parts = [(picked, y), (rest, op.stage(y, cheap, "cheap", bias=own, axes=()))]
        parts.sort(key=lambda part: int(part[0][0]))
        y = op.Concat(*(part for _, part in parts), axis=1 if site.kernel else -1)
        return reorder(op, y, np.argsort(np.concatenate([which for which, _ in parts])), "order")

    def _emit_neighbours(self, op: Emitter, y: ir.Value, fitted: Fitted) -> ir.Value:
        site, arrays, rank = fitted.site, fitted.arrays, len(fitted.site.kernel)
        picked = arrays["outputs"].astype(np.int64)
        rest = np.setdiff1d(np.arange(site.outputs), picked)
        sources = op.Gather(y, op.const(arrays["sources"].astype(np.int64), "sources", shared=True), axis=1)
        taps = op.const(arrays["neighbours"], "neighbours", shared=True)
        # What they are made from has its bias already; theirs is what keeps their means.
        bias = op.const(fitted.shift[rest], "neighbours_bias")
        attributes = {"kernel_shape": (SIDE,) * rank, "pads": (SIDE // 2,) * (2 * rank), "group": len(rest)}
        both = op.Concat(y, op.Conv(sources, taps, bias, **attributes), axis=1)
        return reorder(op, both, np.argsort(np.concatenate([picked, rest])), "order")

    def macs(self, site: Site) -> int:
        """Multiply-accumulates for one batch."""
        form = self.at(site)
        primary = form.primary
        if form.cheap == "depthwise":
            rest = (site.outputs - primary) * int(SIDE ** len(site.kernel))
            return (primary * site.fan_in + rest) * site.positions()
        cheap = primary * (site.outputs - primary) * site.positions()
        return primary * site.fan_in * site.stage_positions() + cheap


def _takes_neighbours(site: Site) -> bool:
    """Whether a depthwise layer may make outputs: of a Conv whose output patches are not too many to measure, and whose
    own outputs cost more than those made by SIDE taps an axis."""
    taps = int(SIDE ** len(site.kernel))
    return site.kind == "conv" and site.outputs * taps <= MOST and site.fan_in > taps


def turn(block: Block, rows: Floats, columns: Floats, limit: float) -> tuple[Index, Floats]:
    """The primary outputs S (m,), increasing, and T (o - m, m), for the kernel columns @ rows, (o, m) and (m, D).

    S is the first or the last m outputs when T then enlarges independent relative errors of the primary outputs at
    most `limit` times, else by pivoted Cholesky of the outputs' correlations; on the moments, and for white inputs, so
    that unusual inputs do not suffer either. O(o m^2 + m D^2).
    """
    count, size = columns.shape
    size_of = max(float(np.linalg.norm(columns)), 1e-300)
    covariances = [columns @ normal @ columns.T for normal in (rows @ block.moments @ rows.T, rows @ rows.T)]
    runs = [np.arange(size), np.arange(count - size, count)] if limit else []
    choices = itertools.chain(runs, (np.sort(pivots(covariance, size)) for covariance in covariances))
    best: tuple[float, Index, Floats] | None = None
    for picked in choices:
        rest = np.setdiff1d(np.arange(count), picked)
        cheap = np.linalg.lstsq(columns[picked].T, columns[rest].T, rcond=1e-10)[0].T
        lost = float(np.linalg.norm(cheap @ columns[picked] - columns[rest])) > 1e-7 * size_of
        grown = np.inf if lost else max(growth(cheap, picked, rest, covariance) for covariance in covariances)
        if best is None or grown < best[0]:
            best = grown, picked, cheap
        if grown <= limit:
            break
    assert best is not None
    return best[1], best[2]


def growth(cheap: Floats, picked: Index, rest: Index, covariance: Floats) -> float:
    """The largest factor by which independent relative errors of the primary outputs grow in the others."""
    deviation = np.sqrt(np.maximum(np.diagonal(covariance), 0))
    spread = np.linalg.norm(cheap * deviation[picked], axis=1)
    # An output of no power of its own (beside rounding) has no relative error.
    own = np.maximum(deviation[rest], max(1e-6 * float(deviation.max(initial=0.0)), 1e-300))
    return float((spread / own).max(initial=0.0))


def pivots(covariance: Floats, size: int) -> Index:
    """`size` variables whose residual variance, given those before, is largest as a share of their own. O(size^2 n).

    Pivoted Cholesky of the correlation matrix; variables that do not vary come last.
    """
    variance = np.diagonal(covariance)
    scale = np.where(variance > 1e-300, 1 / np.sqrt(np.where(variance > 1e-300, variance, 1)), 0)
    residual = covariance * scale * scale[:, None]
    left = np.diagonal(residual).copy()
    factors = np.zeros((size, len(left)))
    picked: list[int] = []
    for step in range(size):
        masked = left.copy()
        masked[picked] = -1
        best = int(np.argmax(masked))
        picked.append(best)
        if left[best] <= 1e-12:
            continue  # nothing left to explain: the order of the rest does not matter
        row = residual[best] - factors[:step, best] @ factors[:step]
        factors[step] = row / np.sqrt(left[best])
        left = np.maximum(left - np.square(factors[step]), 0)
    return np.asarray(picked, np.intp)


__all__ = ["Ghost", "growth", "pivots", "turn"]
