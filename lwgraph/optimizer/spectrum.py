"""Without data a weight can only be judged by its own spectrum: is there anything to gain?"""

from __future__ import annotations

import numpy as np

from lwgraph.arrays import Floats
from lwgraph.layers.site import Site

HALF_RANK_TAIL = 1e-3  # relative energy; more than this lost in one layer shows at the output under any tolerance


def redundant(site: Site) -> bool:
    """Whether some matrix view of the weight has at most HALF_RANK_TAIL of its energy outside half its rank.

    The views are those of the two-factor forms: outputs against the rest, inputs against the rest, and for two spatial
    axes (inputs, rows) against (outputs, columns). Eigenvalues of the smaller Gram: O(min(m, n)^2 max(m, n)).
    """
    if site.group > 1:
        return False
    weight = site.weight
    views = [weight.reshape(weight.shape[0], -1), np.moveaxis(weight, 1, 0).reshape(weight.shape[1], -1)]
    if len(site.kernel) == 2:
        columns = weight.transpose(1, 2, 0, 3)
        views.append(columns.reshape(columns.shape[0] * columns.shape[1], -1))
    return any(_tail(view) <= HALF_RANK_TAIL for view in views if min(view.shape) > 1)


def _tail(view: Floats) -> float:
    small = view if view.shape[0] <= view.shape[1] else view.T
    energies = np.linalg.eigvalsh(small @ small.T)  # ascending
    total = float(energies.sum())
    return max(0.0, float(energies[: len(energies) // 2].sum())) / total if total > 0 else 0.0
