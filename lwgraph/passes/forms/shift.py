"""Shift convolutions: the taps become moves of whole channels, and only 1 x 1 layers multiply.

    per-channel:  Khat[o, c, d] = sum_t A_t[o, c] [d = tap_t(c)]     each channel moved `columns / c` ways, then 1 x 1
    free:         Khat[o, c, d] = sum_j A[o, j] [c = c_j, d = d_j]   any columns of the patch, then 1 x 1
    joint:        Khat[o, c, d] = sum_r A[o, r] B[r, c] [d = d_r]    1 x 1, move, 1 x 1

ShiftNet (Wu et al. 2018) and its successors train such layers; here the columns are chosen by orthogonal matching
pursuit on the moments, in batches, and A is refitted. "joint" starts from the whitened singular values of all taps'
slices, sorted together, and fits A and B in turn. A move is a one-hot depthwise convolution: it keeps blocked layouts.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from lwgraph import ir
from lwgraph.arrays import Array, Floats, Index
from lwgraph.layers.emit import Emitter
from lwgraph.layers.form import Fitted, Form, ceil16, cheaper
from lwgraph.layers.linalg import balance, conjugate_gradients, nested, solve, top_basis
from lwgraph.layers.moments import Block, Moments
from lwgraph.layers.site import Site
from lwgraph.passes.forms._refusals import dense_spatial

Single = npt.NDArray[np.float32]
Kind = Literal["per-channel", "free", "joint"]
SWEEPS, STEPS = 6, 4  # most alternations of "joint", and conjugate-gradient steps in each
BATCHES = 16  # batches of the matching pursuit for each c columns


@dataclass(frozen=True)
class Shift(Form):
    """Moves of whole channels, and 1 x 1 convolutions."""

    name: ClassVar[str] = "shift"

    kind: Annotated[Kind, "columns that may be taken; joint: with a 1 x 1 layer before the move"] = "per-channel"
    columns: Annotated[int, "columns that the last 1 x 1 layer reads; per-channel: a multiple of c; 0: by ratio"] = 0
    ratio: Annotated[float, "columns as a share of the input channels, rounded up"] = 1.0
    penalty: Annotated[float, "share, 0 to 1, by which a moved column counts less than an unmoved one"] = 0.0

    def __post_init__(self) -> None:
        self.check_option("columns", self.columns >= 0, "0 or more")
        self.check_option("ratio", self.ratio > 0, "above 0")
        self.check_option("penalty", 0 <= self.penalty <= 1, "0 to 1")

    @classmethod
    def refusal(cls, site: Site) -> str:
        """Why this form cannot stand at `site`; "" when it can."""
        return dense_spatial(site)

    @classmethod
    def menu(cls, site: Site) -> Sequence[Form]:
        """c and 2 c columns of each kind, c / 2 more of the free and the joint one, where that saves work."""
        shares = {"per-channel": (1.0, 2.0), "free": (0.5, 1.0, 2.0), "joint": (0.5, 1.0, 2.0)}
        sizes = dict.fromkeys(cls(kind, ratio=s).at(site) for kind in KINDS for s in shares[kind])
        return cheaper(sizes, site)

    @classmethod
    def full(cls, site: Site) -> Form:
        """All columns."""
        return cls("free", site.fan_in)

    def at(self, site: Site) -> Shift:
        """The number of columns that `site` gets."""
        wanted = self.columns or self.ratio * site.inputs
        if self.kind == "per-channel":
            columns = min(site.taps, max(1, int(np.ceil(wanted / site.inputs - 1e-9)))) * site.inputs
        else:
            limit = site.fan_in if self.kind == "free" else site.taps * min(site.inputs, site.outputs)
            columns = min(self.columns, limit) or ceil16(wanted, limit)
        return Shift(self.kind, columns, penalty=self.penalty)

    def fit(self, site: Site, moments: Moments) -> Fitted:
        """Matching pursuit, or the joint singular values of the taps; then least squares."""
        form = self.at(site)
        (block,) = moments.blocks
        if form.kind == "joint":
            return form._fit_joint(site, moments, block)
        centre = site.taps // 2 if all(k % 2 for k in site.kernel) else -1
        order = "channel" if form.kind == "per-channel" else "free"
        picked = pursue(block, form.columns, site.taps, centre, form.penalty, per_channel=order == "channel")
        points = solve(block.moments[np.ix_(picked, picked)], block.cross[:, picked])
        kernel = np.zeros_like(block.matrix)
        kernel[:, picked] = points
        terms = form.columns // site.inputs if order == "channel" else 1
        if order == "channel":  # each channel's picks, one for each term
            picked = np.sort(picked).reshape(site.inputs, terms).T.reshape(-1)
            points = kernel[:, picked]
        ones = (1,) * len(site.kernel)
        arrays: dict[str, Floats] = {}
        for t, part in enumerate(np.split(np.arange(form.columns), terms)):
            arrays[f"shift{t}"] = one_hot(picked[part] % site.taps, site)
            arrays[f"pointwise{t}"] = points[:, part].reshape(site.outputs, -1, *ones)
        if order == "free":
            arrays["channels"] = (picked // site.taps).astype(np.float64)
        return form.fitted(site, moments, arrays, kernel.reshape(site.shape))

    def _fit_joint(self, site: Site, moments: Moments, block: Block) -> Fitted:
        taps, first, last = joint(block, self.columns)
        ones = (1,) * len(site.kernel)
        kernel = np.zeros((site.outputs, site.inputs, site.taps))
        for tap in range(site.taps):
            kernel[:, :, tap] = last[:, taps == tap] @ first[taps == tap]
        first, last = balance(first.reshape(*first.shape, *ones), last.reshape(*last.shape, *ones))
        arrays = {"reduce": first, "shift0": one_hot(taps, site), "pointwise0": last}
        return self.fitted(site, moments, arrays, kernel.reshape(site.shape))

    def estimate(self, site: Site, moments: Moments) -> float:
        """The error from the whitened directions, all sizes at once, for "joint"; otherwise as for any form."""
        form, (block,) = self.at(site), moments.blocks
        if form.kind != "joint":
            return super().estimate(site, moments)
        power = float(np.vdot(block.cross, block.matrix))
        return moments.relative(power - explained_jointly(block, form.columns))

    def blank(self, site: Site) -> Fitted:
        """Random columns and weights."""
        form, random, ones = self.at(site), np.random.default_rng(0), (1,) * len(site.kernel)
        terms = form.columns // site.inputs if form.kind == "per-channel" else 1
        width = form.columns // terms
        arrays: dict[str, Floats] = {}
        for t in range(terms):
            arrays[f"shift{t}"] = one_hot(random.integers(0, site.taps, width), site)
            arrays[f"pointwise{t}"] = random.standard_normal((site.outputs, width, *ones)) / width
        if form.kind == "free":
            arrays["channels"] = np.sort(random.integers(0, site.inputs, width)).astype(np.float64)
        if form.kind == "joint":
            arrays["reduce"] = random.standard_normal((width, site.inputs, *ones)) / site.inputs
        return form.unfitted(site, arrays)

    def emit(self, op: Emitter, x: ir.Value, fitted: Fitted) -> ir.Value:
        """One-hot depthwise nodes and 1 x 1 layers; "free" gathers channels first."""
        form, arrays = fitted.form, fitted.arrays
        assert isinstance(form, Shift)
        if form.kind == "free":
            x = op.Gather(x, op.const(arrays["channels"].astype(np.int64), "channels", shared=True), axis=1)
        if form.kind == "joint":
            x = op.stage(x, arrays["reduce"], "reduce", axes=())
        terms = sum(name.startswith("shift") for name in arrays)
        results = []
        for t in range(terms):
            moved = op.stage(x, arrays[f"shift{t}"], f"shift{t}", group=len(arrays[f"shift{t}"]))
            bias = fitted.bias if t == terms - 1 else None
            results.append(op.stage(moved, arrays[f"pointwise{t}"], f"pointwise{t}", bias=bias, axes=()))
        return functools.reduce(lambda a, b: op.Add(a, b), results)

    def macs(self, site: Site) -> int:
        """Multiply-accumulates for one batch, those of the one-hot convolutions included."""
        form = self.at(site)
        work = form.columns * (site.taps + site.outputs) * site.positions()
        return work + (form.columns * site.inputs * site.positions(()) if form.kind == "joint" else 0)


KINDS: tuple[Kind, ...] = ("per-channel", "free", "joint")


def one_hot(taps: Index, site: Site) -> Floats:
    """A depthwise weight (n, 1, *k) that moves channel i by tap taps[i]."""
    weight = np.zeros((len(taps), site.taps))
    weight[np.arange(len(taps)), taps] = 1
    return weight.reshape(len(taps), 1, *site.kernel)


def pursue(block: Block, columns: int, taps: int, centre: int, penalty: float, *, per_channel: bool) -> Index:
    """Columns of the patch by orthogonal matching pursuit on the moments, in the order in which they were taken.

    A column's score is the error that it alone would take away; c / BATCHES of them are taken and projected out
    together: O(D^2 columns). With `per_channel`, each channel gives one before any gives the next. A shorter pursuit is
    the beginning of a longer one, so one serves all sizes.
    """
    width = len(block.moments)
    limit = max(columns, 2 * (width // taps)) if columns <= 4 * (width // taps) else columns
    key = ("pursuit", taps, centre, penalty, per_channel)
    known: Index | None = block.cache.get(key)
    if known is None or len(known) < columns:
        known = block.cache[key] = _pursue(block, min(limit, width), taps, centre, penalty, per_channel)
    return known[:columns]


def _pursue(block: Block, columns: int, taps: int, centre: int, penalty: float, per_channel: bool) -> Index:
    residual = block.working.copy()
    target = block.cross.T.astype(residual.dtype)
    least = 1e-9 if residual.dtype == np.float64 else 1e-5  # share of variance that is rounding
    width = len(residual)
    scale = np.diagonal(residual).copy()
    weight = np.where(np.arange(width) % taps == centre, 1.0, 1.0 - penalty)
    channel = np.arange(width) // taps
    picked: list[int] = []
    taken = np.zeros(width, bool)
    quota = -(-columns // (width // taps)) if per_channel else width
    used = np.zeros(width // taps, int)
    batch = max(1, width // taps // BATCHES)
    while len(picked) < columns:
        left = np.diagonal(residual)
        alive = left > least * scale
        score = np.where(alive, np.square(target).sum(1) * weight / np.where(alive, left, 1), 0)
        score[taken] = -1
        # While a round of one column per channel is not over, channels that had their turn wait.
        waiting = used[channel] > used.min() if per_channel else np.zeros(width, bool)
        score[waiting | (used[channel] >= quota)] = -1
        chosen: list[int] = []
        seen: set[int] = set()
        for column in np.argsort(-score, kind="stable"):
            if score[column] < 0 or len(chosen) == min(batch, columns - len(picked)):
                break
            if channel[column] not in seen:  # one of a channel in a batch: neighbouring taps resemble each other
                chosen.append(int(column))
                seen.add(int(channel[column]))
        picked += chosen
        taken[chosen] = True
        np.add.at(used, channel[chosen], 1)
        useful = [column for column in chosen if alive[column]]
        if useful:
            inner = residual[np.ix_(useful, useful)]
            gain = solve(inner.astype(np.float64), residual[:, useful]).astype(residual.dtype)
            target -= gain @ target[useful]
            residual -= gain @ residual[useful]
    return np.asarray(picked)


def joint(block: Block, columns: int) -> tuple[Index, Floats, Floats]:
    """Taps (R,), B (R, c) and A (o, R): the R largest singular values of all taps' slices, whitened; then refitted.

    O(R D^2 / taps + R^2 D) per step and R^3 per sweep.
    """
    inputs, taps = block.weight.shape[1], block.matrix.shape[1] // block.weight.shape[1]
    key = ("joint fit", columns, block.refine)
    if key in block.cache:  # cp starts from it, too
        known: tuple[Index, Floats, Floats] = block.cache[key]
        return known
    best: tuple[float, Index, Floats, Floats] | None = None
    for whiten in (False,) if block.white else (True, False) if block.refine else (True,):
        at, first = _ranked(block, whiten)
        found = _last(block, at[:columns], first[:columns])
        if best is None or found[0] < best[0]:
            best = found
    assert best is not None
    loss, at, first, last = best
    exact = columns >= taps * min(inputs, len(block.weight))
    for _ in range(0 if exact else block.sweeps(SWEEPS)):
        found = _last(block, at, _first(block, at, first, last))
        if found[0] >= loss:
            break
        done = block.settled(loss, found[0])
        loss, at, first, last = found
        if done:
            break
    block.cache[key] = at, first, last
    return at, first, last


def _ranked(block: Block, whiten: bool) -> tuple[Index, Floats]:
    """All taps' directions, (n,) and (n, c), by how much error each takes away in its tap alone."""
    key = ("taps", whiten)
    if key not in block.cache:
        inputs, taps = block.weight.shape[1], block.matrix.shape[1] // block.weight.shape[1]
        weight = block.weight.reshape(-1, inputs, taps)
        moments = block.moments.reshape(inputs, taps, inputs, taps)
        strength, basis = [], []
        for tap in range(taps):
            metric = np.ascontiguousarray(moments[:, tap, :, tap]) if whiten else np.eye(inputs)
            right = np.ascontiguousarray(weight[:, :, tap].T)
            rows = top_basis(metric, right)
            image = rows @ metric
            # The rows are orthogonal in the metric, so each takes away its own share of the error.
            strength.append(np.square(image @ right).sum(1) / np.maximum((image * rows).sum(1), 1e-300))
            basis.append(rows)
        order = np.argsort(-np.concatenate(strength), kind="stable")
        where = np.repeat(np.arange(taps), [len(rows) for rows in basis])
        block.cache[key] = where[order], np.concatenate(basis)[order]
    found: tuple[Index, Floats] = block.cache[key]
    return found


