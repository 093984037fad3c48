"""Ranges from streams: histograms that do not depend on order, thresholds against brute force, one-run collection."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from lwgraph import ir, registry
from lwgraph.calibrate.histogram import Histogram
from lwgraph.calibrate.ranges import collect, float_values
from lwgraph.calibrate.thresholds import METHODS, Range, choose_range, entropy_range, mse_range
from lwgraph.errors import DataError, ModelError, UsageError


def filled(*arrays: npt.ArrayLike, bins: int = 256) -> Histogram:
    histogram = Histogram(bins)
    for array in arrays:
        histogram.add(np.asarray(array, np.float32))
    return histogram


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=9), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_neither_the_order_nor_the_split_of_the_stream_matters(parts: list[list[float]], random: object) -> None:
    whole = filled([x for part in parts for x in part])
    streamed = filled(*reversed(parts))
    merged = Histogram(256)
    for part in parts:
        merged.merge(filled(part))
    for other in (streamed, merged):
        assert other.width == whole.width and other.zeros == whole.zeros
        assert (other.low, other.high) == (whole.low, whole.high)
        np.testing.assert_array_equal(other.counts, whole.counts)
    assert whole.total == sum(map(len, parts))


@pytest.mark.parametrize("number", [-1.401298464324817e-45, -1.1754942e-38, 1.401298464324817e-45])
def test_the_smallest_numbers_stay_on_their_side_of_zero(number: float) -> None:
    """Their quotient by a wide bin underflows."""
    whole, merged = filled([number, -131072.0]), filled([number])
    merged.merge(filled([-131072.0]))
    np.testing.assert_array_equal(whole.counts, merged.counts)
    assert whole.counts[:128].sum() == 1 + (number < 0)


def test_memory_does_not_grow() -> None:
    histogram = Histogram(64)
    for exponent in range(-30, 31):
        histogram.add(np.full(3, 2.0**exponent))
    assert histogram.counts.shape == (64,) and histogram.total == 3 * 61


def test_quantiles_follow_numpy() -> None:
    values = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    histogram = filled(values, bins=8192)
    for fraction in (0.001, 0.1, 0.5, 0.9, 0.999):
        assert histogram.quantile(fraction) == pytest.approx(np.quantile(values, fraction), abs=3 * histogram.width)
    assert histogram.quantile(0) == values.min() and histogram.quantile(1) == values.max()


def test_quantile_of_a_rectified_tensor_is_exactly_zero() -> None:
    values = np.maximum(np.random.default_rng(0).normal(size=1000), 0)
    assert filled(values).quantile(0.3) == 0.0


def test_not_finite_is_refused() -> None:
    with pytest.raises(DataError, match="nan"):
        filled([1.0, np.nan])


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shape", ["normal", "rectified", "outlier"])
def test_mse_range_is_as_good_as_brute_force(shape: str, symmetric: bool) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=4000)
    if shape == "rectified":
        values = np.maximum(values, 0)
    if shape == "outlier":
        values[0] = 100.0

    def error(low: float, high: float) -> float:
        step = max(high - low, 1e-9) / 127
        zero = np.rint(-low / step)
        return float(np.mean((values - step * (np.clip(np.rint(values / step) + zero, 0, 127) - zero)) ** 2))

    found = mse_range(filled(values, bins=8192), levels=128, symmetric=symmetric)
    grid = np.geomspace(0.02, 1, 50)
    reach = max(-values.min(), values.max())
    best = (
        min(error(-reach * a, reach * a) for a in grid)
        if symmetric
        else min(error(values.min() * a, values.max() * b) for a in grid for b in grid)
    )
    assert error(found.low, found.high) <= 1.1 * best
    full = error(-reach, reach) if symmetric else error(min(values.min(), 0), values.max())
    assert error(found.low, found.high) <= 1.0001 * full
    assert not symmetric or found.low == -found.high


@pytest.mark.parametrize("method", METHODS)
def test_every_range_contains_zero_and_stays_inside_the_data(method: str) -> None:
    for values in (np.linspace(2, 3, 999), -np.linspace(2, 3, 999), np.linspace(-1, 4, 999), np.zeros(5)):
        found = choose_range(filled(values, bins=1024), method, average=(values.min(), values.max()))
        assert min(values.min(), 0) <= found.low <= 0 <= found.high <= max(values.max(), 0)
        assert np.all(values == 0) or found.low < found.high


def test_clipping_methods_drop_a_lone_outlier() -> None:
    values = np.append(np.random.default_rng(0).normal(size=50_000), 1000.0)
    histogram = filled(values, bins=8192)
    for method in ("percentile", "entropy"):
        assert choose_range(histogram, method).high < 100, method
    assert choose_range(histogram, "minmax").high == 1000


def divergence(counts: npt.NDArray[np.float64], start: int, stop: int, levels: int) -> float:
    """Migacz's definition, bin by bin: the reference has the outliers, the quantized one spreads each step's mean."""
    used = start + np.flatnonzero(counts[start:stop])
    if not len(used):
        return np.inf
    inner = counts[used[0] : used[-1] + 1]
    reference = inner.copy()
    reference[0] += counts[: used[0]].sum()
    reference[-1] += counts[used[-1] + 1 :].sum()
    quantized = np.zeros_like(inner)
    steps = min(levels, len(inner))
    for i in range(steps):
        step = slice(i * len(inner) // steps, (i + 1) * len(inner) // steps)
        full = inner[step] > 0
        quantized[step][full] = inner[step].sum() / max(full.sum(), 1)
    p, q = reference[inner > 0] / reference.sum(), quantized[inner > 0] / quantized.sum()
    return float(np.sum(p * np.log(p / q)))


@pytest.mark.parametrize("levels", [4, 16, 64, 256])
@pytest.mark.parametrize("share", [0.05, 0.6])
@pytest.mark.parametrize("seed", range(6))
def test_the_entropy_range_is_where_the_distributions_themselves_diverge_least(
    seed: int, share: float, levels: int
) -> None:
    rng, bins, half = np.random.default_rng(seed), 128, 64  # so few that every threshold is tried
    histogram = filled([-1.0, 0.999], bins=bins)
    decay = np.exp(-np.abs(np.arange(bins) - half + 0.5) / 12)
    histogram.counts[:] = np.rint(rng.integers(0, 500, bins) * decay) * (rng.random(bins) < share)
    histogram.counts[half + 1] += 1
    last = round(1 / histogram.width)
    lost = {
        n * histogram.width: divergence(histogram.counts, half - n, half + n, levels)
        for n in range(max(min(levels // 2, last // 2), 1), last + 1)
    }
    found = entropy_range(histogram, levels, symmetric=True).high
    assert lost[found] == pytest.approx(min(lost.values()), abs=1e-9)


def test_unknown_method() -> None:
    with pytest.raises(UsageError, match="did you mean 'entropy'"):
        choose_range(filled([1.0]), "entropie")


def model(nodes: list[object], outputs: list[str], shape: list[object], opset: int = 17) -> ir.Model:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    from onnx import shape_inference

    return ir.load(shape_inference.infer_shapes(made))


@pytest.mark.parametrize("opset", [11, 17, 18])
def test_collect_sees_every_tensor_exactly_at_its_extremes(opset: int) -> None:
    m = model(
        [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Mul", ["r", "r"], ["y"])], ["y"], ["n", 3, 5], opset
    )
    before = ir.fingerprint(m)
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(size=(2, 3, 5)).astype(np.float32)} for _ in range(4)]
    seen = collect(m, feeds, registry.executor("ort"), channels={"x": 1}, samples=64)
    assert ir.fingerprint(m) == before and list(seen) == ["x", "r", "y"] == float_values(m)
    x = np.stack([f["x"] for f in feeds])
    for name, values in (("x", x), ("r", np.maximum(x, 0)), ("y", np.maximum(x, 0) ** 2)):
        found = seen[name].range("minmax")
        assert (found.low, found.high) == (min(values.min(), 0), values.max())
        assert seen[name].histogram.total == 4 * 64
    average = seen["x"].range("moving-average")
    assert average.low == pytest.approx(np.mean([v.min() for v in x]))
    np.testing.assert_array_equal(seen["x"].channel_low, x.min(axis=(0, 1, 3)))
    np.testing.assert_allclose(seen["x"].channel_mean, x.mean(axis=(0, 1, 3)), rtol=1e-5)
    few = collect(m, feeds, registry.executor("ort"), channels={"x": 1}, extremes=())["x"]
    np.testing.assert_array_equal(few.channel_mean, seen["x"].channel_mean)
    assert few.channel_low is None and few.channel_square is None


def test_extremes_alone_are_the_same_and_nothing_is_counted() -> None:
    m = model(
        [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("ReduceMax", ["r"], ["y"], keepdims=0)],
        ["y"],
        ["n", 3, 5],
    )
    feeds = [{"x": np.random.default_rng(k).normal(size=(2, 3, 5)).astype(np.float32)} for k in range(3)]
    whole, bare = (collect(m, feeds, registry.executor("ort"), samples=n) for n in (64, 0))
    for name in ("x", "r", "y"):
        assert bare[name].range("minmax") == whole[name].range("minmax")
        assert bare[name].range("moving-average") == whole[name].range("moving-average")
        assert bare[name].histogram.total == 0 < whole[name].histogram.total


def test_inputs_of_varying_and_of_no_width() -> None:
    m = model([helper.make_node("Relu", ["x"], ["y"])], ["y"], [1, "w"])
    feeds = [{"x": np.full((1, w), w, np.float32)} for w in (3, 0, 7)]
    found = collect(m, feeds, registry.executor("ort"))["y"]
    assert found.range().high == 7 and found.runs == 2


def test_a_tensor_that_overflows_is_marked_and_the_others_are_not() -> None:
    m = model([helper.make_node("Exp", ["x"], ["y"])], ["y"], [1])
    found = collect(m, [{"x": np.array([x], np.float32)} for x in (1000.0, 1.0)], registry.executor("ort"))
    assert found["y"].unfit == "inf" and found["y"].runs == 1 and not found["x"].unfit
    assert found["y"].range().high == pytest.approx(np.e)


def test_no_data_and_no_such_tensor() -> None:
    m = model([helper.make_node("Relu", ["x"], ["y"])], ["y"], [1])
    with pytest.raises(DataError, match="at least one sample"):
        collect(m, [], registry.executor("ort"))
    with pytest.raises(ModelError, match="'z' is not"):
        collect(m, [{"x": np.zeros(1, np.float32)}], registry.executor("ort"), ["z"])


def test_a_merged_observation_stands_for_both() -> None:
    m = model([helper.make_node("Neg", ["x"], ["y"])], ["y"], [2])
    seen = collect(m, [{"x": np.array([1, 5], np.float32)}], registry.executor("ort"))
    seen["x"].merge(seen["y"])
    assert seen["x"].range() == Range(-5, 5) and seen["x"].range("moving-average") == Range(-5, 5)
