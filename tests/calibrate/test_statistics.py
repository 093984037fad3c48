"""Streaming capture and the statistics of sites."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from lwgraph import registry
from lwgraph.calibrate import Patches, Statistics, capture, cross_moments, measured_shapes
from lwgraph.calibrate import statistics as module
from lwgraph.calibrate.capture import grouped
from lwgraph.calibrate.store import Store
from lwgraph.errors import DataError, ModelError
from tests.calibrate.calibration_layers import FakeLayer, build

ORT = registry.executor("ort")
RNG = np.random.default_rng(0)
W1, W2 = (RNG.standard_normal(s).astype(np.float32) * 0.3 for s in ((6, 3, 3, 3), (4, 6, 3, 3)))
W3 = RNG.standard_normal((4, 2)).astype(np.float32)


def network(w1=W1):
    """conv 3x3 -> relu -> (conv 3x3, conv 3x3) -> add -> global pool -> flatten -> matmul."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["r1", "w2"], ["c3"], "conv3", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "c3"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["y"], "fc"),
    ]
    model = build(nodes, {"x": ("n", 3, "h", "w")}, ["y"], {"w1": w1, "w2": W2, "w3": W3})
    values = {v.name: v for node in model.graph for v in node.outputs} | {v.name: v for v in model.graph.inputs}

    def conv(name, source, inputs, outputs):
        return FakeLayer(name, "conv", values[source], outputs, inputs * 9, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1))

    layers = [
        conv("conv1", "x", 3, 6),
        conv("conv2", "r1", 6, 4),
        conv("conv3", "r1", 6, 4),
        FakeLayer("fc", "matmul", values["f"], 2, 4),
    ]
    return model, layers


def feeds(count=6, size=9, seed=0):
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((1, 3, size, size)).astype(np.float32)} for _ in range(count)]


def brute(model, layer, samples):
    run, patches = ORT.prepare(model, [layer.input.name]), Patches.of(layer)
    rows = []
    for sample in samples:
        x = run(sample)[layer.input.name]
        rows.append(patches.rows(x, np.arange(patches.count(x.shape))).astype(float))
    return np.concatenate(rows)


