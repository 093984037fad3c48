"""The ranges of activations, from one streaming run in which no activation leaves the executor.

The model is copied and instrumented: every observed tensor gets nodes that compute its exact extremes and a sample of
its elements, and only those become outputs. The executor frees each activation after its last use, as always.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array, Floats
from lwgraph.calibrate.capture import main_values, measured_shapes
from lwgraph.calibrate.histogram import BINS, Histogram
from lwgraph.calibrate.thresholds import METHODS, Range, choose_range
from lwgraph.errors import DataError, ModelError
from lwgraph.executor import Executor, Feeds, untimed

LARGEST = 1e19  # masks are filled with infinity or float32's largest number; the square of such leaves float32
SAMPLES = 1 << 13  # elements of a tensor counted per run
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)


@dataclass
class Observed:
    """Statistics of one tensor over all runs.

    Attributes:
        histogram: sampled elements; its `low` and `high` are the exact extremes over all elements of all runs.
        runs: in how many runs it was not empty and held finite values only.
        unfit: what a run found that has no range: "-inf", "inf", "nan", or a number beyond LARGEST; "" where all have.
        channel_low, channel_high: (C,) exact extremes per channel, when asked for.
        channel_mean, channel_square: (C,) mean and mean square per channel over all elements, when asked for.
    """

    histogram: Histogram = field(default_factory=Histogram)
    runs: int = 0
    unfit: str = ""
    low_sum: float = 0.0
    high_sum: float = 0.0
    channel_low: Floats | None = None
    channel_high: Floats | None = None
    channel_sum: Floats | None = None
    channel_power: Floats | None = None
    channel_count: float = 0.0

    def range(self, method: str = "minmax", **options: Any) -> Range:
        """The range by one of METHODS; see `choose_range` for the options."""
        average = (self.low_sum / self.runs, self.high_sum / self.runs) if self.runs else None
        return choose_range(self.histogram, method, average=average, **options)

    @property
    def rangeless(self) -> str:
        """Why there is no range, to follow the tensor's name; "" where there is one."""
        if self.unfit:
            return f"holds {self.unfit} on the data"
        return "" if self.runs else "was empty in every sample"

    @property
    def channel_mean(self) -> Floats | None:
        """(C,) mean of each channel over all its elements in all runs."""
        return None if self.channel_sum is None else self.channel_sum / max(self.channel_count, 1.0)

    @property
    def channel_square(self) -> Floats | None:
        """(C,) mean square of each channel over all its elements in all runs."""
        return None if self.channel_power is None else self.channel_power / max(self.channel_count, 1.0)

    def merge(self, other: Observed) -> None:
        """Let this stand for both tensors: what a quantizer shared by the two has to represent."""
        self.histogram.merge(other.histogram)
        self.unfit = self.unfit or other.unfit
        if other.runs:
            runs = max(self.runs, 1)
            low = min(self.low_sum / runs, other.low_sum / other.runs)
            high = max(self.high_sum / runs, other.high_sum / other.runs)
            self.runs, self.low_sum, self.high_sum = runs, low * runs, high * runs


def float_values(model: ir.Model) -> list[str]:
    """Names of the floating-point tensors of the main graph that are computed or fed, in graph order."""
    values = [v for v in model.graph.inputs if v.name not in model.graph.initializers]
    values += [v for node in model.graph for v in node.outputs if ir.operator(node) != "Constant"]
    return [v.name for v in values if v.name and _is_float(v)]


def _is_float(value: ir.Value) -> bool:
    """Whether a value is a floating-point tensor: a sequence or an optional has the type of what it holds."""
    return isinstance(value.type, ir.TensorType) and value.dtype in _FLOATS


