"""Outputs of a convolution made from their neighbours in other outputs: the algebra of the ghost form's depthwise kind.

y_j is predicted from the 3 x 3 positions of one other output i: a least-squares fit of 9 taps on the moments of the
layer's output patches, one for each pair (i, j).
"""

from __future__ import annotations

import itertools

import numpy as np

from lwgraph.arrays import Floats, Index
from lwgraph.calibrate.patches import Patches
from lwgraph.layers.linalg import solve
from lwgraph.layers.moments import Block
from lwgraph.layers.probe import Probe
from lwgraph.layers.site import Site

SIDE = 3  # taps of the cheap layer on each axis


def output_probe(site: Site) -> Probe:
    """The layer as it looks from its own output: its patches of SIDE positions an axis, and the middle of each.

    For white inputs two outputs are correlated as their kernels are, shifted by the positions between them.
    """
    rank, outputs = len(site.kernel), site.outputs
    taps, ones = SIDE**rank, (1,) * rank
    weight = np.zeros((outputs, outputs, taps))
    weight[np.arange(outputs), np.arange(outputs), taps // 2] = 1
    patches = Patches((SIDE,) * rank, ones, ones, (SIDE // 2,) * (2 * rank))
    return Probe(site, patches, weight.reshape(outputs, -1), _white(site), behind=True)


def _white(site: Site) -> Floats:
    rank, outputs = len(site.kernel), site.outputs
    offsets = list(itertools.product(range(SIDE), repeat=rank))
    near: dict[tuple[int, ...], Floats] = {}
    whole = np.zeros((outputs, len(offsets), outputs, len(offsets)))
    for (a, one), (b, other) in itertools.product(enumerate(offsets), repeat=2):
        apart = tuple(q - p for p, q in zip(one, other, strict=True))
        if apart not in near:
            near[apart] = _overlap(site, apart)
        whole[:, a, :, b] = near[apart]
    return whole.reshape(outputs * len(offsets), -1)


def _overlap(site: Site, apart: tuple[int, ...]) -> Floats:
    """(o, o), the product of the kernels of each pair of outputs so many positions apart: E[y_i(p) y_j(p + apart)]."""
    first, second = site.weight, site.weight
    for axis, (n, s, d, k) in enumerate(zip(apart, site.strides, site.dilations, site.kernel, strict=True)):
        if n * s % d or abs(n * s // d) >= k:
            return np.zeros((site.outputs, site.outputs))
        moved = n * s // d  # tap t of the second is tap t + moved of the first
        first = np.take(first, range(max(moved, 0), k + min(moved, 0)), 2 + axis)
        second = np.take(second, range(max(-moved, 0), k - max(moved, 0)), 2 + axis)
    found: Floats = first.reshape(site.outputs, -1) @ second.reshape(site.outputs, -1).T
    return found


def choose(block: Block, outputs: int, primary: int) -> tuple[Index, Index, Floats]:
    """The primary outputs (m,), increasing, the primary one behind each other output (o - m,), and its taps (o - m, t).

    Primary outputs are taken one after another, each time the one that explains most of the power of all outputs that
    those before do not: greedy maximization of a submodular gain (Nemhauser, Wolsey, Fisher 1978), at least 1 - 1/e of
    the best. O(o^2 (t^2 + m)).
    """
    taps = block.moments.shape[0] // outputs
    middle = np.arange(outputs) * taps + taps // 2
    gains = np.empty((outputs, outputs))  # the gain of source i for output j
    weights = np.empty((outputs, outputs, taps))
    for i in range(outputs):
        own = slice(i * taps, (i + 1) * taps)
        right = block.moments[middle, own]
        weights[i] = solve(block.moments[own, own], right)
        gains[i] = np.einsum("jt,jt->j", weights[i], right)
    best = np.zeros(outputs)
    picked: list[int] = []
    for _ in range(primary):
        total = np.maximum(gains, best).sum(1)
        total[picked] = -np.inf
        picked.append(int(np.argmax(total)))
        best = np.maximum(best, gains[picked[-1]])
    chosen = np.sort(np.asarray(picked, np.intp))
    rest = np.setdiff1d(np.arange(outputs), chosen)
    source = chosen[np.argmax(gains[chosen][:, rest], axis=0)] if len(rest) else rest
    return chosen, source, weights[source, rest]


__all__ = ["SIDE", "choose", "output_probe"]
