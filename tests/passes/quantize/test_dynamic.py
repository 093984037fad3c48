"""quantize{activations=dynamic}: grids taken as the model runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from lwgraph import ir, registry
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.errors import UsageError
from lwgraph.executor import ShowsGraph, offered
from lwgraph.measure.work import count as count_work
from lwgraph.passes.quantize import dynamic
from lwgraph.passes.quantize.graph import dynamic_products
from lwgraph.passes.quantize.placing import dynamic_times
from lwgraph.passes.quantize.placing.already_quantized import quantized_already
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.plan.precision import quantizer
from lwgraph.rewrite import Context, Pass
from lwgraph.views.written import layers
from tests.passes.quantize.quantize_models import Net

ORT = registry.executor("ort")
WIDTH = 64


def matrix(net: Net, inputs: int, outputs: int) -> str:
    return net.constant((net.rng.normal(size=(inputs, outputs)) / np.sqrt(inputs)).astype(np.float32))


def projections(opset: int = 17) -> Net:
    """Three products of one input, one with a bias, and one of what they make."""
    net = Net(opset)
    x = net.input("x", ["n", "t", WIDTH])
    q, k = (net.op("MatMul", x, matrix(net, WIDTH, WIDTH), name=name) for name in "qk")
    v = net.op("MatMul", x, matrix(net, WIDTH, WIDTH), name="v")
    v = net.op("Add", v, net.constant(net.rng.normal(size=WIDTH).astype(np.float32)), name="bias")
    scores = net.op("MatMul", net.op("Mul", q, k), matrix(net, WIDTH, 8), name="scores")
    net.op("MatMul", net.op("Relu", v), matrix(net, WIDTH, 8), name="values")
    net.op("Add", scores, "values_out", name="sum")
    return net


def feed(rows: int = 5) -> dict[str, Any]:
    return {"x": np.random.default_rng(1).normal(size=(2, rows, WIDTH)).astype(np.float32)}


def off(model: ir.Model, made: ir.Model, values: dict[str, Any]) -> float:
    """Relative error of the first output."""
    want, got = (next(iter(ORT.prepare(m)(values).values())) for m in (model, made))
    return float(np.sum((want - got) ** 2) / np.sum((want - want.mean()) ** 2))


def ran(model: ir.Model, **options: Any) -> tuple[ir.Model, Context, int]:
    copy, context = ir.clone(model), Context(executor=ORT)
    count = Quantize(activations="dynamic", **{"keep": "none"} | options).run(copy, context)
    return copy, context, count


@pytest.mark.parametrize("opset", (11, 13, 17, 21))
def test_products_become_integers_without_data_at_any_size(opset: int) -> None:
    model = projections(opset).model("sum_out")
    made, context, count = ran(model)
    assert count == 5 and not context.skipped
    for rows in (1, 5, 33):
        assert off(model, made, feed(rows)) < 5e-4
    assert quantized_already(made) is not None
    again, told, none = ran(made)
    assert none == 0 and "already quantized" in told.skipped[0].reason and off(made, again, feed()) == 0


def test_one_grid_serves_all_who_read_a_tensor_and_the_runtime_fuses_all() -> None:
    model = projections().model("sum_out")
    made, _, _ = ran(model)
    kinds = [n.op_type for n in made.graph]
    assert kinds.count("DynamicQuantizeLinear") == 3 and kinds.count("MatMulInteger") == 5
    shown = offered(ORT, ShowsGraph)
    assert shown is not None
    left = [n.op_type for n in shown.optimized(made).graph.node]
    assert left.count("DynamicQuantizeMatMul") + left.count("MatMulIntegerToFloat") == 5
    assert not {"MatMulInteger", "MatMul"} & set(left)


def test_the_reference_computes_the_same() -> None:
    made, _, _ = ran(projections().model("sum_out"))
    got, want = (registry.executor(name).prepare(made)(feed()) for name in ("reference", "ort"))
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attributes", ({}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}, {"transB": 1, "alpha": -2.0}))
@pytest.mark.parametrize("bias", (True, False))
def test_a_gemm_keeps_its_factors_and_its_bias(attributes: dict[str, Any], bias: bool) -> None:
    net = Net()
    shape = (12, WIDTH) if attributes.get("transB") else (WIDTH, 12)
    inputs = [net.input("x", ["n", WIDTH]), net.constant(net.rng.normal(size=shape).astype(np.float32))]
    if bias:
        inputs.append(net.constant(10 * np.arange(12, dtype=np.float32)))
    net.op("Gemm", *inputs, name="layer", **attributes)
    model = net.model("layer_out")
    made, _, count = ran(model)
    assert count == 1
    assert off(model, made, {"x": feed()["x"][0]}) < 5e-4


def test_layers_with_one_weight_go_on_sharing_it() -> None:
    net = Net()
    x, weight = net.input("x", ["n", WIDTH]), matrix(net, WIDTH, WIDTH)
    net.op("MatMul", net.op("Relu", net.op("MatMul", x, weight, name="one")), weight, name="two")
    made, _, count = ran(net.model("two_out"))
    integers = [v for v in made.graph.initializers.values() if v.dtype == ir.DataType.INT8]
    assert count == 2 and len(integers) == 1


def test_one_scale_per_output_is_closer_than_one_per_weight() -> None:
    net = Net()
    weight = net.rng.normal(size=(WIDTH, 8)) * np.logspace(-3, 0, 8)
    net.op("MatMul", net.input("x", ["n", WIDTH]), net.constant(weight.astype(np.float32)), name="layer")
    model, values = net.model("layer_out"), {"x": feed()["x"][0]}

    def smallest(made: ir.Model) -> float:
        want, got = (next(iter(ORT.prepare(m)(values).values()))[:, 0] for m in (model, made))
        return float(np.sum((want - got) ** 2) / np.sum(want**2))

    fine, coarse = smallest(ran(model)[0]), smallest(ran(model, per_channel=False)[0])
    assert fine < 1e-3 < 0.1 < coarse


def test_what_stays_in_float_is_told() -> None:
    net = Net()
    x = net.input("x", ["n", WIDTH])
    one = net.op("MatMul", x, matrix(net, WIDTH, WIDTH), name="one")
    wide = net.op("Cast", one, to=TensorProto.DOUBLE)
    double = net.op("MatMul", wide, net.constant(np.eye(WIDTH)), name="double")
    net.op("MatMul", net.op("Cast", double, to=TensorProto.FLOAT), matrix(net, WIDTH, 8), name="last")
    model = net.model("last_out")
    made, context, count = ran(model, nodes_to_exclude=("last",))
    assert count == 1
    assert {s.place: s.reason for s in context.skipped} == {
        "double": "it computes in float64; only float32 and float16 are quantized",
        "last": "excluded by nodes_to_exclude",
    }
    assert {n.op_type for n in made.graph} >= {"MatMul", "MatMulInteger"}
    _, context, count = ran(model, ignored_scope=("re:^o",))
    assert "one" in {s.place for s in context.skipped} and count == 1


def test_embeddings_become_bytes_and_recurrent_layers_loops() -> None:
    net = Net()
    ids = "ids"
    net.inputs.append(helper.make_tensor_value_info(ids, TensorProto.INT64, ["t", 1]))
    table = net.constant(net.rng.normal(size=(500, WIDTH)).astype(np.float32))
    words = net.op("Gather", table, ids, name="words")
    cells = [net.rng.normal(0, 0.2, (1, 4 * 16, n)).astype(np.float32) for n in (WIDTH, 16)]
    net.op("LSTM", words, *map(net.constant, cells), name="lstm", hidden_size=16)
    model = net.model("lstm_out")
    made, _, count = ran(model)
    values = {ids: np.arange(12)[:, None]}
    assert count == 2 and off(model, made, values) < 1e-3
    assert ir.size(made) < 0.35 * ir.size(model)


def test_a_layer_that_is_no_faster_stays_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    model = projections().model("sum_out")
    times = {"float": 1.0, "integers": 2.0}
    monkeypatch.setattr(dynamic_times, "race", lambda runs, feed: times)
    made, context, count = ran(model, keep="auto")
    assert count == 0 and [n.op_type for n in made.graph] == [n.op_type for n in model.graph]
    assert len(context.skipped) == 5 and "no faster in integers" in context.skipped[0].reason
    times["integers"] = 0.5
    assert ran(model, keep="auto")[2] == 5
    assert ran(model, keep="none")[2] == 5


def test_older_opsets_are_converted_and_it_is_said() -> None:
    net = Net(10)
    net.op("MatMul", net.input("x", ["n", WIDTH]), matrix(net, WIDTH, 8), name="layer")
    model = net.model("layer_out")
    made, context, count = ran(model)
    assert count == 1 and made.graph.opset_imports[""] == 13
    assert any("opset 13" in text for text in context.warnings)
    assert off(model, made, {"x": feed()["x"][0]}) < 5e-4


def test_weights_keep_to_seven_bits_where_the_processor_saturates() -> None:
    made, _, _ = ran(projections().model("sum_out"), reduce_range=True)
    weights = [ir.constant(v) for v in made.graph.initializers.values() if v.dtype == ir.DataType.INT8]
    assert weights and all(w is not None and np.abs(w.astype(int)).max() == 63 for w in weights)


def test_options_that_mean_nothing_here_are_refused() -> None:
    with pytest.raises(UsageError, match=r"calibration_method.*'mse'.*activations=dynamic"):
        Pass.parse("quantize{activations=dynamic, calibration_method=mse}")
    with pytest.raises(UsageError, match=r"needs kernels that openvino lacks; allowed with ort-cpu"):
        ran(projections().model("sum_out"), target="openvino")
    with pytest.raises(UsageError, match=r"give --data, or take quantize\{activations=dynamic\}"):
        Quantize().run(projections().model("sum_out"), Context(executor=ORT))


def test_a_product_without_rows_is_left_to_the_network_that_has_some() -> None:
    sites, _ = dynamic_products.dynamic_sites(projections().model("sum_out"), {})
    assert dynamic_times.slower(sites, {}, ORT, 17, reduced=False, per_channel=True) == {}
    assert dynamic_times.slower(sites, {"x": (0, 4, WIDTH)}, ORT, 17, reduced=False, per_channel=True) == {}


def test_the_work_of_integer_products_is_counted_as_that_of_floats() -> None:
    model = projections().model("sum_out")
    made, _, _ = ran(model)
    counted = [count_work(each, layer_shapes(each, feed(), ORT)).macs for each in (model, made)]
    assert counted[0] == counted[1] == 2 * 5 * (3 * WIDTH * WIDTH + 2 * WIDTH * 8)


def test_a_layer_keeps_its_name() -> None:
    """Reports say by it what stands in a layer's place; a layer without one would count as removed."""
    made, _, _ = ran(projections().model("sum_out"))
    assert sorted(layer.stands_for for layer in layers(made)) == ["k", "q", "scores", "v", "values"]
    assert {layer.precision for layer in layers(made)} == {"int8"}


