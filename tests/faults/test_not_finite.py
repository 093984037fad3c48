"""Tensors that hold infinity or NaN by design: masks, fills, logarithms of zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import lwgraph
from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.calibrate.ranges import collect
from lwgraph.errors import ModelError
from lwgraph.layers.apply import apply_forms
from lwgraph.layers.form import parse_form
from lwgraph.layers.site import find_sites
from lwgraph.passes.prune.channels import PruneChannels
from lwgraph.passes.quantize.absorb_bias import AbsorbBias
from lwgraph.passes.quantize.equalize import Equalize
from lwgraph.passes.quantize.half import Half
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.passes.quantize.quantize_weights import QuantizeWeights
from lwgraph.passes.quantize.round_weights import RoundWeights
from lwgraph.passes.quantize.smooth_quant import SmoothQuant
from lwgraph.rewrite import Context, Pass
from tests.faults.models import applied, conv, images, in_integers, kernel, model, operators, reasons, sqnr

WEIGHTS = {"w1": kernel(1, 8, 8, 3, 3), "w2": kernel(2, 8, 8, 3, 3), "w3": kernel(3, 8, 8, 3, 3)}
UPPER = np.triu(np.ones((8, 8)), 1)


def masked(fill: float) -> ir.Model:
    """Conv, a mask before Softmax, Conv: what a causal mask leaves in the graph."""
    mask = np.where(UPPER, np.float32(fill), np.float32(0))
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("Add", ["a", "mask"], ["s"], "add"),
        helper.make_node("Softmax", ["s"], ["p"], "softmax", axis=-1),
        conv("p", "w2", "y"),
    ]
    return model(nodes, {"w1": WEIGHTS["w1"], "w2": WEIGHTS["w2"], "mask": mask})


def computed_mask() -> ir.Model:
    """The mask is made by Where from a condition."""
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("Where", ["condition", "low", "a"], ["s"], "where"),
        helper.make_node("Softmax", ["s"], ["p"], "softmax", axis=-1),
        conv("p", "w2", "y"),
    ]
    weights = {"condition": UPPER.astype(bool), "low": np.array(-np.inf, np.float32)}
    return model(nodes, {**weights, "w1": WEIGHTS["w1"], "w2": WEIGHTS["w2"]})


def padded() -> ir.Model:
    """Conv, Pad with -inf, MaxPool, Conv."""
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("Pad", ["a", "pads", "fill"], ["b"], "pad"),
        helper.make_node("MaxPool", ["b"], ["c"], "pool", kernel_shape=[3, 3], strides=[1, 1]),
        conv("c", "w2", "y"),
    ]
    fills = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "fill": np.array(-np.inf, np.float32)}
    return model(nodes, {**fills, "w1": WEIGHTS["w1"], "w2": WEIGHTS["w2"]})


def logarithm(*behind: Any, last: str = "l") -> ir.Model:
    """Two Convs, then Log of what Relu made zero, in the tail."""
    nodes = [
        conv("x", "w1", "a"),
        conv("a", "w2", "b"),
        helper.make_node("Relu", ["b"], ["r"], "relu"),
        helper.make_node("Log", ["r"], ["l"], "log"),
        helper.make_node("Identity", [last], ["y"], "end"),
    ]
    return model([*nodes[:4], *behind, nodes[4]], dict(WEIGHTS))


def not_a_number() -> ir.Model:
    """0 * inf somewhere, which IsNaN and Where take out again."""
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("Mul", ["a", "factor"], ["m"], "spoil"),
        helper.make_node("IsNaN", ["m"], ["bad"], "is_nan"),
        helper.make_node("Where", ["bad", "zero", "m"], ["clean"], "where"),
        conv("clean", "w2", "y"),
    ]
    factor = np.ones((8, 8), np.float32)
    factor[3, 5] = np.nan
    weights = {"factor": factor, "zero": np.zeros((), np.float32)}
    return model(nodes, {**weights, "w1": WEIGHTS["w1"], "w2": WEIGHTS["w2"]})


MODELS = {
    "-inf": masked(-np.inf),
    "the lowest number": masked(float(np.finfo(np.float32).min)),
    "where": computed_mask(),
    "pad": padded(),
    "log": logarithm(helper.make_node("Exp", ["l"], ["e"]), last="e"),
    "nan": not_a_number(),
}


@pytest.mark.parametrize("keep", ["none", "auto"])
@pytest.mark.parametrize("name", list(MODELS))
def test_quantize_leaves_what_touches_it_in_float(name: str, keep: Any) -> None:
    before, data = MODELS[name], images()
    after, context, count = applied(Quantize(keep=keep), before, data)
    assert sqnr(before, after, data) > 25
    found = in_integers(after)
    assert not found & {"add", "softmax", "where", "pool", "pad", "log", "spoil"}, found
    if keep == "none":
        assert count and found >= ({"conv_a", "conv_b"} if name == "log" else {"conv_y"}), reasons(context)


@pytest.mark.parametrize("options", [{"ignored_scope": ("type:Add", "softmax")}, {"op_types_to_quantize": ("Conv",)}])
def test_the_scope_is_kept_though_a_mask_is_there(options: dict[str, Any]) -> None:
    before, data = MODELS["-inf"], images()
    after, _, count = applied(Quantize(keep="none", **options), before, data)
    assert count and in_integers(after) == {"conv_a", "conv_y"}
    assert sqnr(before, after, data) > 25


def test_a_layer_that_reads_infinity_is_named() -> None:
    before = logarithm(conv("l", "w3", "t"), last="t")
    after, context, count = applied(Quantize(keep="none"), before, images())
    assert count and not in_integers(after) & {"conv_t", "log"}
    assert "'l' holds -inf on the data" in reasons(context)


def test_infinity_that_only_late_samples_have() -> None:
    before, data = MODELS["nan"], images(24)
    data[-1]["x"][0, 0, 0, 0] = np.inf
    after, context, _ = applied(Quantize(keep="none"), before, data)
    assert "conv_a" not in in_integers(after) and "holds inf on the data" in reasons(context)


@pytest.mark.parametrize("place", [0, 17, -1])
def test_nan_is_seen_wherever_it_is(place: int) -> None:
    before = model([helper.make_node("Relu", ["x"], ["y"])], {})
    data = images(2)
    data[1]["x"].reshape(-1)[place] = np.nan
    seen = collect(before, data, registry.executor("ort"))["x"]
    assert seen.unfit == "nan" and seen.runs == 1
    assert seen.histogram.high == pytest.approx(float(data[0]["x"].max()))


def reader() -> tuple[ir.Model, list[dict[str, Any]]]:
    """Conv, Conv, and a Conv that reads the logarithm beside them."""
    before = logarithm(conv("l", "w3", "t"), last="t")
    return before, images()


def test_statistics_leave_one_layer_alone() -> None:
    before, data = reader()
    sites = {site.name: site for site in find_sites(before)}
    statistics = Statistics(before, data, registry.executor("ort"))
    statistics.prefetch(sites.values())
    assert "'l' has NaN, infinite" in statistics.unfit(sites["conv_t"])
    assert not statistics.unfit(sites["conv_a"]) and np.isfinite(statistics.gram(sites["conv_b"]).mean).all()
    statistics.release(sites.values())
    assert "'l' has NaN, infinite" in statistics.unfit(sites["conv_t"])  # collected again
    assert np.isfinite(statistics.sample(sites["conv_t"])).all()


def test_a_form_is_not_fitted_to_infinity() -> None:
    before, data = reader()
    executor = registry.executor("ort")
    context = Context(executor=executor, data=data, statistics=Statistics(before, data, executor))
    choices = [(site, parse_form("low-rank{rank=2}")) for site in find_sites(before)]
    records = {record.site: record for record in apply_forms(choices, context)}
    assert records["conv_a"].done and records["conv_b"].done, records
    assert not records["conv_t"].done and "'l' has NaN, infinite" in records["conv_t"].reason


@pytest.mark.parametrize("pass_", [RoundWeights(), RoundWeights(sequential=True)], ids=["alone", "sequential"])
def test_round_weights_leaves_one_layer_alone(pass_: Pass) -> None:
    before, data = reader()
    after, context, count = applied(pass_, before, data)
    assert count == 2 and "conv_t: 'l' has NaN, infinite" in reasons(context)
    assert np.array_equal(ir.constant(after.graph.initializers["w3"]), WEIGHTS["w3"])
    assert not np.array_equal(ir.constant(after.graph.initializers["w1"]), WEIGHTS["w1"])


@pytest.mark.parametrize("pass_", [Equalize(), AbsorbBias(), SmoothQuant()], ids=lambda p: str(p.name))
@pytest.mark.parametrize("name", list(MODELS))
def test_other_passes_go_on(pass_: Pass, name: str) -> None:
    after, _, _ = applied(pass_, MODELS[name], images())
    assert sqnr(MODELS[name], after, images()) > 60


@pytest.mark.parametrize("name", list(MODELS))
def test_half_computes_right(name: str) -> None:
    after, _, _ = applied(Half(activations=True), MODELS[name], images())
    assert sqnr(MODELS[name], after, images()) > 40


def test_four_bits_are_rounded_to_nearest_where_moments_are_missing() -> None:
    nodes = [
        helper.make_node("Log", ["x"], ["l"]),
        helper.make_node("MatMul", ["l", "w"], ["y"], "product"),
    ]
    before = model(
        nodes,
        {"w": np.abs(kernel(1, 64, 64))},
        inputs=[("x", TensorProto.FLOAT, (4, 64))],
        outputs=[("y", TensorProto.FLOAT, (4, 64))],
    )
    data = [{"x": np.abs(feeds["x"]) * (np.arange(64) > 0).astype(np.float32)} for feeds in images(3, (4, 64))]
    after, context, count = applied(QuantizeWeights(bits=4, minimum=1), before, data)
    assert count == 1
    assert any("to nearest" in warning and "'l' has NaN" in warning for warning in context.warnings)
    assert sqnr(before, after, [{"x": feeds["x"] + 1} for feeds in data]) > 15


def test_prune_leaves_a_group_alone_that_is_read_as_infinity() -> None:
    before, data = reader()
    executor = registry.executor("ort")
    context = Context(executor=executor, data=data, statistics=Statistics(before, data, executor))
    PruneChannels(ratio=0.25, multiple=1).run(before, context)
    assert "'l' has NaN, infinite" in "; ".join(skip.reason for skip in context.skipped)


def geometric() -> ir.Model:
    """Two Convs, then a product of logarithms, as a layer for geometric means: -inf in, 0 out."""
    weights = {**{n: WEIGHTS[n] for n in ("w1", "w2")}, "w": np.abs(kernel(5, 8, 8)) + 0.1}
    nodes = [
        conv("x", "w1", "a"),
        conv("a", "w2", "b"),
        helper.make_node("Relu", ["b"], ["r"], "relu"),
        helper.make_node("Log", ["r"], ["l"], "log"),
        helper.make_node("MatMul", ["l", "w"], ["m"], "product"),
        helper.make_node("Exp", ["m"], ["y"], "exp"),
    ]
    return model(nodes, weights)


@pytest.mark.parametrize("options", [{}, {"pipeline": "low-rank{rank=4}"}], ids=["default", "forms"])
def test_a_whole_run_with_a_layer_that_reads_infinity(options: dict[str, Any]) -> None:
    before, data = geometric(), images(24)
    after = lwgraph.optimize(before, data=data, **options).model
    assert np.array_equal(ir.constant(after.graph.initializers["w"]), ir.constant(before.graph.initializers["w"]))
    assert options or sqnr(before, after, data) > 20
    assert sum(operator == "Conv" for operator in operators(after)) > (2 if options else 1)


def without_values() -> tuple[ir.Model, list[Any]]:
    """NaN where a mask says that there is no value, as some models put it out."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Identity", ["h"], ["i"]),
        helper.make_node("Where", ["mask", "i", "nan"], ["y"]),
    ]
    made = model(
        nodes,
        {"w": kernel(1, 16, 8), "nan": np.array(np.nan, np.float32)},
        inputs=[("x", TensorProto.FLOAT, ["n", 16]), ("mask", TensorProto.BOOL, ["n", 8])],
        outputs=[("y", TensorProto.FLOAT, ["n", 8])],
    )
    rng = np.random.default_rng(0)
    data = [{"x": rng.standard_normal((2, 16)).astype(np.float32), "mask": rng.random((2, 8)) < 0.7} for _ in range(12)]
    return made, data


