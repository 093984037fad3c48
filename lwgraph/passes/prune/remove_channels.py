"""Removes channels from a model: slices weights, and rewrites the constants and attributes that speak of channels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lwgraph import ir
from lwgraph.errors import CheckError
from lwgraph.passes.prune.cuts import Cut  # the module fills the table of what changes at operators
from lwgraph.views.coupling import Coupling, Group


def remove_channels(model: ir.Model, coupling: Coupling, removed: Mapping[Group, npt.ArrayLike]) -> int:
    """Remove the given channels (positions within each group) from `model`, of which `coupling` is the coupling.

    Weights are sliced (a shared one is copied for those that part with it), group counts, split sizes, reshape targets,
    bounds, indices and hidden sizes rewritten, recorded shapes updated; axes of unknown size stay unknown. The coupling
    must not be used afterwards. O(size of what is sliced).

    Returns:
        how many channels were removed.

    Raises:
        CheckError: a group is frozen, or nothing would be left of an axis. The model is unchanged then.
    """
    for group, channels in removed.items():
        if group.frozen and len(np.atleast_1d(np.asarray(channels))):
            raise CheckError(f"channels of group {group.number} ('{group.name}') cannot be removed: {group.frozen}")
    Cut(model, coupling, removed).run()
    return sum(len(np.unique(np.asarray(channels))) for channels in removed.values())


__all__ = ["remove_channels"]