def test_a_model_in_half_precision_computes_its_products_in_integers() -> None:
    model = projections().model("sum_out")
    half = ir.clone(model)
    assert Pass.parse("half{activations=true}").run(half, Context())
    made, context, count = ran(half)
    assert count == 5 and not context.skipped
    assert off(half, made, feed()) < 1e-3
    reference = registry.executor("reference").prepare(made)(feed())
    np.testing.assert_allclose(*(next(iter(r.values())) for r in (reference, ORT.prepare(made)(feed()))), atol=0.05)
    timed = ran(half, keep="auto")[1]
    assert not any("does not run" in skip.reason for skip in timed.skipped)


def mixed(nodes: tuple[str, ...], **options: Any) -> tuple[ir.Model, Context]:
    model, data = projections().model("sum_out"), [feed(3), feed(5)]
    context = Context(executor=ORT, data=data)
    Quantize(calibration_method="minmax", keep="none", dynamic_nodes=nodes, **options).run(model, context)
    return model, context


def test_some_grids_are_taken_as_the_model_runs_and_others_from_data() -> None:
    made, context = mixed(("q", "scores"))
    assert {n.name for n in made.graph if n.op_type == "MatMulInteger"} == {"q", "scores"}
    assert sum(n.op_type == "QuantizeLinear" for n in made.graph) and not context.skipped
    assert off(projections().model("sum_out"), made, feed(5)) < 2e-3


