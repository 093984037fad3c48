"""Local verification of a rewritten region: cut it out, run it on real and on adversarial inputs, compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.contract import Contract
from lwgraph.errors import CheckError, LwgraphError
from lwgraph.measure.compare import Difference, compare
from lwgraph.measure.tolerances import Tolerance

if TYPE_CHECKING:
    from lwgraph.executor import Executor, Feeds

ERROR_SLACK = 0.05  # share by which the error may exceed the prediction: weights and sums round in float32
ERROR_FLOOR = 1e-9  # relative squared error that rounding alone may leave where 0 is predicted


@dataclass(frozen=True)
class RegionFailure:
    """The input on which two regions differ most beyond the tolerance: its kind and the difference."""

    kind: str
    difference: Difference

    def __str__(self) -> str:
        return f"on {self.kind} input, value {self.difference}"


def adversarial(feeds: Mapping[str, Array], seed: int = 0) -> Iterator[tuple[str, dict[str, Array]]]:
    """Inputs like `feeds` in shape and dtype that random data would miss: (kind, feeds).

    Large and tiny values, a constant, zeros, a single one in the middle and in each corner of the last axes, nothing
    but the border, and alternating signs. Integer inputs keep their values, since they may be indices.
    """
    scale = (
        max((float(np.abs(a[np.isfinite(a)]).max(initial=0)) for a in feeds.values() if _floating(a)), default=0) or 1.0
    )
    random = np.random.default_rng(seed)

    def each(make: Callable[[Array], Array]) -> dict[str, Array]:
        return {name: make(a).astype(a.dtype) if _floating(a) and a.size else a for name, a in feeds.items()}

    yield "large", each(lambda a: random.standard_normal(a.shape) * scale * (30.0 if a.dtype.itemsize < 4 else 1e3))
    yield "tiny", each(lambda a: random.standard_normal(a.shape) * scale * 1e-4)
    yield "constant", each(lambda a: np.full(a.shape, scale))
    yield "zero", each(lambda a: np.zeros(a.shape))
    for where in ("middle", "first", "last"):
        yield f"one-hot ({where})", each(lambda a, where=where: _one_hot(a.shape, where, scale))  # type: ignore[misc]
    yield "border", each(lambda a: _border(random.standard_normal(a.shape) * scale))
    yield "alternating", each(lambda a: scale * (1.0 - 2.0 * (np.indices(a.shape).sum(0) % 2)))


def _floating(a: Array) -> bool:
    return bool(a.dtype.kind == "f" or a.dtype.name == "bfloat16")


def _one_hot(shape: tuple[int, ...], where: str, value: float) -> Array:
    a = np.zeros(shape)
    a[tuple({"middle": n // 2, "first": 0, "last": n - 1}[where] for n in shape)] = value
    return a


def _border(a: Array) -> Array:
    """Zero except on the first and last element of the axes after the second (of a matrix: of the last one)."""
    inner = tuple(slice(None) if i < min(2, a.ndim - 1) else slice(1, -1) for i in range(a.ndim))
    a[inner] = 0
    return a


def compare_regions(
    truth: ir.Model,
    candidate: ir.Model,
    executor: Executor,
    samples: Iterable[Feeds],
    contract: Contract,
    *,
    tolerances: Callable[[np.dtype[Any]], Tolerance] | None = None,
    seed: int = 0,
) -> RegionFailure | None:
    """Run two regions with the same inputs and outputs on `samples` and on adversarial inputs made from the first.

    Args:
        truth: what the candidate must equal, such as the dense layer that a form promises to be.
        candidate: what stands in the model.
        executor: runs both, usually the reference executor with `precise`.
        samples: captured inputs of the region, at least one.
        contract: how equal they must be.
        tolerances: replaces the table.
        seed: of the adversarial inputs.

    Returns:
        the failure that exceeds its tolerance most, or None.

    Raises:
        CheckError: there are no samples.
        LwgraphError: a region cannot be run.
    """
    runs = executor.prepare(truth), executor.prepare(candidate)
    captured = list(samples)
    if not captured:
        raise CheckError("a region cannot be verified without samples of its inputs; at least 1 is needed")
    worst: RegionFailure | None = None
    first = {name: np.asarray(array) for name, array in captured[0].items()}
    cases = [(f"captured (sample {i})", feeds) for i, feeds in enumerate(captured)]
    for kind, feeds in [*cases, *adversarial(first, seed)]:
        found = compare(runs[0](feeds), runs[1](feeds), contract, tolerances=tolerances)
        failed = found.worst
        if not found.ok and failed is not None and (worst is None or failed.excess > worst.difference.excess):
            worst = RegionFailure(kind, failed)
    return worst


def relative_error(
    truth: ir.Model, candidate: ir.Model, executor: Executor, samples: Iterable[Feeds], *, channel_axis: int = 1
) -> float:
    """||Y - Yhat||^2 / ||Y - mean Y||^2 of the first output over all samples; mean Y is per channel.

    float64 sums in one pass. 0 when Y is constant and equal, infinite when it is constant and differs.

    Raises:
        CheckError: there are no samples, or an output is not finite.
    """
    runs = executor.prepare(truth), executor.prepare(candidate)
    error, square, total, count = 0.0, 0.0, np.zeros(1), 0
    for feeds in samples:
        y, z = (np.asarray(next(iter(run(feeds).values())), np.float64) for run in runs)
        if y.shape != z.shape:
            raise CheckError(f"the regions' outputs have shapes {list(y.shape)} and {list(z.shape)}")
        if not (np.isfinite(y).all() and np.isfinite(z).all()):
            raise CheckError("a region's output has NaN or Inf, so its error cannot be measured")
        channels = np.moveaxis(y, channel_axis, 0).reshape(y.shape[channel_axis], -1)
        error += float(np.square(y - z).sum())
        square += float(np.square(y).sum())
        total = total + channels.sum(1)
        count += channels.shape[1]
    if not count:
        raise CheckError("an error cannot be measured without samples")
    variation = max(square - float(np.square(total).sum()) / count, 0.0)
    if variation <= 1e-15 * square:
        return 0.0 if error <= 1e-15 * max(square, 1.0) else math.inf
    return error / variation


def check_region(
    name: str,
    original: ir.Model,
    promised: ir.Model,
    emitted: ir.Model,
    executor: Executor,
    samples: Sequence[Feeds],
    contract: Contract,
    *,
    predicted: float | None = None,
    channel_axis: int = 1,
    seed: int = 0,
) -> float:
    """Verify an approximate rewrite where it stands, before the whole model is run.

    (1) The emitted nodes equal the promised dense equivalent within `contract` (ROUNDING), on captured and adversarial
    inputs. (2) The error against the original layer, measured on the captured inputs, is the predicted one.

    Args:
        name: of the site, for messages.
        original: the layer; see `extract_region`.
        promised: its dense equivalent.
        emitted: what replaced it.
        executor: runs all three.
        samples: inputs of the region. To test (2) they must be those that the prediction comes from.
        contract: of (1).
        predicted: relative squared error; None skips (2).
        channel_axis: of the output, for the mean in the error.
        seed: of the adversarial inputs.

    Returns:
        the measured relative squared error.

    Raises:
        CheckError: (1) or (2) fails, or a region does not run; the message names the site, the largest difference and
            its position. The caller undoes the rewrite.
    """
    try:
        failure = compare_regions(promised, emitted, executor, samples, contract, seed=seed)
        measured = relative_error(original, emitted, executor, samples, channel_axis=channel_axis)
    except CheckError:
        raise
    except LwgraphError as error:
        raise CheckError(f"site '{name}': the rewritten region does not run: {error}") from error
    if failure is not None:
        raise CheckError(f"site '{name}': the emitted nodes are not the promised layer: {failure}")
    if predicted is not None and not abs(measured - predicted) <= ERROR_SLACK * predicted + ERROR_FLOOR:
        raise CheckError(
            f"site '{name}': the relative squared error is {measured:.4g}, predicted was {predicted:.4g} "
            f"(allowed: {100 * ERROR_SLACK:.0f} % off)"
        )
    return measured


def extract_region(
    model: ir.Model, inputs: Sequence[str], outputs: Sequence[str], samples: Feeds | None = None
) -> ir.Model:
    """A model of the nodes between named values of the main graph; nothing is shared but the tensors' data.

    Args:
        model: it is not changed.
        inputs: values that become inputs.
        outputs: values that become outputs.
        samples: one sample of the inputs: gives types where the model records none.

    Raises:
        ModelError: a value does not exist, or an output depends on a graph input that is not among `inputs`.
    """
    region = ir.extract(model, inputs, outputs)
    for value in region.graph.inputs:
        value.shape = None if value.shape is None else ir.Shape([None] * len(value.shape))  # samples may be cut out
        if value.type is None and samples is not None and value.name and value.name in samples:
            value.type = ir.TensorType(ir.DataType.from_numpy(np.asarray(samples[value.name]).dtype))
    return region


__all__ = [
    "RegionFailure",
    "adversarial",
    "check_region",
    "compare_regions",
    "extract_region",
    "relative_error",
]
