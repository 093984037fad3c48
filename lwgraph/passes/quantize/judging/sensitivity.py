"""Measures the damage of each tensor's grid and each layer's rounded weights at the network's output.

Noise sources are simulated in the float model: a tensor passes through its grid and back, or a weight is replaced by
what its integers mean. A bounded number of runs: neighbours are first measured together, and the groups that do most
damage are split until the runs are spent. Within a group that is not split, damage is shared out by the sources' local
noise. Damages of independent small errors add up (Zhou et al. 2018, "Adaptive Quantization for Deep Neural Network").
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lwgraph import ir
from lwgraph.calibrate.partial_runs import PartialRuns
from lwgraph.executor import Executor
from lwgraph.measure.distance import Distance
from lwgraph.passes.quantize.graph.emit import IntegerConstants
from lwgraph.passes.quantize.grids.grid import Grid


@dataclass(frozen=True)
class ErrorSource:
    """One cause of error: a tensor's grid (`weights` None) or the rounded weights of a node.

    `local` is its relative squared error where it arises; damage within a group is shared out by it.
    """

    name: str
    grid: Grid | None = None
    weights: IntegerConstants | None = None
    local: float = 1.0


def sensitivities(
    model: ir.Model,
    sources: Sequence[ErrorSource],
    distance: Distance,
    executor: Executor,
    runs: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[float]:
    """The distance of the outputs that each source alone causes, in the order of `sources` (graph order).

    Args:
        model: the float model that names the tensors and nodes; it is not changed.
        runs: how many variants of the model may be measured.

    Complexity: at most `runs` sessions, each run on the samples of `distance` from its first source on.
    """
    found = [0.0] * len(sources)
    if not sources or runs < 1:
        return found
    measured = 0
    places = starts(model, sources)
    partial = PartialRuns(model, distance.feeds, executor, places)

    def measure(start: int, stop: int) -> float:
        nonlocal measured
        measured += 1
        progress(measured, runs)
        return distance(partial.run(simulated(model, sources[start:stop]), min(places[start:stop])))

    first = min(len(sources), max(1, runs // 3 if runs < len(sources) else runs))
    edges = np.linspace(0, len(sources), first + 1).round().astype(int)
    queue: list[tuple[float, int, int]] = []
    for start, stop in itertools.pairwise(edges):
        heapq.heappush(queue, (-measure(int(start), int(stop)), int(start), int(stop)))
    done: list[tuple[float, int, int]] = []
    while queue:
        damage, start, stop = heapq.heappop(queue)
        if stop - start < 2 or measured + 2 > runs:
            done.append((damage, start, stop))
            continue
        middle = (start + stop) // 2
        for a, b in ((start, middle), (middle, stop)):
            heapq.heappush(queue, (-measure(a, b), a, b))
    for damage, start, stop in done:
        local = np.array([max(s.local, 1e-12) for s in sources[start:stop]])
        for index, share in enumerate(local / local.sum()):
            found[start + index] = float(-damage * share)
    return found


def starts(model: ir.Model, sources: Sequence[ErrorSource]) -> list[int]:
    """The number of the first node, per source, that it changes or that reads what it changes."""
    numbers = {node: index for index, node in enumerate(model.graph)}
    layers = {node.name: index for node, index in numbers.items()}
    values = {v.name: v for v in model.graph.inputs} | {v.name: v for node in model.graph for v in node.outputs}
    found = []
    for source in sources:
        if source.weights is not None:
            found.append(layers[source.name])
            continue
        value = values.get(source.name)
        readers = [] if value is None else [numbers.get(use.node, 0) for use in value.uses()]
        found.append(min(readers, default=0))
    return found


def simulated(model: ir.Model, sources: Sequence[ErrorSource]) -> ir.Model:
    """A float copy of `model` with the errors of some sources."""
    copy = ir.clone(model)
    values = {v.name: v for v in copy.graph.inputs}
    values |= {v.name: v for node in copy.graph for v in node.outputs}
    nodes = {node.name: node for node in copy.graph}
    for source in sources:
        if source.weights is not None:
            _round(copy, nodes[source.name], source.weights)
        elif source.grid is not None and (value := values.get(source.name)) is not None:
            _pass_through(copy.graph, value, source.grid)
    return copy


def _round(model: ir.Model, node: ir.Node, weights: IntegerConstants) -> None:
    graph = model.graph
    real = weights.grid.decode(weights.integers, np.float32)
    node.replace_input_with(1, ir.add_initializer(graph, real, f"{node.name}_rounded"))
    if weights.bias is not None:
        if len(node.inputs) < 3:
            node.resize_inputs(3)
        node.replace_input_with(2, ir.add_initializer(graph, weights.bias.astype(np.float32), f"{node.name}_shifted"))
    for name in ("alpha", "beta"):  # a Gemm's factors are in its weights already
        if node.op_type == "Gemm":
            node.attributes.pop(name, None)


def _pass_through(graph: ir.Graph, value: ir.Value, grid: Grid) -> None:
    """value -> Q -> DQ -> LeakyRelu with slope 1 -> its readers.

    The identity keeps a runtime from making integer kernels of float ones or rounding their weights.
    """
    uses = list(value.uses())
    if not uses:
        return
    scale = ir.add_initializer(graph, grid.scale, f"{value.name}_grid_scale")
    zero = ir.add_initializer(graph, grid.zero.astype(grid.dtype.numpy()), f"{value.name}_grid_zero", dtype=grid.dtype)
    slope = ir.Attr("alpha", ir.AttributeType.FLOAT, 1.0)
    q = ir.Node("", "QuantizeLinear", [value, scale, zero], name=ir.fresh_name(graph, f"{value.name}_to_grid"))
    dq = ir.Node("", "DequantizeLinear", [q.outputs[0], scale, zero], name=ir.fresh_name(graph, f"{value.name}_grid"))
    stop = ir.Node("", "LeakyRelu", [dq.outputs[0]], [slope], name=ir.fresh_name(graph, f"{value.name}_on_grid"))
    for node in (q, dq, stop):
        node.outputs[0].name = ir.fresh_name(graph, f"{node.name}_value")
        node.outputs[0].shape = value.shape
        node.outputs[0].dtype = grid.dtype if node is q else ir.DataType.FLOAT
    maker = value.producer()
    if maker is not None:
        graph.insert_after(maker, [q, dq, stop])
    else:
        graph.insert_before(graph[0], [q, dq, stop])
    for use in uses:
        use.node.replace_input_with(use.idx, stop.outputs[0])


__all__ = ["ErrorSource", "sensitivities", "simulated", "starts"]