def explained_jointly(block: Block, columns: int) -> float:
    """The power of the outputs that the first `columns` whitened directions explain; once for all up to 2 c."""
    limit = max(columns, 2 * block.weight.shape[1])
    known: Floats | None = block.cache.get("joint")
    if known is None or len(known) < columns:
        at, first = _ranked(block, not block.white)
        features = _spread(block, at[:limit], first[:limit])
        product = features.astype(block.working.dtype, copy=False) @ block.working
        gain = nested(product.astype(np.float64, copy=False) @ features.T, block.cross @ features.T)
        known = block.cache["joint"] = np.cumsum(np.square(gain).sum(1))
    return float(known[columns - 1])


def _spread(block: Block, at: Index, first: Array) -> Array:
    """The features (R, D) of B (R, c) at its taps."""
    inputs = first.shape[1]
    features = np.zeros((len(first), inputs, block.matrix.shape[1] // inputs), first.dtype)
    features[np.arange(len(first)), :, at] = first
    return features.reshape(len(first), -1)


def _last(block: Block, at: Index, first: Floats) -> tuple[float, Index, Floats, Floats]:
    features = _spread(block, at, first)
    inputs, taps = first.shape[1], features.shape[1] // first.shape[1]
    rows, product = block.working.reshape(inputs, taps, -1), np.empty_like(features)
    for tap in range(taps):  # a feature has one tap only
        mine = at == tap
        product[mine] = first[mine].astype(rows.dtype, copy=False) @ np.ascontiguousarray(rows[:, tap])
    right = block.cross @ features.T
    last = solve(product @ features.T, right)
    return -float(np.vdot(last, right)), at, first, last


def _first(block: Block, at: Index, first: Floats, last: Floats) -> Floats:
    """A better B (R, c) for A (o, R), by conjugate gradients in float32, since the next A decides if it is."""
    inputs = first.shape[1]
    taps = block.matrix.shape[1] // inputs
    rank = len(first)
    rows = np.arange(rank)
    outer, moments = last.astype(np.float32), block.single
    wide = rank < len(outer)
    products = outer.T @ outer if wide else outer

    def gather(images: Array) -> Single:
        return np.asarray(images.reshape(rank, inputs, taps)[rows, :, at])

    def operate(v: Single) -> Single:
        spread = (products @ _spread(block, at, v)) @ moments
        return gather(spread if wide else outer.T @ spread)

    inverse = np.linalg.inv(block.channel_moments).astype(np.float32)
    scale = np.square(outer).sum(0)[:, None]

    def precondition(v: Single) -> Single:
        return np.asarray(v / np.where(scale > 0, scale, 1) @ inverse)

    target = gather(outer.T @ block.cross.astype(np.float32))
    better = conjugate_gradients(operate, target, first.astype(np.float32), STEPS, precondition).astype(np.float64)
    return np.asarray(better / np.maximum(np.linalg.norm(better, axis=1, keepdims=True), 1e-300))


__all__ = ["Shift", "explained_jointly", "joint", "one_hot", "pursue"]
