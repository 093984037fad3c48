"""Chooses ranges tensor by tensor, where they matter, by their effect on the network's output.

One calibration method for all tensors clips an input image by the rule that suits a tensor with outliers. For the
tensors that do most damage, the ranges of the other methods are tried in the float model, one at a time, and the one of
least damage is taken. The result is kept when the quantized model as a whole is closer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from lwgraph.calibrate.partial_runs import PartialRuns
from lwgraph.calibrate.ranges import Observed
from lwgraph.executor import Executor
from lwgraph.measure.distance import Distance
from lwgraph.passes.quantize.graph.quantizer import Quantizer
from lwgraph.passes.quantize.judging.sensitivity import ErrorSource, simulated, starts
from lwgraph.passes.quantize.placing.region import Region

TRIED = 8  # tensors whose ranges are looked at one by one
_WORTH = 0.9  # another range must do less than this share of the damage


def better_ranges(
    quantizer: Quantizer,
    region: Region,
    sources: Sequence[ErrorSource],
    damages: Sequence[float],
    methods: Sequence[tuple[str, float]],
    distance: Distance,
    executor: Executor,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, tuple[tuple[str, float], float]]:
    """Tensor name -> the method (and percentile) whose range does less damage than the recipe's, and that damage.

    Args:
        sources, damages: what `sensitivities` found; the TRIED worst tensors are looked at.
        methods: the alternatives.

    Complexity: at most TRIED * (1 + len(methods)) models on the samples of `distance`.
    """
    if not methods:
        return {}
    order = sorted((i for i, s in enumerate(sources) if s.grid is not None), key=lambda i: -damages[i])[:TRIED]
    found: dict[str, tuple[tuple[str, float], float]] = {}
    places = dict(zip(order, starts(quantizer.model, [sources[i] for i in order]), strict=True))
    partial = PartialRuns(quantizer.model, distance.feeds, executor, list(places.values()))
    for number, index in enumerate(order):
        progress(number, len(order))
        source = sources[index]
        assert source.grid is not None
        own = quantizer.grid_by(source.name, quantizer.recipe.method, quantizer.recipe.percentile)
        if not own.equals(source.grid):
            continue  # a tensor that shares its grid does not decide its range alone
        grids = {(quantizer.recipe.method, quantizer.recipe.percentile): own}
        for method, percentile in methods:
            grid = quantizer.grid_by(source.name, method, percentile)
            if not any(grid.equals(g) for g in grids.values()):
                grids[method, percentile] = grid
        if len(grids) < 2:
            continue
        lost = {
            key: distance(partial.run(simulated(quantizer.model, [replace(source, grid=g)]), places[index]))
            for key, g in grids.items()
        }
        best = min(lost, key=lambda key: lost[key])
        if lost[best] < _WORTH * lost[quantizer.recipe.method, quantizer.recipe.percentile]:
            found[source.name] = best, lost[best]
    return found


def refined(
    quantizer: Quantizer,
    chosen: Mapping[str, tuple[str, float]] = {},
    observed: Mapping[str, Observed] | None = None,
) -> Quantizer:
    """A quantizer with other ranges for some tensors, or other observations of all (None: the same)."""
    return Quantizer(
        quantizer.model,
        quantizer.target,
        lambda names, axes: quantizer.observed if observed is None else observed,
        quantizer.recipe,
        {**quantizer.chosen, **chosen},
        weights=quantizer.weights,
    )


__all__ = ["TRIED", "better_ranges", "refined"]
