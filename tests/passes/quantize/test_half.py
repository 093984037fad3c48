"""Half precision: what is stored and computed in 16 bits, what stays float32 and why."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import lwgraph
from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.check import verify
from lwgraph.errors import UsageError
from lwgraph.measure import paired_latency
from lwgraph.passes.quantize import half
from lwgraph.passes.quantize.graph.raise_opset import OpsetError
from lwgraph.passes.quantize.half import Half, narrow, objection
from lwgraph.rewrite import Context, Pass
from tests.passes.quantize.quantize_models import Net, detector, images, residual

DATA = images(3)


def halved(model: ir.Model, **options: object) -> tuple[ir.Model, Context]:
    made, context = ir.clone(model), Context(executor=registry.executor("ort"), data=DATA)  # type: ignore[arg-type]
    assert Half(**options).run(made, context) > 0  # type: ignore[arg-type]
    verify(made)
    return made, context


def outputs(model: ir.Model, executor: str = "ort") -> Array:
    run = registry.executor(executor).prepare(model)
    return np.concatenate([np.asarray(v, np.float64).reshape(-1) for f in DATA for v in run(f).values()])


def sqnr(truth: Array, found: Array) -> float:
    return float(10 * np.log10(np.square(truth).mean() / np.square(truth - found).mean()))


@pytest.mark.parametrize(("type", "decibel"), [("float16", 60), ("bfloat16", 40)])
def test_weights_take_half_the_file_and_compute_in_float32(type: str, decibel: float) -> None:
    model = residual()
    made, _ = halved(model, type=type)
    assert sqnr(outputs(model), outputs(made)) > decibel
    assert sqnr(outputs(made, "reference"), outputs(made)) > 100
    large = [v for v in made.graph.initializers.values() if v.const_value is not None and v.const_value.size >= 256]
    assert large and all(v.dtype is not None and v.dtype.name == type.upper() for v in large)
    ran = [n.op_type for n in registry.executor("ort").optimized(made).graph.node]  # type: ignore[attr-defined]
    assert "Cast" not in ran, "the runtime converts the weights once, when it loads the model"


def test_activations_in_float16_with_casts_at_the_borders_only() -> None:
    model = residual()
    made, _ = halved(model, activations=True)
    assert [(v.name, v.dtype) for v in made.graph.inputs] == [(v.name, v.dtype) for v in model.graph.inputs]
    assert [(v.name, v.dtype) for v in made.graph.outputs] == [(v.name, v.dtype) for v in model.graph.outputs]
    assert [n.op_type for n in made.graph].count("Cast") == 2
    assert all(
        v.dtype == ir.DataType.FLOAT16
        for n in made.graph
        for v in n.outputs
        if n is not made.graph[-1] and n.op_type != "Cast"
    )
    assert sqnr(outputs(model), outputs(made, "reference")) > 45


def test_inputs_and_outputs_follow_when_asked() -> None:
    made, _ = halved(residual(), activations=True, keep_io=False)
    assert made.graph.inputs[0].dtype == made.graph.outputs[0].dtype == ir.DataType.FLOAT16
    assert "Cast" not in [n.op_type for n in made.graph]


def test_what_must_be_float32_stays_so() -> None:
    """Exp is kept by default; Resize reads its scales in float32 by definition."""
    model = detector()
    made, context = halved(model, activations=True)
    assert sqnr(outputs(model), outputs(made, "reference")) > 40
    types = {n.name: n.outputs[0].dtype for n in made.graph}
    assert types["up"] == ir.DataType.FLOAT16
    exp = next(n for n in made.graph if n.op_type == "Exp")
    assert exp.outputs[0].dtype == ir.DataType.FLOAT
    assert any("Exp is kept" in s.reason for s in context.skipped)


def loud(first: float, second: float) -> ir.Model:
    n = Net()
    x = n.input("x", [1, 3, 16, 16])
    a = n.op("Mul", n.conv(x, 3, 8, name="first"), n.constant(np.float32(first)))
    b = n.op("Mul", a, n.constant(np.float32(second)), name="extreme")
    c = n.op("Mul", n.op("Abs", b, name="reader"), n.constant(np.float32(1 / second)))
    return n.model(n.conv(n.op("Mul", c, n.constant(np.float32(1 / first))), 8, 8, name="last"))


@pytest.mark.parametrize(("first", "second"), [(1e3, 3e2), (1e-3, 1e-4)])
def test_tensors_out_of_range_compute_in_float32(first: float, second: float) -> None:
    model = loud(first, second)
    made, context = halved(model, activations=True)
    kept = {s.place: s.reason for s in context.skipped}
    assert "extreme_out" in kept["extreme"] and "extreme_out" in kept["reader"]
    assert sqnr(outputs(model), outputs(made, "reference")) > 45
    types = {n.name: n.outputs[0].dtype for n in made.graph}
    assert types["extreme"] == ir.DataType.FLOAT and types["first"] == ir.DataType.FLOAT16


def test_weights_out_of_range_stay_float32() -> None:
    assert "65504" in objection(np.array([1e5], np.float32), "float16")
    assert "too small" in objection(np.full(4, 1e-8, np.float32), "float16")
    assert "infinity" in objection(np.array([np.inf], np.float32), "bfloat16")
    assert not objection(np.array([1e5, 1e-8], np.float32), "bfloat16")
    n = Net()
    x = n.input("x", [1, 3, 16, 16])
    y = n.conv(n.op("Relu", n.conv(x, 3, 16, name="a")), 16, 16, name="b")
    n.constants["c0"] *= np.float32(1e6)
    made, context = halved(n.model(y))
    assert [s.place for s in context.skipped] == ["c0"]
    assert made.graph.initializers["c0"].dtype == ir.DataType.FLOAT


def test_a_lonely_node_joins_its_float32_neighbours() -> None:
    n = Net()
    x = n.input("x", [1, 3, 16, 16])
    a = n.op("Exp", n.op("Relu", n.op("Exp", n.conv(x, 3, 8, name="first"), name="e1"), name="alone"), name="e2")
    made, context = halved(n.model(n.conv(a, 8, 8, name="last")), activations=True)
    assert {s.place: s.reason for s in context.skipped}["alone"].startswith("it stands alone")
    assert next(m for m in made.graph if m.name == "alone").outputs[0].dtype == ir.DataType.FLOAT


def test_without_data_the_range_is_said_to_be_unknown() -> None:
    context = Context()
    assert Half(activations=True).run(residual(), context) > 0
    assert any("give --data" in w for w in context.warnings)


def test_unknown_nodes_and_wrong_options_are_refused() -> None:
    with pytest.raises(UsageError, match="'nobody'"):
        Half(nodes_to_exclude=("nobody",)).run(residual(), Context())
    with pytest.raises(UsageError, match="float16"):
        Pass.parse("half{type=float8}")
    with pytest.raises(UsageError, match="1 or more"):
        Half(minimum=0)


def test_an_excluded_node_computes_in_float32() -> None:
    made, _ = halved(residual(), activations=True, nodes_to_exclude=("pointwise",))
    assert next(n for n in made.graph if n.name == "pointwise").outputs[0].dtype == ir.DataType.FLOAT


def test_convolutions_in_bfloat16_need_a_newer_opset() -> None:
    model = residual()
    assert model.graph.opset_imports[""] < 22
    assert Half(type="bfloat16", activations=True).run(model, Context(data=None)) > 0
    assert model.graph.opset_imports[""] == 22
    layers = [node for node in model.graph if node.op_type == "Conv"]
    assert layers and all(node.outputs[0].dtype == ir.DataType.BFLOAT16 for node in layers)


def test_a_model_that_cannot_be_raised_stays_at_its_opset(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: ir.Model, wanted: int) -> None:
        raise OpsetError("no way")

    monkeypatch.setattr(half, "raise_opset", refuse)
    model, context = residual(), Context(data=None)
    before = model.graph.opset_imports[""]
    Half(type="bfloat16", activations=True).run(model, context)
    assert model.graph.opset_imports[""] == before
    assert any("no bfloat16 before opset 22: no way" in each.reason for each in context.skipped)


def test_rounds_to_nearest_even() -> None:
    assert narrow(np.array([1 + 2**-11, 1 + 3 * 2**-11], np.float32), "float16").tolist() == [1.0, 1 + 2**-9]
    assert narrow(np.array([1 + 2**-8], np.float32), "bfloat16").astype(np.float32).tolist() == [1.0]


def test_a_type_that_the_target_lacks_is_refused_with_the_cure() -> None:
    model, context = residual(), Context(executor=registry.executor("ort"), data=DATA)  # type: ignore[arg-type]
    before = ir.fingerprint(model)
    assert Half(type="bfloat16", activations=True).run(model, context) == 0
    assert ir.fingerprint(model) == before
    assert any("activations=false" in s.reason for s in context.skipped)
    assert Half(type="bfloat16", activations=True).run(residual(), Context(data=None)) > 0, "for other hardware"


@pytest.mark.parametrize("pipeline", ["half", "half{activations=true}"])
def test_optimize_proves_the_result(pipeline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwgraph.optimizer.timing.paired_latency", functools.partial(paired_latency, rounds=2))
    result = lwgraph.optimize(ir.to_proto(residual()), data=images(8), pipeline=pipeline, max_drop=1e9)
    assert all(check.ok for check in result.report.checks) and len(result.report.checks) == 2
