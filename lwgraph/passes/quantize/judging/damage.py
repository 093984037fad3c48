"""Measures the damage of quantization to every tensor and layer, float against integers, on data, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array, slabs
from lwgraph.calibrate.capture import ACTIVATION_BYTES, grouped, main_values, measured_shapes
from lwgraph.errors import DataError
from lwgraph.executor import Executor, Feeds, untimed
from lwgraph.passes.quantize.grids.grid import LIMITS, Grid
from lwgraph.views.written import INT8, layers

SAMPLED = 1 << 16  # elements of a tensor looked at per sample, at stratified positions; extremes are exact
LAYERS = ir.LINEAR | ir.GATED
BINS, WORST = 32, 10  # of a histogram; layers that have one


@dataclass
class Histogram:
    """How often the values of a tensor fall into BINS equal parts of its grid's range.

    What lies beyond counts at the end that it is beyond of.

    Attributes:
        low, high: the ends of the range.
        real: of the float tensor.
        integer: of the quantized model's, decoded.
    """

    low: float
    high: float
    real: list[int]
    integer: list[int]


@dataclass
class TensorFacts:
    """One quantized activation. Decibels are 10 log10(signal power / error power); None: no error, or no signal.

    Attributes:
        low, high: the extremes of the float tensor.
        grid_low, grid_high: what its integers reach.
        saturated: share of its elements beyond the grid by more than half a step.
        used: share of the grid's range between the extremes.
        rounding: decibels of the float tensor put on the grid, nothing else changed.
        sqnr: decibels of the quantized model's tensor, with all that was lost before it.
    """

    name: str
    type: str
    low: float
    high: float
    grid_low: float
    grid_high: float
    scale: float
    zero: int
    saturated: float
    used: float
    rounding: float | None
    sqnr: float | None


@dataclass
class LayerFacts:
    """One dense layer.

    Attributes:
        precision: "integer" or "float".
        reason: why it stays in float.
        sqnr: decibels at its output, with all that was lost before it; None: not observable, or nothing lost.
        weight: decibels of its rounded weights; None: float weights.
        output: decibels at the model's outputs when only this layer is in integers; None: not measured.
        saturated: share of its output beyond the grid.
        float_ms, integer_ms: by the runtime's profile; None: not measured.
    """

    name: str
    op_type: str
    precision: str
    reason: str = ""
    sqnr: float | None = None
    weight: float | None = None
    output: float | None = None
    saturated: float | None = None
    float_ms: float | None = None
    integer_ms: float | None = None


@dataclass
class Damage:
    """The whole: `outputs` has the decibels of each output, `layers` stand in graph order.

    `histograms` are those of what the WORST layers put out, by the layer's name.
    """

    samples: int
    outputs: dict[str, float | None]
    layers: list[LayerFacts]
    tensors: list[TensorFacts]
    histograms: dict[str, Histogram] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as it stands in the report."""
        return asdict(self)

    def worst(self, count: int = 10) -> list[LayerFacts]:
        """The layers with the lowest `sqnr`, worst first."""
        return sorted((n for n in self.layers if n.sqnr is not None), key=lambda n: n.sqnr or 0.0)[:count]


@dataclass
class _TensorSums:
    signal: float = 0.0
    rounded: float = 0.0
    lost: float = 0.0
    beyond: int = 0
    count: int = 0
    low: float = math.inf
    high: float = -math.inf
    positions: dict[int, Array] = field(default_factory=dict)
    real: Array = field(default_factory=lambda: np.zeros(BINS, np.int64))
    integer: Array = field(default_factory=lambda: np.zeros(BINS, np.int64))


def pairs_of(original: ir.Model, quantized: ir.Model) -> dict[str, tuple[str, Grid]]:
    """Float tensor -> its integer tensor and grid, for a QDQ model whose tensors are named as in the float model.

    Any tool's model will do: a tensor that QuantizeLinear reads under the name that it has in the float model. Where
    the tool moved a Relu into a range, the tensor before it is meant, and its integers saturate at zero. Blocked and
    per-channel activations, and dynamic ones, are left out.
    """
    known = {v.name for v in original.graph.inputs} | {v.name for node in original.graph for v in node.outputs}
    found = {}
    for node in quantized.graph:
        if ir.operator(node) != "QuantizeLinear" or node.inputs[0] is None or node.inputs[0].name not in known:
            continue
        scale = ir.constant(node.inputs[1])
        zero = ir.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
        if scale is None or scale.size != 1:
            continue
        dtype = ir.constant_dtype(node.inputs[2]) if zero is not None else ir.DataType.UINT8
        kind = dtype.name.lower() if dtype is not None else "uint8"
        if kind in LIMITS:
            whole = np.array(0 if zero is None else zero, np.int64).reshape(())
            grid = Grid(kind, np.asarray(scale, np.float32).reshape(()), whole)
            found[node.inputs[0].name or ""] = (node.outputs[0].name or "", grid)
    return found


