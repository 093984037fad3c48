"""What each node takes in the cleaned model and in the result, and how the layers follow each other: for the report."""

from __future__ import annotations

from typing import Any

from lwgraph import ir
from lwgraph.executor import Executor, Feeds
from lwgraph.layers.site import find_sites
from lwgraph.measure.node_times import node_seconds

RUNS = 15  # of each model for its profile
STARTS = 0.3  # seconds to begin them
LONGEST = 200.0  # ms of a run of both up to which they are profiled
DISTURBED = 1.5  # of the milliseconds of a run: nodes that take more together were held up by other work


def layer_times(
    cleaned: ir.Model, result: ir.Model, feed: Feeds, executor: Executor, milliseconds: tuple[float, float]
) -> dict[str, Any]:
    """`details["layer_times"]`: "before" and "after" (node name -> [operator, ms]), empty where they are not known, and
    "edges": the pairs of layers of the cleaned model with no other layer between them.

    Args:
        cleaned: the model before layers were changed.
        result: as it is written.
        feed: for one run.
        executor: profiles both.
        milliseconds: of one run of each; 0 (not known, or no time for it) or more than LONGEST: none is profiled.
    """
    times: list[dict[str, Any]] = []
    if 0 < sum(milliseconds) <= LONGEST:
        times = [_times(executor, model, feed) for model in (cleaned, result)]
        sums = [sum(ms for _, ms in each.values()) for each in times]
        if any(found > DISTURBED * whole for found, whole in zip(sums, milliseconds, strict=True)):
            times = []
    before, after = times or ({}, {})
    return {"before": before, "after": after, "edges": edges(cleaned)}


def _times(executor: Executor, model: ir.Model, feed: Feeds) -> dict[str, Any]:
    seconds = node_seconds(executor, model, feed) or {}
    operators = {node.name or "": node.op_type for node in model.graph}
    return {name: [operators.get(name, ""), 1000 * each] for name, each in seconds.items() if each > 0}


def edges(model: ir.Model) -> list[tuple[str, str]]:
    """(layer, next layer) for all of the main graph, in graph order, whatever stands between two of them.

    Where values meet, each brings its latest layer alone: of a chain of residual blocks, every one would else be joined
    to all before it.
    """
    names = {site.node: site.name for site in find_sites(model)}
    place = {name: number for number, name in enumerate(names.values())}
    reached: dict[ir.Value, tuple[str, ...]] = {}
    found: dict[tuple[str, str], None] = {}
    for node in model.graph:
        brought = [reached[value] for value in node.inputs if value is not None and reached.get(value)]
        sources = brought[0] if len(brought) == 1 else tuple({max(each, key=place.__getitem__): 0 for each in brought})
        if node in names:
            found.update(dict.fromkeys((source, names[node]) for source in sources))
            sources = (names[node],)
        reached.update(dict.fromkeys(node.outputs, sources))
    return list(found)


__all__ = ["DISTURBED", "LONGEST", "RUNS", "STARTS", "edges", "layer_times"]