def test_grams_are_those_of_all_positions_when_these_are_few():
    model, layers = network()
    data = feeds()
    statistics = Statistics(model, data, ORT)
    for layer in layers:
        rows = brute(model, layer, data)
        gram = statistics.gram(layer)
        assert gram.count == len(rows)
        np.testing.assert_allclose(gram.matrix, np.einsum("rgi,rgj->gij", rows, rows) / len(rows), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(gram.mean, rows.mean(0), atol=1e-5)


def test_sampled_positions_estimate_the_same_moments(monkeypatch):
    monkeypatch.setattr(module, "LEAST_ROWS", 3000)
    model, layers = network()
    data = feeds(4, 40)
    gram = Statistics(model, data, ORT, rows_per_unknown=10).gram(layers[1])
    assert gram.count == 3000
    rows = brute(model, layers[1], data)
    exact = np.einsum("rgi,rgj->gij", rows, rows) / len(rows)
    assert np.linalg.norm(gram.matrix - exact) < 0.1 * np.linalg.norm(exact)
    again = Statistics(model, data, ORT, rows_per_unknown=10).gram(layers[1])
    assert np.array_equal(gram.matrix, again.matrix)
    other = Statistics(model, data, ORT, seed=1, rows_per_unknown=10).gram(layers[1])
    assert not np.array_equal(gram.matrix, other.matrix)


class Counting:
    """An executor that counts runs and remembers the most bytes that one run returned."""

    name = "counting"

    def __init__(self):
        self.runs = self.bytes = 0

    def prepare(self, model, outputs=None):
        run = ORT.prepare(model, outputs)

        def counted(sample):
            result = run(sample)
            self.runs += 1
            self.bytes = max(self.bytes, sum(a.nbytes for a in result.values()))
            return result

        return counted


def test_one_streaming_run_serves_all_sites_and_shared_inputs_are_collected_once():
    model, layers = network()
    data, counter = feeds(), Counting()
    statistics = Statistics(model, data, counter)
    statistics.prefetch(layers)
    assert counter.runs == len(data) + 2  # and two to measure shapes
    grams = [statistics.gram(layer) for layer in layers]
    assert counter.runs == len(data) + 2
    assert grams[1].matrix is grams[2].matrix


def test_captured_values_stay_below_the_bound():
    model, layers = network()
    data = feeds(3, 32)
    names = [layer.input.name for layer in layers] + ["c1", "c2"]
    largest = 4 * 6 * 32 * 32
    counter = Counting()
    seen: dict[str, list[int]] = {}
    for index, values in capture(model, names, data, counter, activation_bytes=largest + 100):
        for name in values:
            seen.setdefault(name, []).append(index)
    assert counter.bytes <= largest + 100
    assert all(indices == [0, 1, 2] for indices in seen.values())
    assert set(seen) == set(names)
    free = Counting()
    list(capture(model, names, data, free))
    assert free.bytes > largest + 100


def test_accumulators_that_do_not_fit_wait_for_another_run():
    model, layers = network()
    data = feeds()
    small, counter = Counting(), Counting()
    one = Statistics(model, data, small, memory_bytes=2 * 60000)
    one.prefetch(layers)
    Statistics(model, data, counter).prefetch(layers)
    assert small.runs > counter.runs
    np.testing.assert_array_equal(one.gram(layers[1]).matrix, Statistics(model, data, ORT).gram(layers[1]).matrix)


def test_results_beyond_the_memory_bound_go_to_files_which_are_removed():
    store = Store(1000)
    arrays = {k: np.full(100, k, float) for k in range(5)}
    for k, a in arrays.items():
        store.put(k, (a, np.array(k)))
    assert sum(a.nbytes for found in store._memory.values() for a in found) <= 1000
    files = list(store._files.values())
    assert files
    for k in (0, 4, 2, 0):
        found = store.get(k)
        assert np.array_equal(found[0], arrays[k])
        assert int(found[1]) == k
    folder = store._folder.path
    del store
    assert not folder.exists()


def test_held_out_feeds_are_in_no_gram():
    model, layers = network()
    data = feeds(10)
    statistics = Statistics(model, data, ORT, held_out=0.3)
    held, gram = statistics.held_out(layers[0]), statistics.gram(layers[0])
    assert gram.count == 7 * 81
    assert held.shape == (3 * 81, 1, 27)
    rows = brute(model, layers[0], data)
    apart = {row.tobytes() for row in held.astype(np.float64)}
    kept = np.array([row for row in rows if row.tobytes() not in apart])
    np.testing.assert_allclose(gram.mean, kept.mean(0), atol=1e-5)
    with pytest.raises(DataError, match="positive held_out"):
        Statistics(model, data, ORT).held_out(layers[0])


def test_positions_are_held_out_when_there_is_one_feed():
    model, layers = network()
    statistics = Statistics(model, feeds(1), ORT, held_out=0.25)
    assert len(statistics.held_out(layers[0])) == 20
    assert statistics.gram(layers[0]).count == 61


def test_rewriting_the_model_later_changes_nothing():
    model, layers = network()
    data = feeds()
    statistics = Statistics(model, data, ORT)
    expected = Statistics(model, data, ORT).gram(layers[3])
    next(n for n in model.graph if n.name == "conv2").attributes.pop("pads")
    np.testing.assert_array_equal(statistics.gram(layers[3]).matrix, expected.matrix)


def test_values_that_cannot_be_captured_and_missing_data_are_named():
    model, layers = network()
    layers[0].input.name = "elsewhere"
    with pytest.raises(ModelError, match="'elsewhere' is not a value"):
        Statistics(network()[0], feeds(), ORT).gram(layers[0])
    with pytest.raises(DataError, match="there are none"):
        Statistics(model, [], ORT)


def test_infinite_activations_are_named():
    model, layers = network(W1 * np.float32(1e38))
    with pytest.raises(DataError, match="'r1' has NaN, infinite"):
        Statistics(model, feeds(), ORT).gram(layers[1])


def test_shapes_are_measured_without_holding_values():
    model, _ = network()
    counter = Counting()
    assert measured_shapes(model, ["x", "r1", "f"], feeds(1, 32)[0], counter) == {
        "x": (1, 3, 32, 32),
        "r1": (1, 6, 32, 32),
        "f": (1, 4),
    }
    assert counter.bytes < 200


def test_cross_moments_recover_the_original_layer_from_changed_inputs():
    model, _ = network()
    halved, new_layers = network(W1 * np.float32(0.5))
    data = feeds(20)
    found = cross_moments(model, {"conv2": "c2", "fc": "y"}, halved, [new_layers[1], new_layers[3]], data, ORT)
    moments = found["conv2"]
    weight = np.linalg.solve(moments.gram.centred[0] + 1e-9 * np.eye(54), moments.centred[0].T).T
    np.testing.assert_allclose(weight, 2 * W2.reshape(4, 54), atol=1e-3)
    assert found["fc"].gram.count == 20
    with pytest.raises(DataError, match="its target"):
        cross_moments(model, {"conv2": "c1"}, halved, [new_layers[1]], data, ORT)


def test_groups_are_consecutive_and_bounded():
    assert grouped([3, 3, 9, 1, 1], 6) == [[0, 1], [2], [3, 4]]
    assert grouped([], 5) == []


def test_short_patches_get_more_rows_than_long_ones_can_afford() -> None:
    assert module.rows_for(32) == module.LEAST_ROWS and module.rows_for(9, least=10) == 4 * 6 * 9
    assert module.rows_for(576) == 24 * 576 and module.rows_for(1152) == 24 * 1152
    assert 6 < module.rows_for(1700) / 1700 < 24 and module.rows_for(4608) == 6 * 4608