def collect(
    model: ir.Model,
    feeds: Iterable[Feeds],
    executor: Executor,
    values: Sequence[str] | None = None,
    *,
    channels: dict[str, int] | None = None,
    extremes: Collection[str] | None = None,
    samples: int = SAMPLES,
    bins: int = BINS,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
    into: Mapping[str, Observed] | None = None,
) -> dict[str, Observed]:
    """Run `model` over `feeds` once and observe `values` (default: every float tensor of the main graph).

    A run in which a tensor holds what has no range, as masks do by design, adds nothing but `unfit` to what is known.

    Memory: 8 * bins bytes per tensor beside one run of the executor, however many feeds there are.

    Args:
        model: it is not changed.
        channels: for these tensors also the extremes, the mean and the mean square per index of the given axis.
        extremes: the tensors of which more than the mean is wanted; None: all.
        samples: elements counted per tensor and run, at stratified random positions; the extremes are always exact.
            0: none, which is much less work where only the extremes choose the range.
        progress: called with the number of finished runs.
        into: what earlier runs of this model found about the same values; it is carried on, in place.

    Raises:
        ModelError: a value does not exist or is not floating point.
        DataError: there are no feeds.
    """
    names = list(float_values(model) if values is None else dict.fromkeys(values))
    observed = {name: Observed(Histogram(bins)) if into is None else into[name] for name in names}
    more = frozenset(channels or {}) if extremes is None else frozenset(extremes)
    run: Callable[[Feeds], dict[str, Array]] | None = None
    careful, done = False, 0
    executor = untimed(executor)
    for feed in feeds:
        if run is None:
            others = _other_axes(model, channels or {}, feed, executor)
            run = _ObservedModel(model, names, others, samples, seed, careful, more).prepare(executor)
        try:
            results = run(feed)
        except DataError:
            if careful:
                raise
            # An empty tensor has no extremes and stops the run; the careful probe pads every tensor with a zero.
            careful = True
            run = _ObservedModel(model, names, others, samples, seed, careful, more).prepare(executor)
            results = run(feed)
        for index, name in enumerate(names):
            _count(observed[name], index, results)
        done += 1
        progress(done)
    if not done:
        raise DataError("there is no calibration data; at least one sample is needed")
    return observed


def _other_axes(model: ir.Model, channels: dict[str, int], feed: Feeds, executor: Executor) -> dict[str, list[int]]:
    """The axes beside that of the channels, by tensor; where shape inference does not know the rank, a run tells it."""
    known = {name: value for name, value in main_values(model).items() if name in channels}
    ranks = {name: len(value.shape) for name, value in known.items() if value.shape is not None}
    unknown = [name for name in known if name not in ranks]
    ranks |= {name: len(sizes) for name, sizes in measured_shapes(model, unknown, feed, executor).items()}
    for name, rank in ranks.items():
        if not -rank <= channels[name] < rank:
            raise ModelError(f"'{name}' has {rank} axes, so no axis {channels[name]} of channels")
    return {name: [axis for axis in range(rank) if axis != channels[name] % rank] for name, rank in ranks.items()}


def _count(seen: Observed, index: int, results: dict[str, Array]) -> None:
    size = int(results[f"{_PREFIX}{index}.size"])
    if size == 0:
        return
    low, high = float(results[f"{_PREFIX}{index}.low"]), float(results[f"{_PREFIX}{index}.high"])
    # ReduceMin and ReduceMax pass over some NaN; no sum does.
    for found in (low, high, float(results[f"{_PREFIX}{index}.mean"])):
        if not abs(found) <= LARGEST:
            seen.unfit = f"{found:g}"
            return
    seen.histogram.extend(low, high)
    sample = results.get(f"{_PREFIX}{index}.sample")
    if sample is not None:
        seen.histogram.add(sample)
    seen.runs += 1
    seen.low_sum, seen.high_sum = seen.low_sum + low, seen.high_sum + high
    if f"{_PREFIX}{index}.means" not in results:
        return
    means = results[f"{_PREFIX}{index}.means"].astype(np.float64)
    share = size / max(len(means), 1)
    seen.channel_sum = means * share + (0.0 if seen.channel_sum is None else seen.channel_sum)
    if f"{_PREFIX}{index}.lows" in results:
        lows, highs, powers = (
            results[f"{_PREFIX}{index}.{key}"].astype(np.float64) for key in ("lows", "highs", "powers")
        )
        seen.channel_low = lows if seen.channel_low is None else np.minimum(seen.channel_low, lows)
        seen.channel_high = highs if seen.channel_high is None else np.maximum(seen.channel_high, highs)
        seen.channel_power = powers if seen.channel_power is None else seen.channel_power + powers
    seen.channel_count += share


_PREFIX = "lwgraph.observe."


