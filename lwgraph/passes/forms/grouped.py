"""Grouped: a k x k convolution within groups of input channels, then 1 x 1 over all of them.

    Khat[o, c, d] = sum_r A[o, r] V[r, c, d],  row r of V being zero outside its group's channels

Groups are runs of neighbouring input channels, each with `rank` intermediate channels. This is the k-split SVD of ALDS
(Liebenwein et al. 2021) and the filter group approximation of Peng et al. (2018); one group is channel SVD, one channel
per group is depthwise separable. Each group starts from its whitened SVD; A is refitted, and V by conjugate gradients.

With pointwise=false there is no 1 x 1 layer: output channels are dealt to groups, too (balanced, by the energy of their
weights on each group's inputs), and each block is fitted by least squares; Gather nodes restore the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Floats, Index, Weights
from lwgraph.layers.emit import Emitter
from lwgraph.layers.form import Fitted, Form, cheaper
from lwgraph.layers.linalg import conjugate_gradients, solve, top_basis
from lwgraph.layers.moments import Block, Moments
from lwgraph.layers.site import Site
from lwgraph.passes.forms._refusals import dense_spatial
from lwgraph.passes.forms._reorder import reorder

SWEEPS, STEPS = 6, 4  # alternations at most, and conjugate-gradient steps in each
INVERSE = "inverse run"  # key of what depends on the inputs alone


@dataclass(frozen=True)
class Grouped(Form):
    """A grouped convolution, with a 1 x 1 convolution behind it or with its channels reordered."""

    name: ClassVar[str] = "grouped"

    groups: Annotated[int, "groups of input channels; a divisor of their number"] = 4
    rank: Annotated[int, "intermediate channels per group; 0: as many as its inputs"] = 0
    pointwise: Annotated[bool, "whether a 1 x 1 layer follows; if not, channels are reordered instead"] = True

    def __post_init__(self) -> None:
        self.check_option("groups", self.groups >= 1, "1 or more")
        self.check_option("rank", self.rank >= 0, "0 or more")

    @classmethod
    def refusal(cls, site: Site) -> str:
        """Why this form cannot stand at `site`; "" when it can."""
        return dense_spatial(site)

    @classmethod
    def menu(cls, site: Site) -> Sequence[Form]:
        """2, 4 and 8 groups of at least 16 channels (fewer leave the blocked layout), with and without 1 x 1 layer."""
        sizes: list[Grouped] = []
        for groups in (2, 4, 8):
            if site.inputs % groups or site.inputs // groups % 16:
                continue
            width = site.inputs // groups
            sizes += [cls(groups, rank) for rank in range(16, width + 1, max(16, width // 32 * 16))]
            if site.outputs % groups == 0 and site.outputs // groups % 16 == 0:
                sizes.append(cls(groups, pointwise=False))
        return cheaper(sizes, site)

    @classmethod
    def full(cls, site: Site) -> Form:
        """One group of full rank."""
        return cls(1, min(site.outputs, site.fan_in))

    def at(self, site: Site) -> Grouped:
        """The rank that `site` gets, and the next smaller number of groups that divides the channels."""
        groups = min(self.groups, site.inputs)
        while site.inputs % groups or (not self.pointwise and site.outputs % groups):
            groups -= 1
        if not self.pointwise:
            return Grouped(groups, pointwise=False)
        width = site.inputs // groups
        return Grouped(groups, min(self.rank or width, site.outputs, width * site.taps))

    def fit(self, site: Site, moments: Moments) -> Fitted:
        """Whitened SVD per group and a joint refit; or a block-diagonal least-squares fit."""
        form, (block,) = self.at(site), moments.blocks
        ones = (1,) * len(site.kernel)
        width = site.inputs // form.groups
        if form.pointwise:
            inner, outer = split(block, form.groups, form.rank)
            kernel = expand(inner, form.groups)
            arrays = {
                "grouped": inner.reshape(len(inner), width, *site.kernel),
                "pointwise": outer.reshape(*outer.shape, *ones),
            }
            return form.fitted(site, moments, arrays, (outer @ kernel).reshape(site.shape))
        inputs, outputs, weights = deal(block, site.inputs, form.groups)
        kernel = np.zeros((site.outputs, site.inputs, site.taps))
        size = site.outputs // form.groups
        for g, part in enumerate(weights):
            rows, columns = outputs[g * size : (g + 1) * size], inputs[g * width : (g + 1) * width]
            kernel[np.ix_(rows, columns)] = part.reshape(size, width, site.taps)
        arrays = {
            "grouped": np.concatenate(weights).reshape(site.outputs, width, *site.kernel),
            "inputs": inputs.astype(np.float64), "outputs": np.argsort(outputs).astype(np.float64),
        }  # fmt: skip
        return form.fitted(site, moments, arrays, kernel.reshape(site.shape))

    def blank(self, site: Site) -> Fitted:
        """Random weights and, without a 1 x 1 layer, random orders."""
        form, random, ones = self.at(site), np.random.default_rng(0), (1,) * len(site.kernel)
        width, rank = site.inputs // form.groups, form.rank * form.groups
        arrays = {"grouped": random.standard_normal((rank or site.outputs, width, *site.kernel)) / site.fan_in}
        if rank:
            arrays["pointwise"] = random.standard_normal((site.outputs, rank, *ones)) / rank
        else:
            arrays["inputs"] = random.permutation(site.inputs).astype(np.float64)
            arrays["outputs"] = random.permutation(site.outputs).astype(np.float64)
        return form.unfitted(site, arrays)

    def emit(self, op: Emitter, x: ir.Value, fitted: Fitted) -> ir.Value:
        """A grouped convolution and a 1 x 1 one; or Gather, grouped convolution, Gather."""
        form, arrays = fitted.form, fitted.arrays
        assert isinstance(form, Grouped)
        if form.pointwise:
            y = op.stage(x, arrays["grouped"], "grouped", group=form.groups)
            return op.stage(y, arrays["pointwise"], "pointwise", bias=fitted.bias, axes=())
        order, back = arrays["inputs"].astype(np.int64), arrays["outputs"].astype(np.int64)
        y = reorder(op, x, order, "inputs")
        bias = None if fitted.bias is None else fitted.bias[np.argsort(back)]
        y = op.stage(y, arrays["grouped"], "grouped", bias=bias, group=form.groups)
        return reorder(op, y, back, "outputs")

    def macs(self, site: Site) -> int:
        """Multiply-accumulates for one batch."""
        form = self.at(site)
        width = site.inputs // form.groups
        rank = form.rank * form.groups
        return ((rank or site.outputs) * width * site.taps + rank * site.outputs) * site.positions()


def expand(inner: Weights, groups: int) -> Weights:
    """(G r, D / G) as a block-diagonal (G r, D)."""
    rank, width = len(inner) // groups, inner.shape[1]
    whole = np.zeros((len(inner), groups * width), inner.dtype)
    for g in range(groups):
        whole[g * rank : (g + 1) * rank, g * width : (g + 1) * width] = inner[g * rank : (g + 1) * rank]
    return whole


def split(block: Block, groups: int, rank: int) -> tuple[Floats, Floats]:
    """V (G r, D / G) and A (o, G r) of least error. O(r D^2) per step and (G r)^3 per sweep."""
    width = block.matrix.shape[1] // groups
    runs = [slice(g * width, (g + 1) * width) for g in range(groups)]

    def outer(inner: Floats) -> tuple[float, Floats, Floats]:
        parts = [(inner[g * rank : (g + 1) * rank], run) for g, run in enumerate(runs)]
        working = block.working
        product = np.concatenate([part.astype(working.dtype, copy=False) @ working[run] for part, run in parts])
        product = product.astype(np.float64, copy=False)
        normal = np.concatenate([product[:, run] @ part.T for part, run in parts], axis=1)
        right = np.concatenate([block.cross[:, run] @ part.T for part, run in parts], axis=1)
        found = solve((normal + normal.T) / 2, right)
        return -float(np.vdot(found, right)), inner, found

    starts = []
    for whiten in (False,) if block.white else (True, False) if block.refine else (True,):
        key = ("groups", groups, whiten)
        if key not in block.cache:
            metrics = [np.ascontiguousarray(block.moments[run, run]) if whiten else None for run in runs]
            block.cache[key] = [top_basis(m, block.matrix[:, run].T) for m, run in zip(metrics, runs, strict=True)]
        starts.append(outer(np.concatenate([_padded(basis, rank) for basis in block.cache[key]])))
    loss, inner, points = min(starts, key=lambda found: found[0])
    # With one group, or white inputs, the start is the optimum.
    for _ in range(block.sweeps(SWEEPS) if groups > 1 else 0):
        found = outer(_inner(block, runs, inner, points, rank))
        if found[0] >= loss:
            break
        done = block.settled(loss, found[0])
        loss, inner, points = found
        if done:
            break
    return inner, points


def _padded(basis: Floats, rank: int) -> Floats:
    return basis[:rank] if len(basis) >= rank else np.pad(basis, ((0, rank - len(basis)), (0, 0)))


def _inner(block: Block, runs: Sequence[slice], inner: Floats, points: Floats, rank: int) -> Floats:
    """A better V for A, by conjugate gradients in float32, since the next A decides if it is."""
    groups, single = len(runs), np.float32
    products = (points.T @ points).astype(single)

    def restrict(images: Weights) -> Weights:
        return np.concatenate([images[g * rank : (g + 1) * rank, run] for g, run in enumerate(runs)])

    def operate(v: Weights) -> Weights:
        spread = products @ expand(v, groups)
        return np.concatenate(
            [(block.single[run] @ spread[g * rank : (g + 1) * rank].T).T for g, run in enumerate(runs)]
        )

    scale = np.maximum(np.diagonal(products), 1e-300)[:, None]
    keys = [(INVERSE, run.start, run.stop) for run in runs]
    for key, run in zip(keys, runs, strict=True):
        if key not in block.cache:
            block.cache[key] = np.linalg.inv(block.moments[run, run]).astype(single)

    def precondition(v: Weights) -> Weights:
        parts = [v[g * rank : (g + 1) * rank] @ block.cache[key] for g, key in enumerate(keys)]
        return np.asarray(np.concatenate(parts) / scale)

    target = restrict((points.T @ block.cross).astype(single))
    better = conjugate_gradients(operate, target, inner.astype(single), STEPS, precondition).astype(np.float64)
    return np.asarray(better / np.maximum(np.linalg.norm(better, axis=1, keepdims=True), 1e-300))


def deal(block: Block, inputs: int, groups: int) -> tuple[Index, Index, list[Floats]]:
    """Orders of the inputs and the outputs, and each group's weights (o/G, D/G).

    Outputs and inputs are assigned in turn, balanced, to where the energy ||W[o, c]||^2 of their weights, scaled by the
    inputs' power, is largest; four rounds from the natural order. The better of that and the natural order is kept.
    """
    taps = block.matrix.shape[1] // inputs
    power = np.diagonal(block.moments).reshape(inputs, taps)
    energy = np.einsum("oct,ct->oc", np.square(block.weight.reshape(-1, inputs, taps)), power)
    column = np.arange(inputs) * groups // inputs
    for _ in range(4):
        row = _assign(np.stack([energy[:, column == g].sum(1) for g in range(groups)], 1))
        column = _assign(np.stack([energy[row == g].sum(0) for g in range(groups)], 1))
    natural = np.arange(len(energy)) * groups // len(energy), np.arange(inputs) * groups // inputs
    best: tuple[float, Index, Index, list[Floats]] | None = None
    for rows, columns in ((row, column), natural):
        loss, weights = 0.0, []
        for g in range(groups):
            mine = np.flatnonzero(rows == g)
            picked = (np.flatnonzero(columns == g)[:, None] * taps + np.arange(taps)).reshape(-1)
            right = block.cross[np.ix_(mine, picked)]
            weights.append(solve(block.moments[np.ix_(picked, picked)], right))
            loss -= float(np.vdot(weights[-1], right))
        if best is None or loss < best[0]:
            best = loss, np.argsort(columns, kind="stable"), np.argsort(rows, kind="stable"), weights
    assert best is not None
    return best[1:]


def _assign(score: Floats) -> Index:
    """Each row to one column, equally many to each, greedily by the regret of not getting the best one."""
    count, groups = score.shape
    room = np.full(groups, count // groups)
    found = np.full(count, -1)
    ordered = np.sort(score, 1)
    regret = ordered[:, -1] - ordered[:, -2] if groups > 1 else ordered[:, -1]
    for row in np.argsort(-regret, kind="stable"):
        choice = int(np.argmax(np.where(room > 0, score[row], -np.inf)))
        found[row] = choice
        room[choice] -= 1
    return found


__all__ = ["INVERSE", "Grouped", "deal", "expand", "split"]