def test_a_node_without_such_a_grid_is_told_and_one_that_is_not_there_is_refused() -> None:
    _, context = mixed(("q", "sum"))
    assert [(s.place, "as the model runs" in s.reason) for s in context.skipped] == [("sum", True)]
    with pytest.raises(UsageError, match="'dynamic_nodes' names 'qq', which the model does not have"):
        mixed(("qq",))
    with pytest.raises(UsageError, match="'dynamic_nodes'"):
        mixed(("q",), target="openvino")
    with pytest.raises(UsageError, match="'dynamic_nodes'"):
        Quantize(activations="dynamic", dynamic_nodes=("q",))


def test_tables_take_8_bits_beside_either() -> None:
    """A table whose rows two products read, one of each kind."""
    net = Net()
    table = net.constant(net.rng.normal(size=(400, WIDTH)).astype(np.float32))
    rows = net.op("Gather", table, net.op("Cast", net.input("x", ["n"]), to=int(TensorProto.INT64)), name="table")
    net.op("MatMul", net.op("MatMul", rows, matrix(net, WIDTH, WIDTH), name="one"), matrix(net, WIDTH, 8), name="two")
    data = [{"x": np.arange(i, i + 5, dtype=np.float32)} for i in range(3)]
    for more, bits in (
        ({"dynamic_nodes": ("one",)}, 1),
        ({}, 4),
        ({"dynamic_nodes": ("one",), "nodes_to_exclude": ("table",)}, 4),
    ):
        model, p = net.model("two_out"), Quantize(calibration_method="minmax", keep="none", **more)  # type: ignore[arg-type]
        p.run(model, Context(executor=ORT, data=data))
        table_bytes = max(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
        assert table_bytes == bits * 400 * WIDTH


@pytest.mark.parametrize("late", [{"q"}, set()])
def test_what_gains_is_found_without_rounding_the_weights(late: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model, tried = projections().model("sum_out"), Context(executor=ORT, data=[feed()])
    monkeypatch.setattr(dynamic, "slower", lambda *_, **__: dict.fromkeys(late, "no faster"))
    copy = ir.clone(model)
    Quantize(activations="dynamic").run(copy, tried)
    monkeypatch.setattr(dynamic, "quantize_products", lambda *_, **__: pytest.fail("weights are rounded"))
    found = quantizer().gaining(model, Context(executor=ORT, data=[feed()]))  # type: ignore[attr-defined]
    assert found == sorted({skip.place for skip in tried.skipped}) == sorted(late)
    assert quantizer().gaining(copy, Context(executor=ORT, data=[feed()])) is None  # type: ignore[attr-defined]
