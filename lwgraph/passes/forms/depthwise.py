"""Depthwise separable: a sum of `terms` pairs of a depthwise and a 1 x 1 convolution, in either order.

    Khat[o, c, d] = sum_t P_t[o, c] K_t[c, d]     depthwise, then pointwise (dw-pw)
    Khat[o, c, d] = sum_t K_t[o, d] P_t[o, c]     pointwise, then depthwise (pw-dw)

This is network decoupling (Guo et al. 2018): exact with as many terms as taps, without samples an SVD per input or
output channel. With samples the taps start from the whitened SVD, then pointwise weights and taps are fitted in
turn on the moments. Each term is a depthwise node of its own: one node with a channel multiplier is much slower.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array, Floats, Weights
from lwgraph.layers.emit import Emitter
from lwgraph.layers.form import Fitted, Form, cheaper
from lwgraph.layers.linalg import conjugate_gradients, solve
from lwgraph.layers.moments import Block, Moments
from lwgraph.layers.site import Site
from lwgraph.passes.forms._refusals import dense_spatial

Order = Literal["auto", "dw-pw", "pw-dw"]
SWEEPS, STEPS = 8, 6  # alternations at most, and conjugate-gradient steps in each


@dataclass(frozen=True)
class Depthwise(Form):
    """A sum of `terms` pairs of a depthwise and a 1 x 1 convolution."""

    name: ClassVar[str] = "depthwise"
    searched: ClassVar[int] = 2

    terms: Annotated[int, "pairs that are summed, at most the number of taps"] = 2
    order: Annotated[Order, "stage that comes first; auto: the better fit, dw-pw where the layer has a stride"] = "auto"

    def __post_init__(self) -> None:
        self.check_option("terms", self.terms >= 1, "1 or more")

    @classmethod
    def refusal(cls, site: Site) -> str:
        """Why this form cannot stand at `site`; "" when it can."""
        return dense_spatial(site)

    @classmethod
    def menu(cls, site: Site) -> Sequence[Form]:
        """One to three terms in both orders, where that saves work."""
        orders: tuple[Order, Order] = ("dw-pw", "pw-dw")
        sizes = [cls(terms, order) for order in orders for terms in range(1, min(3, site.taps - 1) + 1)]
        return cheaper(sizes, site)

    @classmethod
    def full(cls, site: Site) -> Form:
        """The exact form: as many terms as taps."""
        return cls(site.taps, "dw-pw")

    def at(self, site: Site) -> Depthwise:
        """The form with at most as many terms as the site has taps."""
        order: Order = "dw-pw" if self.order == "auto" and max(site.strides) > 1 else self.order
        return Depthwise(min(self.terms, site.taps), order)

    def fit(self, site: Site, moments: Moments) -> Fitted:
        """Whitened decoupling, then alternating least squares over taps and pointwise weights."""
        form = self.at(site)
        if form.order == "auto":
            orders: tuple[Order, Order] = ("dw-pw", "pw-dw")
            return min((replace(form, order=o).fit(site, moments) for o in orders), key=lambda f: f.error)
        (block,) = moments.blocks
        taps, points = (decouple_inputs if form.order == "dw-pw" else decouple_outputs)(block, form.terms)
        if form.order == "dw-pw":
            kernel = np.einsum("oct,ctd->ocd", points, taps, optimize=True)
        else:
            kernel = np.einsum("otc,otd->ocd", points, taps, optimize=True)
            points = points.transpose(0, 2, 1)
        ones = (1,) * len(site.kernel)
        arrays: dict[str, Floats] = {}
        for t in range(form.terms):  # taps of unit norm: the pointwise weights carry the scale
            arrays[f"depthwise{t}"] = np.ascontiguousarray(taps[:, t]).reshape(-1, 1, *site.kernel)
            arrays[f"pointwise{t}"] = np.ascontiguousarray(points[:, :, t]).reshape(*points.shape[:2], *ones)
        return form.fitted(site, moments, arrays, kernel.reshape(site.shape))

    def blank(self, site: Site) -> Fitted:
        """Random weights."""
        form, random, ones = self.at(site), np.random.default_rng(0), (1,) * len(site.kernel)
        form = replace(form, order="dw-pw") if form.order == "auto" else form
        width = site.inputs if form.order == "dw-pw" else site.outputs
        arrays: dict[str, Floats] = {}
        for t in range(form.terms):
            arrays[f"depthwise{t}"] = random.standard_normal((width, 1, *site.kernel)) / site.taps
            arrays[f"pointwise{t}"] = random.standard_normal((site.outputs, site.inputs, *ones)) / site.inputs
        return form.unfitted(site, arrays)

    def emit(self, op: Emitter, x: ir.Value, fitted: Fitted) -> ir.Value:
        """`terms` pairs and their sum; the bias is on the last layer."""
        form, arrays = fitted.form, fitted.arrays
        assert isinstance(form, Depthwise)
        results = []
        for t in range(form.terms):
            bias = fitted.bias if t == form.terms - 1 else None
            deep, point = (arrays[f"{kind}{t}"] for kind in ("depthwise", "pointwise"))
            if form.order == "pw-dw":
                y = op.stage(x, point, f"pointwise{t}", axes=())
                results.append(op.stage(y, deep, f"depthwise{t}", bias=bias, group=len(deep)))
            else:
                y = op.stage(x, deep, f"depthwise{t}", group=len(deep))
                results.append(op.stage(y, point, f"pointwise{t}", bias=bias, axes=()))
        return functools.reduce(lambda a, b: op.Add(a, b), results)

    def macs(self, site: Site) -> int:
        """Multiply-accumulates for one batch; of "auto", those of dw-pw."""
        form = self.at(site)
        width, places = (site.outputs, site.positions(())) if form.order == "pw-dw" else (site.inputs, site.positions())
        return form.terms * (width * site.taps * site.positions() + site.outputs * site.inputs * places)


def decouple_inputs(block: Block, terms: int) -> tuple[Floats, Floats]:
    """Taps (c, T, t) and pointwise weights (o, c, T) of dw-pw. O(T D^2) per step and (T c)^3 per sweep."""
    inputs, taps = block.weight.shape[1], block.matrix.shape[1] // block.weight.shape[1]
    weight = block.weight.reshape(-1, inputs, taps)
    moments = block.moments.reshape(inputs, taps, -1)
    cross = block.cross.reshape(-1, inputs, taps)
    own = np.stack([block.moments[i : i + taps, i : i + taps] for i in range(0, inputs * taps, taps)])
    energy = np.einsum("oct,ocs->cts", weight, weight, optimize=True)
    metrics = (own,) if block.white else (own, np.broadcast_to(np.eye(taps), own.shape))
    starts = [_leading(energy, metric, terms) for metric in metrics]
    loss, k, p = min((_pointwise(moments, cross, k) for k in starts), key=lambda found: found[0])
    for _ in range(block.sweeps(SWEEPS) if terms < taps else 0):
        found = _pointwise(moments, cross, _input_taps(block.single.reshape(moments.shape), cross, own, k, p))
        if found[0] >= loss:
            break
        done = block.settled(loss, found[0])
        loss, k, p = found
        if done:
            break
    return k, p


def _leading(energy: Floats, metric: Floats, terms: int) -> Floats:
    """The best `terms` tap vectors of each channel, (n, T, t) in the metric (n, t, t); energy is W^T W, (n, t, t)."""
    lower = np.linalg.cholesky(metric)
    _, vectors = np.linalg.eigh(lower.swapaxes(1, 2) @ energy @ lower)
    basis = np.linalg.solve(lower.swapaxes(1, 2), vectors[:, :, ::-1][:, :, :terms]).swapaxes(1, 2)
    return np.asarray(basis / np.linalg.norm(basis, axis=2, keepdims=True))


def _pointwise(moments: Floats, cross: Floats, k: Floats) -> tuple[float, Floats, Floats]:
    """Loss (up to a constant), the taps k (c, T, t), and the best pointwise weights (o, c, T) for them."""
    inputs, terms, taps = k.shape
    product = (k @ moments).reshape(inputs * terms, inputs, taps)
    normal = (product.swapaxes(0, 1) @ k.swapaxes(1, 2)).swapaxes(0, 1).reshape(inputs * terms, inputs * terms)
    right = (cross.swapaxes(0, 1) @ k.swapaxes(1, 2)).swapaxes(0, 1).reshape(len(cross), -1)
    points = solve((normal + normal.T) / 2, right)
    return -float(np.vdot(points, right)), k, points.reshape(len(cross), inputs, terms)


def _input_taps(moments: Weights, cross: Weights, own: Weights, k: Weights, p: Weights) -> Floats:
    """Better taps (c, T, t) for pointwise weights p (o, c, T), by conjugate gradients on the c T t unknowns.

    In float32: the next pointwise weights decide whether they are better.
    """
    inputs, terms, taps = k.shape
    moments, cross, own, k, p = (np.asarray(v, np.float32) for v in (moments, cross, own, k, p))
    flat = p.reshape(len(p), -1)
    products = (flat.T @ flat).reshape(inputs, terms, inputs, terms)
    transposed = moments.swapaxes(1, 2)  # (c, D, t)

    def operate(v: Floats) -> Floats:
        spread = np.matmul(products.transpose(2, 0, 1, 3).reshape(inputs, inputs * terms, terms), v)  # (b, a T, t)
        spread = spread.reshape(inputs, inputs, terms, taps).transpose(1, 2, 0, 3)
        return np.asarray(spread.reshape(inputs, terms, -1) @ transposed)

    target = np.einsum("oat,oae->ate", p, cross, optimize=True)
    diagonal = np.einsum("atas->ats", products)
    blocks = np.einsum("ats,ade->atdse", diagonal, own).reshape(inputs, terms * taps, terms * taps)
    trace = np.einsum("aii->a", blocks)[:, None, None] / (terms * taps)
    inverse = np.linalg.inv(blocks + np.eye(terms * taps) * np.where(trace > 0, 1e-6 * trace, np.float32(1)))

    def precondition(v: Floats) -> Floats:
        return np.asarray((inverse @ v.reshape(inputs, -1, 1)).reshape(v.shape))

    better = conjugate_gradients(operate, target, k, STEPS, precondition).astype(np.float64)
    return np.asarray(better / np.maximum(np.linalg.norm(better, axis=2, keepdims=True), 1e-300))


def decouple_outputs(block: Block, terms: int) -> tuple[Floats, Floats]:
    """Taps (o, T, t) and pointwise weights (o, T, c) of pw-dw. O(o D^2) per step.

    The start is the SVD of each output channel's (c, t) kernel, whitened as if the moments were a product of a channel
    and a tap part; it is exact with all terms.
    """
    inputs, taps = block.weight.shape[1], block.matrix.shape[1] // block.weight.shape[1]
    weight = block.weight.reshape(-1, inputs, taps)
    outputs = len(weight)
    channel = block.channel_moments
    tap = block.tap_moments * (inputs / max(float(np.trace(channel)), 1e-300))
    cross = block.cross.reshape(-1, inputs, taps)

    def start(channels: Floats, tap_metric: Floats) -> tuple[float, Floats, Floats]:
        energy = weight.swapaxes(1, 2) @ np.einsum("cd,odt->oct", channels, weight, optimize=True)
        k = _leading(energy, np.broadcast_to(tap_metric, (outputs, taps, taps)), terms)
        # In the metric, W_o is projected on its leading taps: P = W_o M K^T (K M K^T)^-1.
        km = k @ tap_metric
        p = np.linalg.solve(km @ k.swapaxes(1, 2), km @ weight.swapaxes(1, 2))
        return loss(k, p), k, p

    single = block.single

    def image(kernel: Array) -> Array:
        """The kernel times the moments, in float32: the loss decides whether a step helped."""
        return np.asarray((kernel.reshape(outputs, -1).astype(np.float32) @ single).reshape(weight.shape))

    def loss(k: Floats, p: Floats) -> float:
        kernel = p.swapaxes(1, 2) @ k
        return float(np.vdot((kernel.reshape(outputs, -1) @ block.moments).reshape(weight.shape) - 2 * cross, kernel))

    starts = [start(channel, tap)] + ([] if block.white else [start(np.eye(inputs), np.eye(taps))])
    best, k, p = min(starts, key=lambda found: found[0])
    if block.white or terms == taps:
        return k, p
    channel_inverse, tap_inverse = np.linalg.inv(channel), np.linalg.inv(tap)
    for _ in range(block.sweeps(SWEEPS)):
        points = _solve_pointwise(image, cross, k, p, np.linalg.inv(k @ tap @ k.swapaxes(1, 2)), channel_inverse)
        spread = np.einsum("otc,cd,osd->ots", points, channel, points, optimize=True)
        inverse = np.linalg.pinv(spread, rcond=1e-10, hermitian=True)
        better = _solve_taps(image, cross, k, points, inverse, tap_inverse)
        found = loss(better, points)
        if found >= best:
            break
        done = block.settled(best, found)
        best, k, p = found, better, points
        if done:
            break
    return k, _solve_pointwise(image, cross, k, p, np.linalg.inv(k @ tap @ k.swapaxes(1, 2)), channel_inverse)


def _solve_pointwise(
    image: Callable[[Weights], Weights], cross: Floats, k: Floats, p: Floats, small: Floats, channel_inverse: Weights
) -> Floats:
    """Better pointwise weights (o, T, c) for taps k (o, T, t); one system per output."""
    return conjugate_gradients(
        lambda v: k @ image(v.swapaxes(1, 2) @ k).swapaxes(1, 2),
        k @ cross.swapaxes(1, 2),
        p,
        STEPS,
        lambda v: small @ v @ channel_inverse,
        separate=True,
    )


def _solve_taps(
    image: Callable[[Weights], Weights], cross: Floats, k: Floats, p: Floats, small: Floats, tap_inverse: Weights
) -> Floats:
    """Better taps (o, T, t) for pointwise weights p (o, T, c)."""
    better = conjugate_gradients(
        lambda v: p @ image(p.swapaxes(1, 2) @ v),
        p @ cross,
        k,
        STEPS // 2,
        lambda v: small @ v @ tap_inverse,
        separate=True,
    )
    return np.asarray(better / np.maximum(np.linalg.norm(better, axis=2, keepdims=True), 1e-300))


__all__ = ["Depthwise", "decouple_inputs", "decouple_outputs"]
