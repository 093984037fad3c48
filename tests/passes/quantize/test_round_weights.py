"""The pass that puts weights on integer grids."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir, registry
from lwgraph.calibrate import Statistics, cross_moments
from lwgraph.errors import UsageError
from lwgraph.layers.site import find_sites
from lwgraph.passes.quantize import rounding
from lwgraph.passes.quantize.round_weights import RoundWeights
from lwgraph.rewrite import Context, Pass

ORT = registry.executor("ort")


def network():
    """Conv, grouped Conv, ConvTranspose, Gemm and MatMul on correlated inputs."""
    rng = np.random.default_rng(0)
    shapes = {
        "w1": (12, 3, 3, 3),
        "b1": (12,),
        "w2": (12, 4, 3, 3),
        "w3": (12, 8, 2, 2),
        "w4": (6, 8),
        "b4": (6,),
        "w5": (6, 5),
    }
    arrays = {n: (rng.standard_normal(s) / np.sqrt(np.prod(s[1:]) or 1)).astype(np.float32) for n, s in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1, 1, 1, 1], group=3),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("ConvTranspose", ["r2", "w3"], ["c3"], "up", strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c3"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w4", "b4"], ["g"], "gemm", transB=1),
        helper.make_node("MatMul", ["g", "w5"], ["y"], "matmul"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 10, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )
    return ir.load(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]))


def feeds(count=24, seed=0):
    rng = np.random.default_rng(seed)
    smooth = 1 + rng.standard_normal((count, 1, 3, 5, 5)).repeat(2, 3).repeat(2, 4)
    return [{"x": (s + 0.2 * rng.standard_normal((1, 3, 10, 10))).astype(np.float32)} for s in smooth]


def context(model, data=True, **more):
    samples = feeds() if data else None
    statistics = Statistics(model, samples, ORT) if samples else None
    return Context(executor=ORT, data=samples, statistics=statistics, **more)


def error(model, original, name="y"):
    ours, theirs = ORT.prepare(model, [name]), ORT.prepare(original, [name])
    pairs = [(ours(f)[name], theirs(f)[name]) for f in feeds(12, seed=5)]
    return float(sum(((a - b) ** 2).sum() for a, b in pairs) / sum((b**2).sum() for _, b in pairs))


def rounded(text, data=True):
    original = network()
    model = ir.clone(original)
    assert Pass.parse(text).run(model, context(original, data)) == 5
    return error(model, original), model


def test_weights_lie_on_grids_that_can_be_read_off():
    _, model = rounded("round-weights{bits=4}")
    for site in find_sites(model):
        rows = site.weight.reshape(site.outputs, -1)
        steps = np.abs(rows).max(axis=1) / 7
        integers = rows / steps[:, None]
        np.testing.assert_allclose(integers, np.rint(integers), atol=1e-4)


def test_second_order_beats_nearest_and_aiming_beats_both():
    def lost(**options):
        original = network()
        model = ir.clone(original)
        RoundWeights(bits=3, ignored_scope=("up", "gemm", "matmul"), **options).run(model, context(original))
        return error(model, original, "c2")

    plain, once = lost(method="nearest"), lost()
    assert once < 0.8 * plain
    assert lost(method="adaround") < 0.95 * plain
    assert lost(sequential=True) < 0.9 * once


def test_more_bits_lose_less_and_eight_nearly_nothing():
    lost = [rounded(f"round-weights{{bits={bits}}}")[0] for bits in (2, 4, 8)]
    assert lost[0] > 5 * lost[1] > 25 * lost[2]
    assert lost[2] < 1e-4


@pytest.mark.parametrize("method", ["second-order", "adaround", "nearest"])
def test_blocks_have_steps_of_their_own(method):
    original = network()
    first = original.graph.initializers["w1"]
    ir.set_constant(first, ir.constant(first) * np.array([8, 1, 1], np.float32).reshape(1, 3, 1, 1))

    def lost(block):
        model = ir.clone(original)
        RoundWeights(bits=3, method=method, block=block, ignored_scope=("conv2", "up", "gemm", "matmul")).run(
            model, context(original)
        )
        return np.asarray(ir.constant(model.graph.initializers["w1"])), error(model, original, "c1")

    (_, whole), (weight, parts) = lost(0), lost(9)
    assert parts < 0.8 * whole
    for block in np.abs(weight).reshape(12 * 3, 9):  # 3 bits: 0, 1, 2 or 3 steps
        steps = block[block > 0].min() / np.array([1, 2, 3])
        assert min(np.abs(block / step - np.rint(block / step)).max() for step in steps) < 1e-4
        assert block.max() < 3.001 * block[block > 0].min()


def test_without_data_the_weights_alone_decide():
    plain, _ = rounded("round-weights{bits=4,method=nearest}", data=False)
    free, _ = rounded("round-weights{bits=4}", data=False)
    assert free == pytest.approx(plain, rel=0.05)


def test_data_without_statistics_are_used_and_without_data_there_is_a_warning():
    expected = ir.fingerprint(rounded("round-weights{bits=4}")[1])
    bare, blind = Context(executor=ORT, data=feeds()), Context(executor=ORT)
    model, other = network(), network()
    RoundWeights(bits=4).run(model, bare)
    assert ir.fingerprint(model) == expected and not bare.warnings
    RoundWeights(bits=4).run(other, blind)
    assert ir.fingerprint(other) != expected
    assert "5 layers ('conv1' first) by their weights alone: there is no data" in blind.warnings[0]


def test_statistics_of_an_older_model_are_not_used():
    older = network()
    ir.set_constant(older.graph.initializers["w1"], 5 * ir.constant(older.graph.initializers["w1"])[::-1])
    model = network()
    RoundWeights(bits=4).run(model, context(older))
    assert ir.fingerprint(model) == ir.fingerprint(rounded("round-weights{bits=4}")[1])


def test_the_same_input_gives_the_same_bytes():
    assert ir.fingerprint(rounded("round-weights{bits=4,sequential=true}")[1]) == ir.fingerprint(
        rounded("round-weights{bits=4,sequential=true}")[1]
    )


def test_means_are_kept_where_there_is_a_bias():
    original = network()
    model = ir.clone(original)
    RoundWeights(bits=2).run(model, context(original))
    uncorrected = ir.clone(model)
    ir.set_constant(uncorrected.graph.initializers["b1"], ir.constant(original.graph.initializers["b1"]))

    def mean(m):
        run = ORT.prepare(m, ["c1"])
        return np.mean([run(f)["c1"] for f in feeds()], axis=(0, 1, 3, 4))

    # Not exactly: the moments come from a sample of the positions.
    assert np.abs(mean(model) - mean(original)).max() < 0.1 * np.abs(mean(uncorrected) - mean(original)).max()


def test_layers_can_be_left_alone_and_refusals_are_recorded():
    original = network()
    model = ir.clone(original)
    c = context(original)
    assert RoundWeights(bits=2, ignored_scope=("conv1", "up")).run(model, c) == 3
    assert {s.place for s in c.skipped} == {"conv1", "up"}
    before = {s.name: s.weight for s in find_sites(original)}
    for site in find_sites(model):
        assert np.array_equal(site.weight, before[site.name]) == (site.name in ("conv1", "up"))


@pytest.mark.parametrize(
    "text, message",
    [
        ("round-weights{bits=1}", "'bits' is 1; allowed: 2 to 8"),
        ("round-weights{method=closest}", "closest"),
        ("round-weights{block=-1}", "'block' is -1; allowed: 0 or more"),
    ],
)
def test_wrong_options(text, message):
    with pytest.raises(UsageError, match=message):
        Pass.parse(text)


def test_layers_that_feed_each_other_are_never_corrected_together(monkeypatch):
    arrays = {f"w{i}": np.ones((4, 4, 1, 1), np.float32) for i in range(4)}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], "first"),
        helper.make_node("Conv", ["a", "w1"], ["b"], "left"),
        helper.make_node("Conv", ["a", "w2"], ["c"], "right"),
        helper.make_node("Add", ["b", "c"], ["d"]),
        helper.make_node("Conv", ["d", "w3"], ["y"], "last"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )
    model = ir.load(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]))
    together = []

    def recorded(original, targets, *given):
        together.append(list(targets))
        return cross_moments(original, targets, *given)

    monkeypatch.setattr(rounding, "cross_moments", recorded)
    rng = np.random.default_rng(0)
    data = [{"x": rng.standard_normal((1, 4, 2, 2)).astype(np.float32)} for _ in range(8)]
    context = Context(executor=ORT, data=data, statistics=Statistics(model, data, ORT))
    assert Pass.parse("round-weights{sequential=true}").run(model, context) == 4
    # Twice each: on the samples that are fitted, and on those that are held out.
    assert together[::2] == together[1::2] == [["first"], ["left", "right"], ["last"]]