def measure(
    original: ir.Model,
    quantized: ir.Model,
    feeds: Sequence[Feeds],
    executor: Executor,
    pairs: Mapping[str, tuple[str, Grid]] | None = None,
    *,
    activation_bytes: int = ACTIVATION_BYTES,
    seed: int = 0,
) -> Damage:
    """Compare a float model with its quantized version, tensor by tensor.

    Both run on every feed as often as it takes to return all tensors in portions of `activation_bytes`; of each tensor
    at most SAMPLED elements per feed are compared. The integers themselves are asked for, so the quantized model
    computes with the kernels that it will compute with.

    Args:
        original: the float model.
        quantized: a QDQ model whose tensors are named after the float model's.
        feeds: at least one.
        executor: runs both.
        pairs: float tensor -> (integer tensor, grid); None: see `pairs_of`. Those that one of the models lacks are left
            out.

    Raises:
        DataError: there are no feeds.
    """
    if not feeds:
        raise DataError("there is no sample to compare the float model and the quantized one on; at least 1 is needed")
    pairs = pairs_of(original, quantized) if pairs is None else pairs
    there, now = main_values(original), main_values(quantized)  # a part of an opened activation is in one of them only
    pairs = {name: pair for name, pair in pairs.items() if name in there and pair[0] in now}
    sums = _observe(original, quantized, feeds, executor, pairs, activation_bytes, seed)
    tensors = {name: _tensor(name, sums[name], pairs[name][1]) for name in pairs if sums[name].count}
    outputs = _outputs(original, quantized, feeds, executor)
    found = _layers(original, quantized, tensors, outputs)
    damage = Damage(len(feeds), outputs, found, list(tensors.values()))
    ends = {node.name or node.outputs[0].name: _end(node, tensors) for node in original.graph}
    for layer in damage.worst(WORST):
        tensor = ends.get(layer.name)
        if tensor is not None:
            own = sums[tensor.name]
            counts = own.real.tolist(), own.integer.tolist()
            damage.histograms[layer.name] = Histogram(tensor.grid_low, tensor.grid_high, *counts)
    return damage


def _observe(
    original: ir.Model,
    quantized: ir.Model,
    feeds: Sequence[Feeds],
    executor: Executor,
    pairs: Mapping[str, tuple[str, Grid]],
    activation_bytes: int,
    seed: int,
) -> dict[str, _TensorSums]:
    names = list(pairs)
    sums = {name: _TensorSums() for name in names}
    if not names:
        return sums
    shapes = measured_shapes(original, names, max(feeds, key=_size), executor)
    executor = untimed(executor)
    for group in grouped([4 * math.prod(shapes[name]) for name in names], activation_bytes):
        portion = [names[i] for i in group]  # several may be the same integers, on grids of their own
        floats = executor.prepare(original, portion)
        integers = executor.prepare(quantized, list(dict.fromkeys(pairs[name][0] for name in portion)))
        for index, feed in enumerate(feeds):
            truth, found = floats(feed), integers(feed)
            for name in portion:
                integer, grid = pairs[name]
                _add(sums[name], np.asarray(truth[name]), np.asarray(found[integer]), grid, seed + index)
    return sums


def _size(feed: Feeds) -> int:
    return sum(np.asarray(array).nbytes for array in feed.values())


def _add(sums: _TensorSums, real: Array, q: Array, grid: Grid, seed: int) -> None:
    if not real.size:
        return
    sums.low, sums.high = min(sums.low, float(real.min())), max(sums.high, float(real.max()))
    at = _positions(real.size, seed)
    x, y = real.reshape(-1)[at].astype(np.float64), grid.decode(q.reshape(-1)[at].astype(np.int64))
    on_grid = grid.decode(grid.encode(x))
    low, high = grid.range()
    half = float(grid.scale) / 2
    sums.signal += float(np.square(x).sum())
    sums.rounded += float(np.square(x - on_grid).sum())
    sums.lost += float(np.square(x - y).sum())
    sums.beyond += int(((x < low - half) | (x > high + half)).sum())
    sums.count += len(x)
    if high > low:
        sums.real += _counts(x, low, high)
        sums.integer += _counts(y, low, high)


def _counts(values: Array, low: float, high: float) -> Array:
    """How many of the finite values are in each of BINS parts."""
    finite = values[np.isfinite(values)]
    at = np.clip((finite - low) * (BINS / (high - low)), 0, BINS - 1).astype(np.int64)
    return np.bincount(at, minlength=BINS)


def _positions(size: int, seed: int) -> Array:
    """All positions, or SAMPLED of them, one at random in each of as many equal stretches."""
    if size <= SAMPLED:
        return np.arange(size)
    return ((np.arange(SAMPLED) + np.random.default_rng(seed).random(SAMPLED)) * (size / SAMPLED)).astype(np.int64)