def test_outputs_that_hold_nan_by_design() -> None:
    made, data = without_values()
    result = lwgraph.optimize(made, data=data)
    assert result.kept and "Identity" not in operators(result.model)
    assert any("outputs hold NaN, so what one loses cannot be judged" in note for note in result.report.notes)
    assert sqnr(made, result.model, data) > 100


def test_a_metric_of_ones_own_judges_outputs_with_nan() -> None:
    made, data = without_values()
    wanted = [registry.executor("ort").prepare(made)(feed)["y"] for feed in data]

    def near(run: Any) -> float:
        errors = [np.nanmax(np.abs(run(feed)["y"] - y)) for feed, y in zip(data, wanted, strict=True)]
        return 1 - float(np.max(errors))

    result = lwgraph.optimize(made, data=data, metric=near, max_drop=0.2, budget=3)
    assert result.kept and not any("outputs hold NaN" in note for note in result.report.notes)


def test_outputs_of_nothing_but_nan_are_refused() -> None:
    made, data = without_values()
    nothing = [{**feed, "mask": np.zeros_like(feed["mask"])} for feed in data]
    with pytest.raises(ModelError, match="nothing but NaN on sample 0"):
        lwgraph.optimize(made, data=nothing)


@pytest.mark.parametrize("where", ["a weight", "what is computed from constants"])
def test_constants_that_are_nan_are_blamed_for_outputs_that_are(where: str) -> None:
    """A training that diverged: no data has another answer."""
    given = where == "a weight"
    nodes = "y = MatMul(x, w)" if given else "z = Log(w) y = MatMul(x, z)"
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[2, 4] x) => (float[2, 3] y) {{ {nodes} }}'
    proto = parser.parse_model(text)
    weight = np.full((4, 3), np.nan if given else -1, np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    name = "w" if given else "z"
    with pytest.raises(ModelError, match=rf"constant '{name}' holds 12 NaN of 12 values; mend the model"):
        lwgraph.optimize(proto, data=[{"x": np.ones((2, 4), np.float32)}] * 4)
