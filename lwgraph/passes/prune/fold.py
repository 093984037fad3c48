"""Similarity folding: of two channels that nearly say the same, one goes and the other speaks for both."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from lwgraph.arrays import Floats
from lwgraph.passes.prune.importance import L2, Importance, Ranking
from lwgraph.passes.prune.readers import PruneView
from lwgraph.views.coupling import Group


class Fold(Importance):
    """The quality of the best remaining substitute of a channel (Wang et al. 2025, "Forget the Data and
    Fine-Tuning! Just Fold the Network to Compress", arXiv 2502.10216, with measured instead of weight similarity).

    With x_j a channel as its readers see it, its fold into x_i leaves (1 - rho_ij^2) of its variance, rho being their
    correlation over all taps; that times the squared weights that read it is the cost. The merge itself is the least
    squares fit of `compensate`, which gives the weights that read one channel to the other, and to more that help.
    Greedy, cheapest first; O(width^2) after the moments are there.
    """

    name = "fold"
    needs_data: ClassVar[bool] = True

    def rank(self, group: Group, view: PruneView) -> Ranking:
        """See `Importance.rank`."""
        width = group.width
        cross, gain, power = np.zeros((width, width)), np.zeros(width), 0.0
        for reader in view.readers(group):
            moments = view.moments(reader)
            power += sum(loss.power for loss in moments.losses)
            for loss, columns in zip(moments.losses, reader.columns, strict=True):
                for tap in range(columns.shape[1]):
                    cross += loss.chosen(columns[:, tap]) / columns.shape[1]
                gain += loss.powers[columns].sum(1)
        if power <= 0 or not cross.any():
            return L2().rank(group, view)
        variance = np.diagonal(cross).copy()
        scale = np.sqrt(np.maximum(variance, 1e-300))
        left = 1 - np.minimum(1.0, np.square(cross / scale / scale[:, None]))
        left = np.where(variance[:, None] > 0, left, 0.0)  # a channel that never varies needs no substitute
        return _greedy(left, variance * gain / power)


def _greedy(left: Floats, weight: Floats) -> Ranking:
    """Remove, one after another, the channel of least left_ij * weight_j with the best i that is still there."""
    width = len(weight)
    left = left.copy()
    np.fill_diagonal(left, 1.0)
    best = left.argmin(1)
    cost = left[np.arange(width), best] * weight
    order: list[int] = []
    total = [0.0]
    for _ in range(width):
        j = int(np.argmin(cost))
        order.append(j)
        total.append(total[-1] + float(cost[j]))
        left[:, j], cost[j] = 1.0, np.inf
        for i in np.flatnonzero((best == j) & np.isfinite(cost)):
            best[i] = left[i].argmin()
            cost[i] = left[i, best[i]] * weight[i]
    return Ranking(np.array(order), np.array(total))