class _ObservedModel:
    """A copy of a model whose outputs are the extremes and samples of some of its tensors."""

    def __init__(
        self,
        model: ir.Model,
        names: Sequence[str],
        others: dict[str, list[int]],
        samples: int,
        seed: int,
        careful: bool,
        more: Collection[str] = (),
    ) -> None:
        self.model, self.samples = ir.clone(model), samples
        graph = self.model.graph
        known = {v.name: v for v in graph.inputs} | {v.name: v for node in graph for v in node.outputs}
        self.outputs: list[str] = []
        # Stratified positions in [0, 1): float64, for tensors of more than 2^24 elements.
        positions = (np.arange(samples) + np.random.default_rng(seed).random(samples)) / max(samples, 1)
        arrays: dict[str, Array] = {
            "positions": positions,
            "flat": np.array([-1], np.int64),
            "zero": np.zeros(1, np.float32),
        }
        self.constants = {key: ir.add_initializer(graph, array, f"{_PREFIX}{key}") for key, array in arrays.items()}
        version = graph.opset_imports.get("", 1)
        for index, name in enumerate(names):
            value = known.get(name)
            if value is None or not _is_float(value):
                raise ModelError(f"'{name}' is not a floating-point tensor computed or fed in the main graph")
            self._observe(index, value, careful, version)
            if name in others:
                self._channels(index, value, others[name], version, name in more)

    def prepare(self, executor: Executor) -> Callable[[Feeds], dict[str, Array]]:
        """The instrumented model, ready to run."""
        return executor.prepare(self.model, outputs=self.outputs)

    def _node(self, kind: str, inputs: list[ir.Value], name: str = "", **attributes: Any) -> ir.Value:
        made = [
            ir.Attr(key, ir.AttributeType.INTS if isinstance(item, list) else ir.AttributeType.INT, item)
            for key, item in attributes.items()
        ]
        node = ir.Node("", kind, inputs, made, name=ir.fresh_name(self.model.graph, f"{_PREFIX}{kind}"))
        self.model.graph.append(node)
        output = node.outputs[0]
        output.name = f"{_PREFIX}{name}" if name else ir.fresh_name(self.model.graph, f"{_PREFIX}value")
        if name:
            self.outputs.append(output.name)
        return output

    def _observe(self, index: int, value: ir.Value, careful: bool, version: int) -> None:
        if value.dtype != ir.DataType.FLOAT:
            value = self._node("Cast", [value], to=int(ir.DataType.FLOAT))
        size = self._node("Size", [value], f"{index}.size")
        flat = value
        if careful or self.samples or not value.shape:  # flattening may copy; a scalar has no axis to reduce
            flat = self._node("Reshape", [value, self.constants["flat"]])
        if careful:
            flat = self._node("Concat", [flat, self.constants["zero"]], axis=0)
        self._node("ReduceMin", [flat], f"{index}.low", keepdims=0)
        self._node("ReduceMax", [flat], f"{index}.high", keepdims=0)
        self._node("ReduceMean", [flat], f"{index}.mean", keepdims=0)
        if not self.samples:
            return
        scale = self._node("Cast", [size], to=int(ir.DataType.DOUBLE))
        places = self._node("Mul", [self.constants["positions"], scale])
        # Of one axis both are the same, and ONNX Runtime takes a fifth of the time for the former.
        kind = "GatherElements" if version >= 11 else "Gather"
        self._node(kind, [flat, self._node("Cast", [places], to=int(ir.DataType.INT64))], f"{index}.sample")

    def _channels(self, index: int, value: ir.Value, axes: list[int], version: int, more: bool) -> None:
        if value.dtype != ir.DataType.FLOAT:
            value = self._node("Cast", [value], to=int(ir.DataType.FLOAT))
        if not axes:  # no axes given would mean all of them
            for key in ("lows", "highs", "means") if more else ("means",):
                self._node("Identity", [value], f"{index}.{key}")
            if more:
                self._node("Mul", [value, value], f"{index}.powers")
            return
        for kind, key in (
            ("ReduceMin", "lows"),
            ("ReduceMax", "highs"),
            ("ReduceMean", "means"),
            ("ReduceSumSquare", "powers"),
        ):
            if not more and key != "means":
                continue
            if version >= 18:
                given = ir.add_initializer(self.model.graph, np.array(axes, np.int64), f"{_PREFIX}axes")
                self._node(kind, [value, given], f"{index}.{key}", keepdims=0)
            else:
                self._node(kind, [value], f"{index}.{key}", axes=axes, keepdims=0)


__all__ = ["METHODS", "SAMPLES", "Observed", "Range", "collect", "float_values"]
