"""Streaming capture: values of a running model, sample by sample, never more of them at once than a stated size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.errors import ModelError
from lwgraph.executor import Executor, Feeds, ready_sooner, untimed

ACTIVATION_BYTES = 256 << 20


def measured_shapes(
    model: ir.Model, names: Sequence[str], feeds: Feeds, executor: Executor
) -> dict[str, tuple[int, ...]]:
    """The shapes that values of the main graph have for one feed, without holding the values.

    The model is run with a Shape node on each value as the only outputs.

    Raises:
        ModelError: a name is not a tensor value of the main graph, or the model cannot run.
    """
    known = main_values(model)
    for name in names:
        if name not in known:
            raise ModelError(f"'{name}' is not a value of the model's main graph and cannot be captured")
    if not names:
        return {}
    probe = ir.clone(model)
    graph, values = probe.graph, main_values(probe)
    outputs: dict[str, str] = {}
    for name in dict.fromkeys(names):
        node = ir.Node("", "Shape", [values[name]])
        out = node.outputs[0]
        out.name = ir.fresh_name(graph, f"{name}_shape")
        out.dtype = ir.DataType.INT64
        graph.append(node)
        outputs[name] = out.name
    found = ready_sooner(executor).prepare(probe, list(outputs.values()))(feeds)
    return {name: tuple(int(d) for d in found[out]) for name, out in outputs.items()}


def grouped(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """Indices in order, cut into consecutive groups of at most `limit` in total; a single larger one stands alone."""
    groups: list[list[int]] = []
    used = limit + 1
    for index, size in enumerate(sizes):
        if used + size > limit:
            groups.append([])
            used = 0
        groups[-1].append(index)
        used += size
    return groups


def capture(
    model: ir.Model,
    names: Sequence[str],
    feeds: Iterable[Feeds],
    executor: Executor,
    *,
    activation_bytes: int = ACTIVATION_BYTES,
    shapes: Mapping[str, Sequence[int]] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[int, dict[str, Array]]]:
    """Run the model on every feed and yield (feed number, {name: array}) with the values of one run at a time.

    Where the values of one feed together exceed `activation_bytes`, they are captured in several passes over the
    feeds, so a feed number comes once per pass with different names. Measured for the largest feed.

    Args:
        model: the model; it is not changed.
        names: values of the main graph, inputs and intermediates included.
        feeds: iterated once to find the largest, and once per pass.
        executor: what runs it.
        activation_bytes: bound on the values held at once.
        shapes: of the values on the largest feed, where they are known already; None: measured by one run.
        progress: called with (runs done, runs in all).
    """
    names = list(dict.fromkeys(names))
    count, largest = 0, None
    for feed in feeds:
        count += 1
        if largest is None or _size(feed) > _size(largest):
            largest = feed
    if largest is None or not names:
        return
    shapes = measured_shapes(model, names, largest, executor) if shapes is None else shapes
    groups = grouped([4 * math.prod(shapes[name]) for name in names], activation_bytes)
    done = 0
    for group in groups:
        run = untimed(executor).prepare(model, [names[i] for i in group])
        for index, feed in enumerate(feeds):
            yield index, run(feed)
            done += 1
            progress(done, count * len(groups))


def _size(feeds: Feeds) -> int:
    return sum(np.asarray(array).nbytes for array in feeds.values())


def main_values(model: ir.Model) -> dict[str, ir.Value]:
    """The values of the main graph by name: those that an executor can return, unlike the ones in bodies."""
    graph = model.graph
    found = {v.name: v for v in (*graph.inputs, *graph.initializers.values()) if v.name}
    found |= {v.name: v for node in graph for v in node.outputs if v.name}
    return found