def _tensor(name: str, sums: _TensorSums, grid: Grid) -> TensorFacts:
    low, high = grid.range()
    inside = max(min(sums.high, high) - max(sums.low, low), 0.0)
    return TensorFacts(
        name,
        grid.type,
        sums.low,
        sums.high,
        low,
        high,
        float(grid.scale),
        int(grid.zero),
        sums.beyond / sums.count,
        inside / (high - low),
        decibels(sums.signal, sums.rounded),
        decibels(sums.signal, sums.lost),
    )


def _outputs(
    original: ir.Model, quantized: ir.Model, feeds: Iterable[Feeds], executor: Executor
) -> dict[str, float | None]:
    executor = untimed(executor)
    runs = executor.prepare(original), executor.prepare(quantized)
    signal: dict[str, float] = {}
    lost: dict[str, float] = {}
    for feed in feeds:
        truth, found = (run(feed) for run in runs)
        for name, value in truth.items():
            if isinstance(value, list | dict):
                continue  # a sequence or a map
            y, z = np.asarray(value), np.asarray(found[name])
            if y.dtype.kind != "f" or y.shape != z.shape:
                continue
            fine = np.isfinite(y) & np.isfinite(z)
            y, z = y[fine].astype(np.float64), z[fine]
            signal[name] = signal.get(name, 0.0) + float(np.square(y).sum())
            lost[name] = lost.get(name, 0.0) + float(np.square(y - z).sum())
    return {name: decibels(signal[name], lost[name]) for name in signal}


def _layers(
    original: ir.Model, quantized: ir.Model, tensors: Mapping[str, TensorFacts], outputs: Mapping[str, float | None]
) -> list[LayerFacts]:
    now = {node.name: node for node in quantized.graph if node.name}
    written = {layer.name for layer in layers(quantized) if layer.precision == INT8}
    found = []
    for node in original.graph:
        if ir.operator(node) not in LAYERS:
            continue
        other = now.get(node.name or "")
        integer = other is not None and other.name in written
        facts = LayerFacts(node.name or node.outputs[0].name or "", node.op_type, "integer" if integer else "float")
        tensor = _end(node, tensors)
        if tensor is not None:
            facts.sqnr, facts.saturated = tensor.sqnr, tensor.saturated
        elif node.outputs[0].name in outputs:
            facts.sqnr = outputs[node.outputs[0].name or ""]
        if integer and other is not None:
            facts.weight = _weight(node, other)
        found.append(facts)
    return found


def _end(node: ir.Node, tensors: Mapping[str, TensorFacts]) -> TensorFacts | None:
    """The facts of a layer's output, or of what a single Relu or Clip makes of it."""
    value = node.outputs[0]
    while (value.name or "") not in tensors:
        users = list(value.consumers())
        if len(users) != 1 or ir.operator(users[0]) not in ("Relu", "Clip") or value.is_graph_output():
            return None
        value = users[0].outputs[0]
    return tensors[value.name or ""]


def _weight(node: ir.Node, other: ir.Node) -> float | None:
    """Decibels of the rounded weight against the float one."""
    real = ir.constant(node.inputs[1])
    value = other.inputs[1]
    maker = value.producer() if value is not None else None
    if real is None or maker is None or ir.operator(maker) != "DequantizeLinear":
        return None
    q, scale = ir.constant(maker.inputs[0]), ir.constant(maker.inputs[1])
    zero = ir.constant(maker.inputs[2]) if len(maker.inputs) > 2 else None
    if q is None or scale is None or q.shape != real.shape or ir.attribute(maker, "block_size", 0):
        return None
    shape = [1] * q.ndim
    if scale.size > 1:
        shape[ir.attribute(maker, "axis", 1)] = -1
    middle = np.zeros_like(scale, np.int64) if zero is None else zero.astype(np.int64)
    middle, steps = middle.reshape(shape), scale.astype(np.float64).reshape(shape)
    factor = ir.attribute(node, "alpha", 1.0) if node.op_type == "Gemm" else 1.0
    signal = error = 0.0
    for part in slabs(real.shape):
        own = part if shape[0] != 1 else np.s_[:]
        truth = real[part].astype(np.float64) * factor
        decoded = (q[part].astype(np.int64) - middle[own]) * steps[own]
        signal += float(np.square(truth).sum())
        error += float(np.square(truth - decoded).sum())
    return decibels(signal, error)


def decibels(signal: float, error: float) -> float | None:
    """10 log10(signal / error); None without an error or a signal."""
    return 10 * math.log10(signal / error) if signal > 0 and error > 0 else None


__all__ = [
    "BINS",
    "LAYERS",
    "SAMPLED",
    "WORST",
    "Damage",
    "Histogram",
    "LayerFacts",
    "TensorFacts",
    "decibels",
    "measure",
    "pairs_of",
]
