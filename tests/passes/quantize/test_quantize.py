"""The pass `quantize`: what it puts where, what the runtime makes of it, and what it refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.calibrate.ranges import collect
from lwgraph.check import verify
from lwgraph.errors import UsageError
from lwgraph.measure.distance import Distance
from lwgraph.measure.kernels import kernels
from lwgraph.passes.quantize.graph.raise_opset import OpsetError, raise_opset
from lwgraph.passes.quantize.grids.observer import judged, parted
from lwgraph.passes.quantize.placing.placement import Placement, candidates
from lwgraph.passes.quantize.placing.readback import failures
from lwgraph.passes.quantize.placing.target import load_target
from lwgraph.passes.quantize.quantize import CLEARLY, Quantize
from lwgraph.rewrite import Context, Pass
from tests.passes.quantize.quantize_models import Net, detector, images, residual


def quantized(model: ir.Model, data: list[dict[str, Array]], **options: Any) -> tuple[ir.Model, Context, int]:
    made = ir.clone(model)
    context = Context(executor=registry.executor("ort"), data=list(data))
    plain = {"calibration_method": "minmax", "equalize": False, "keep": "none", "rounding": "nearest"}
    count = Quantize(**{**plain, **options}).run(made, context)
    verify(made)
    return made, context, count


def lost(model: ir.Model, other: ir.Model, data: list[dict[str, Array]]) -> float:
    """Relative squared error of the outputs."""
    executor = registry.executor("ort")
    a, b = executor.prepare(model), executor.prepare(other)
    y = np.concatenate([np.concatenate([v.reshape(-1) for v in a(f).values()]) for f in data]).astype(np.float64)
    z = np.concatenate([np.concatenate([v.reshape(-1) for v in b(f).values()]) for f in data]).astype(np.float64)
    return float(((y - z) ** 2).mean() / y.var())


def ran(model: ir.Model) -> Counter[str]:
    proto = registry.executor("ort").optimized(model)  # type: ignore[attr-defined]
    return Counter(node.op_type for node in proto.graph.node)


def ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


COMPUTE = {
    "residual": ["stem", "inner", "outer", "depthwise", "pointwise", "classifier"],
    "detector": ["stem", "low", "mixed", "boxes", "scores"],
}


@pytest.mark.parametrize("name", ["residual", "detector"])
def test_every_layer_becomes_an_integer_kernel_and_stays_close(name: str) -> None:
    model, data = {"residual": residual, "detector": detector}[name](), images()
    made, _, count = quantized(model, data)
    assert count >= len(COMPUTE[name])
    assert failures(registry.executor("ort"), made, COMPUTE[name]) == {}
    assert lost(model, made, images(seed=9)) < 2e-3


def test_nothing_is_converted_between_integer_layers() -> None:
    made, _, _ = quantized(residual(), images())
    count = ran(made)
    assert count["QuantizeLinear"] == 1  # the input
    assert count["DequantizeLinear"] == 0  # the classifier returns floats by itself
    assert count["Relu"] == count["Conv"] == count["Add"] == count["MaxPool"] == 0


def test_a_tail_that_mixes_ranges_stays_in_float_without_being_named() -> None:
    made, _, _ = quantized(detector(), images())
    count = ran(made)
    assert count["QLinearConcat"] == 1  # the inner one
    tail = next(n for n in made.graph if n.name == "tail")
    assert all(
        v is not None and v.producer() is not None and v.producer().op_type != "DequantizeLinear"  # type: ignore
        for v in tail.inputs
    )
    assert {"QLinearSigmoid", "QLinearMul"} <= set(count)


@pytest.mark.parametrize("executor", ["reference", "ort"])
def test_runtimes_agree_on_the_integers(executor: str) -> None:
    model = residual()
    made, _, _ = quantized(model, images())
    before = next(n for n in made.graph if n.name == "classifier").inputs[0]
    assert before is not None and before.producer() is not None
    integers = before.producer().inputs[0].name  # type: ignore[union-attr]
    feed = images(1, (4, 3, 16, 16), seed=5)[0]
    got = registry.executor(executor).prepare(made, [integers])(feed)[integers]
    unoptimized = registry.executor("ort", optimize=False).prepare(made, [integers])(feed)[integers]
    assert got.dtype == np.uint8 and np.abs(got.astype(int) - unoptimized.astype(int)).max() <= 1
    assert np.mean(got != unoptimized) < 0.02


def test_weights_are_stored_once_and_as_integers() -> None:
    model, data = residual(), images()
    made, _, _ = quantized(model, data)
    floats = [v for v in made.graph.initializers.values() if v.dtype == ir.DataType.FLOAT]
    assert max(int(np.prod(ir.constant_shape(v) or ())) for v in floats) <= 32  # scales only
    assert len(ir.to_proto(made).SerializeToString()) < len(ir.to_proto(model).SerializeToString())
    assert all(v.uses() for v in made.graph.initializers.values())


def test_biases_are_int32_at_the_product_of_the_scales() -> None:
    made, _, _ = quantized(residual(), images())
    for node in made.graph:
        if node.op_type == "Conv":
            x, w, b = (v.producer().inputs for v in node.inputs)  # type: ignore[union-attr]
            assert b[0].dtype == ir.DataType.INT32
            product = ir.constant(w[1]) * ir.constant(x[1])  # type: ignore[operator]
            np.testing.assert_allclose(ir.constant(b[1]), product, rtol=1e-6)


def test_a_huge_bias_does_not_saturate() -> None:
    n = Net()
    x = n.input("x", [1, 3, 8, 8])
    y = n.conv(x, 3, 8, name="a")
    n.constants["c0"][:] = 0
    n.constants["c0"][0, 0, 1, 1] = 1e-6
    n.constants["c1"][:] = 1000
    model = n.model(n.conv(y, 8, 4, name="b"))
    data = images(4, (1, 3, 8, 8))
    made, _, _ = quantized(model, data)
    bias = next(n for n in made.graph if n.name == "a").inputs[2].producer().inputs[0]  # type: ignore[union-attr]
    assert np.abs(ir.constant(bias).astype(np.int64)).max() < 2**30 + 2**10  # type: ignore[union-attr]
    assert lost(model, made, data) < 1e-2


def test_the_guard_is_needed() -> None:
    """Without it ONNX Runtime runs an integer kernel where a float one was asked for."""
    n = Net()
    x = n.input("x", [1, 3, 8, 8])
    model = n.model(n.conv(n.conv(n.conv(x, 3, 8, name="a"), 8, 8, name="b"), 8, 4, name="c"))
    made, _, _ = quantized(model, images(4, (1, 3, 8, 8)), nodes_to_exclude=("b",))
    executor = registry.executor("ort")
    assert list(failures(executor, made, ["a", "b", "c"]) or ()) == ["b"] and ran(made)["LeakyRelu"] == 0
    stop = next(n for n in made.graph if n.op_type == "LeakyRelu")
    ir.replace_uses(stop.outputs[0], stop.inputs[0])  # type: ignore[arg-type]
    ir.remove(stop)
    assert (kernels(executor, made) or {})["b"].startswith("QLinear")


def test_a_pool_of_floats_stays_one() -> None:
    """Without the guard ONNX Runtime quantizes before the pool, four times as much, and pools integers slowly."""
    n = Net()
    x = n.input("x", [1, 3, 16, 16])
    pooled = n.op("MaxPool", n.op("Relu", n.conv(x, 3, 8, name="a")), kernel_shape=[2, 2], strides=[2, 2])
    model = n.model(n.conv(pooled, 8, 4, name="b"))
    made, _, _ = quantized(model, images(4, (1, 3, 16, 16)), nodes_to_exclude=("a",))

    def pools_integers() -> bool:
        proto = registry.executor("ort").optimized(made)  # type: ignore[attr-defined]
        makers = {output: node.op_type for node in proto.graph.node for output in node.output}
        return any(makers[n.input[0]] == "QuantizeLinear" for n in proto.graph.node if n.op_type == "MaxPool")

    assert not pools_integers()
    stop = next(n for n in made.graph if n.op_type == "LeakyRelu")
    ir.replace_uses(stop.outputs[0], stop.inputs[0])  # type: ignore[arg-type]
    ir.remove(stop)
    assert pools_integers()


def test_bias_correction_keeps_the_mean() -> None:
    n = Net(opset=21)
    x = n.input("x", [1, 16, 8, 8])
    model = n.model(n.conv(n.conv(x, 16, 16, k=1, name="a"), 16, 8, k=1, name="b"))
    data = [{"x": f["x"] + 3} for f in images(6, (1, 16, 8, 8))]

    def shift(correction: bool) -> float:
        made, _, _ = quantized(
            model, data, bias_correction=correction, weight_type="int4", per_channel=False, target="qnn"
        )
        a, b = (registry.executor("ort").prepare(m) for m in (model, made))
        means = [np.mean([next(iter(r(f).values())).mean(axis=(0, 2, 3)) for f in data], axis=0) for r in (a, b)]
        return float(np.abs(means[0] - means[1]).max())

    assert shift(True) < 0.3 * shift(False)


def test_scalar_products_cost_nothing() -> None:
    n = Net()
    x = n.input("x", [1, 3, 8, 8])
    a = n.conv(x, 3, 8, name="a")
    scaled = n.op("Div", n.op("Mul", a, n.constant(np.float32(0.25))), n.constant(np.array([3], np.float32)))
    model, data = n.model(n.conv(scaled, 8, 4, name="b")), images(4, (1, 3, 8, 8))
    made, _, _ = quantized(model, data)
    assert set(ops(made)) == {"Conv", "QuantizeLinear", "DequantizeLinear"}
    assert failures(registry.executor("ort"), made, ["a", "b"]) == {}
    assert lost(model, made, data) < 2e-3


@pytest.mark.parametrize("outputs", ["middle", "scaled", "rectified"])
def test_a_graph_output_in_the_middle_keeps_name_and_meaning(outputs: str) -> None:
    n = Net()
    x = n.input("x", [1, 3, 8, 8])
    a = n.conv(x, 3, 8, name="a")
    b = {"middle": a, "scaled": "", "rectified": ""}[outputs] or (
        n.op("Mul", a, n.constant(np.float32(2))) if outputs == "scaled" else n.op("Relu", a)
    )
    model, data = n.model(n.conv(b, 8, 4, name="b"), b), images(4, (1, 3, 8, 8))
    made, _, _ = quantized(model, data)
    assert [v.name for v in made.graph.outputs] == [v.name for v in model.graph.outputs]
    assert lost(model, made, data) < 2e-3


def test_relu_with_other_readers() -> None:
    n = Net()
    x = n.input("x", [1, 3, 8, 8])
    a = n.conv(x, 3, 8, name="a")
    r, t = n.op("Relu", a), n.op("Tanh", a)
    u = n.op("Exp", n.op("Neg", r))
    model = n.model(n.conv(r, 8, 4, name="b"), n.conv(t, 8, 4, name="c"), u)
    data = images(4, (1, 3, 8, 8))
    made, _, _ = quantized(model, data)
    assert failures(registry.executor("ort"), made, ["a", "b", "c"]) == {}
    assert lost(model, made, data) < 2e-3


@pytest.mark.parametrize(("low", "high", "absorbed"), [(0.0, 6.0, True), (-1.0, 1.0, True), (0.5, 6.0, False)])
def test_clips_are_absorbed_only_when_zero_lies_inside(low: float, high: float, absorbed: bool) -> None:
    n = Net()
    x = n.input("x", [1, 3, 8, 8])
    a = n.op("Clip", n.conv(x, 3, 8, name="a"), n.constant(np.float32(low)), n.constant(np.float32(high)))
    model, data = n.model(n.conv(a, 8, 4, name="b")), images(4, (1, 3, 8, 8))
    made, _, _ = quantized(model, data)
    assert ("Clip" not in ops(made)) == absorbed
    assert lost(model, made, data) < 2e-3


def test_opset_12_is_raised_for_one_scale_per_channel() -> None:
    model, data = residual(12), images()
    made, context, _ = quantized(model, data)
    assert made.graph.opset_imports[""] == 13 and model.graph.opset_imports[""] == 12 and not context.skipped
    assert any("axis" in n.attributes for n in made.graph if n.op_type == "DequantizeLinear")
    assert lost(model, made, data) < 2e-3


def test_opset_12_stays_where_one_scale_per_tensor_is_wanted() -> None:
    model, data = residual(12), images()
    made, _, _ = quantized(model, data, per_channel=False)
    assert made.graph.opset_imports[""] == 12
    assert all("axis" not in n.attributes for n in made.graph if n.op_type == "DequantizeLinear")
    assert lost(model, made, data) < 5e-3


def test_an_opset_that_cannot_be_raised_stays_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: ir.Model, wanted: int) -> None:
        raise OpsetError("no way")

    monkeypatch.setattr("lwgraph.passes.quantize.quantize.raise_opset", fail)
    made, context, _ = quantized(residual(12), images())
    assert made.graph.opset_imports[""] == 12 and "no way" in context.skipped[0].reason


def test_an_opset_whose_conversion_changes_outputs_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(model: ir.Model, wanted: int) -> None:
        raise_opset(model, wanted)
        bias = next(v for n in model.graph if n.op_type == "Conv" for v in n.inputs[2:])
        assert bias is not None
        ir.set_constant(bias, np.asarray(ir.constant(bias)) + 1)

    monkeypatch.setattr("lwgraph.passes.quantize.quantize.raise_opset", spoil)
    made, context, _ = quantized(residual(12), images())
    assert made.graph.opset_imports[""] == 12 and "outputs changed" in context.skipped[0].reason


def test_inputs_of_varying_width() -> None:
    n = Net()
    x = n.input("x", [1, 3, 8, "w"])
    a = n.op("Relu", n.conv(x, 3, 8, name="a"))
    flat = n.op("Transpose", n.op("ReduceMean", n.conv(a, 8, 8, name="b"), axes=[2], keepdims=0), perm=[0, 2, 1])
    model = n.model(n.op("MatMul", flat, n.constant(np.eye(8, 5, dtype=np.float32)), name="m"))
    data = [{"x": f["x"][..., :w]} for f, w in zip(images(3, (1, 3, 8, 16)), (7, 16, 11), strict=True)]
    made, _, _ = quantized(model, data)
    assert failures(registry.executor("ort"), made, ["a", "b", "m"]) == {}
    assert lost(model, made, data) < 2e-3


def test_shared_weights_and_biases_serve_two_layers() -> None:
    n = Net()
    x = n.input("x", [1, 8, 8, 8])
    a = n.conv(x, 8, 8, name="a")
    b = n.op("Conv", a, "c0", "c1", pads=[1] * 4, name="b")
    c = n.op("Conv", n.op("Relu", a), "c0", "c1", pads=[1] * 4, name="c")
    model, data = n.model(n.op("Add", b, c)), images(4, (1, 8, 8, 8))
    made, _, _ = quantized(model, data)
    assert (
        sum(
            v.dtype == ir.DataType.INT8 and ir.constant_shape(v) == (8, 8, 3, 3)
            for v in made.graph.initializers.values()
        )
        == 1
    )
    assert lost(model, made, data) < 2e-3


def test_gemm_factors_are_folded() -> None:
    n = Net()
    x = n.input("x", ["n", 12])
    a = n.op("Relu", n.gemm(x, 12, 16, alpha=0.5, beta=2.0, name="a"))
    model, data = n.model(n.gemm(a, 16, 4, name="b")), images(6, (3, 12))
    made, _, _ = quantized(model, data)
    assert failures(registry.executor("ort"), made, ["a", "b"]) == {}
    assert lost(model, made, data) < 2e-3


def test_attention_products_of_two_activations() -> None:
    n = Net()
    x = n.input("x", [1, 6, 16])
    q, k = (n.op("MatMul", x, n.constant(n.rng.normal(size=(16, 16)).astype(np.float32))) for _ in range(2))
    scores = n.op("MatMul", q, n.op("Transpose", k, perm=[0, 2, 1]), name="scores")
    model, data = n.model(n.op("Softmax", scores)), images(6, (1, 6, 16))
    made, _, _ = quantized(model, data)
    assert failures(registry.executor("ort"), made, ["scores"]) == {}


@pytest.mark.parametrize(
    "option",
    [
        {"nodes_to_exclude": ("stem", "outer")},
        {"ignored_scope": ("re:^(stem|outer)$",)},
        {"ignored_scope": ("stem", "outer")},
    ],
)
def test_exclusion_by_name(option: dict[str, Any]) -> None:
    made, context, _ = quantized(residual(), images(), **option)
    assert set(failures(registry.executor("ort"), made, COMPUTE["residual"]) or ()) == {"stem", "outer"}
    assert {s.place for s in context.skipped} == {"stem", "outer"}


def test_exclusion_by_type() -> None:
    for options in ({"op_types_to_quantize": ("Conv",)}, {"ignored_scope": ("type:Gemm", "type:Add", "type:MaxPool")}):
        count = ran(quantized(residual(), images(), **options)[0])
        assert count["QLinearConv"] == 5 and count["QGemm"] == 0 and count["Gemm"] == 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"nodes_to_exclude": ("steam",)}, "did you mean 'stem'"),
        ({"ignored_scope": ("re:*a",)}, "no regular expression"),
        ({"op_types_to_quantize": ("Conv", "Konv")}, "did you mean 'Conv'"),
        ({"ignored_scope": ("type:Konv",)}, "matches no node"),
        ({"weight_type": "int4"}, "no integer kernel"),
        ({"activation_type": "uint16"}, "no integer kernel"),
        ({"target": "ort-cpo"}, "did you mean 'ort-cpu'"),
        ({"activation_type": "uint7"}, "allowed: uint8"),
    ],
)
def test_wrong_names(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        quantized(residual(), images(), **options)


def test_a_model_without_layers_says_so() -> None:
    n = Net()
    model = n.model(n.op("Sin", n.input("x", [1, 3])))
    _, context, count = quantized(model, [{"x": np.zeros((1, 3), np.float32)}])
    assert count == 0 and "it has no layer that ort-cpu computes in integers" in context.skipped[0].reason


def test_no_data() -> None:
    with pytest.raises(UsageError, match="needs calibration samples"):
        quantized(residual(), [])


def test_a_quantized_model_is_left_alone() -> None:
    made, _, _ = quantized(residual(), images())
    again, context, count = quantized(made, images())
    assert count == 0 and ir.fingerprint(again) == ir.fingerprint(made)
    assert "already quantized" in context.skipped[0].reason


def test_an_old_opset_that_cannot_be_converted_is_left_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: ir.Model, wanted: int) -> None:
        raise OpsetError("no way")

    monkeypatch.setattr("lwgraph.passes.quantize.quantize.raise_opset", fail)
    n = Net(opset=9)
    model = n.model(n.conv(n.input("x", [1, 3, 8, 8]), 3, 4))
    made, context, count = quantized(model, images(1, (1, 3, 8, 8)))
    assert count == 0 and made.graph.opset_imports[""] == 9
    assert "opset 9 has no QuantizeLinear: no way" in context.skipped[-1].reason


def test_same_input_same_bytes() -> None:
    a, b = (quantized(residual(), images(), calibration_method="auto")[0] for _ in range(2))
    assert ir.fingerprint(a) == ir.fingerprint(b)


def test_auto_takes_what_is_clearly_closer() -> None:
    model, data = residual(), images()
    data[0]["x"][0, 0, 0, 0] = 60  # an outlier
    methods = ("minmax", "moving-average", "mse")
    errors = {m: lost(model, quantized(model, data, calibration_method=m)[0], data) for m in ("auto", *methods)}
    assert errors["auto"] <= 1.05 * CLEARLY * min(errors[m] for m in methods)


def test_auto_keeps_whole_ranges_unless_others_are_clearly_closer(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = residual(), images()
    auto, plain = (quantized(model, data, calibration_method=m)[0] for m in ("auto", "minmax"))
    assert ir.fingerprint(auto) == ir.fingerprint(plain)
    for name, count in (("CLEARLY", 8), ("MARGIN", 16)):  # with samples to spare, they judge, and a margin is enough
        data = images(count)
        plain, _, _ = quantized(model, data, calibration_method="minmax")
        monkeypatch.setattr(f"lwgraph.passes.quantize.quantize.{name}", 1e-3)
        assert ir.fingerprint(quantized(model, data, calibration_method="auto")[0]) != ir.fingerprint(plain)
        monkeypatch.setattr(f"lwgraph.passes.quantize.quantize.{name}", 1e3)
        assert ir.fingerprint(quantized(model, data, calibration_method="auto")[0]) == ir.fingerprint(plain)


def test_variants_are_judged_on_samples_that_their_ranges_do_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    data, judged, seen = images(16), [], []

    class Recording(Distance):
        def __init__(self, reference: Any, feeds: Any) -> None:
            judged.append([id(f) for f in feeds])
            super().__init__(reference, feeds)

    def recorded(model: Any, feeds: Any, *rest: Any, **options: Any) -> Any:
        seen.append([id(f) for f in feeds])
        return collect(model, feeds, *rest, **options)

    monkeypatch.setattr("lwgraph.passes.quantize.quantize.Distance", Recording)
    monkeypatch.setattr("lwgraph.passes.quantize.grids.observer.collect", recorded)
    quantized(residual(), data, calibration_method="auto", equalize=True)
    known, unseen = ([id(f) for f in part] for part in (data[:12], data[12:]))
    assert judged == [unseen] and seen == [known, known, unseen]  # plain with channel scales, even; and the rest


def test_only_what_a_fixed_placement_needs_is_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    observed: list[list[str]] = []

    def recorded(model: Any, feeds: Any, executor: Any, names: list[str], **options: Any) -> Any:
        observed.append(names)
        return collect(model, feeds, executor, names, **options)

    def everything(placed: Placement) -> list[str]:
        return candidates(placed.graph, load_target("ort-cpu"), placed.graph.opset_imports[""])

    monkeypatch.setattr("lwgraph.passes.quantize.grids.observer.collect", recorded)
    few, _, _ = quantized(residual(), images(4), keep="none", calibration_method="minmax", equalize=False)
    monkeypatch.setattr(Placement, "observed", everything)
    all_, _, _ = quantized(residual(), images(4), keep="none", calibration_method="minmax", equalize=False)
    assert set(observed[0]) < set(observed[1])
    scales = [
        [np.asarray(ir.constant(n.inputs[1])).item() for n in made.graph if n.op_type == "QuantizeLinear"]
        for made in (few, all_)
    ]
    assert len(scales[0]) > 3 and scales[0] == pytest.approx(scales[1])


@pytest.mark.parametrize(("rows", "wanted"), [(1, 12), (5, 3), (32, 2)])
def test_variants_are_judged_on_about_so_many_rows(rows: int, wanted: int) -> None:
    model = residual()
    data = [{"x": np.repeat(feed["x"], rows, 0)} for feed in images(20)]
    found = judged(model, data, 12)
    assert len(found) == wanted and all(any(feed is each for each in data) for feed in found)


def test_ranges_know_all_samples_in_the_end() -> None:
    data = images(16)
    data[15]["x"][0, 0, 0, 0] = 60
    for options in ({"calibration_method": "auto"}, {"equalize": True}):
        made, _, _ = quantized(residual(), data, **options)
        q = next(n for n in made.graph if n.op_type == "QuantizeLinear" and n.inputs[0] is made.graph.inputs[0])
        scale, zero = (float(np.asarray(ir.constant(v))) for v in q.inputs[1:])
        assert scale * (255 - zero) > 59.7


def test_samples_are_read_one_by_one_when_they_are_parted() -> None:
    class Samples(Sequence[Any]):
        def __init__(self) -> None:
            self.read: list[int] = []

        def __len__(self) -> int:
            return 16

        def __getitem__(self, index: Any) -> Any:
            self.read.append(range(16)[index])
            return images(16)[index]

    source = Samples()
    known, unseen = parted(source)
    assert (len(known), len(unseen), source.read) == (12, 4, [])
    assert sum(1 for _ in unseen) == 4 and source.read[:4] == [12, 13, 14, 15]
    assert parted(images(15))[1] == ()


@pytest.mark.parametrize("method", ["moving-average", "percentile", "mse", "entropy"])
def test_inputs_are_not_clipped(method: str) -> None:
    data = images()
    data[0]["x"][0, 0, 0, :4] = 40
    made, _, _ = quantized(residual(), data, calibration_method=method, percentile=90.0)
    q = next(n for n in made.graph if n.op_type == "QuantizeLinear" and n.inputs[0] is made.graph.inputs[0])
    scale, zero = (float(np.asarray(ir.constant(v))) for v in q.inputs[1:])
    assert scale * (255 - zero) > 39.9


def test_equalization_is_kept_only_when_it_is_closer() -> None:
    for model in (residual(), detector()):
        data = images()
        errors = [lost(model, quantized(model, data, equalize=e)[0], data) for e in (True, False)]
        assert errors[0] <= 1.05 * errors[1]


def test_options_as_text() -> None:
    text = "quantize{calibration_method=mse,per_channel=false,nodes_to_exclude=[a,b]}"
    made = Pass.parse(text)
    assert made == Quantize(calibration_method="mse", per_channel=False, nodes_to_exclude=("a", "b"))
    assert str(made) == text


@pytest.mark.parametrize("target", ["openvino", "tensorrt", "qnn", "ort-cpu-avx2"])
def test_other_targets_give_valid_models_that_mean_the_same(target: str) -> None:
    for build in (residual, detector):
        model, data = build(), images()
        made, _, _ = quantized(model, data, target=target)
        assert lost(model, made, data) < 2e-2
        stored = {v.dtype for v in made.graph.initializers.values()}
        if target == "tensorrt":
            assert ir.DataType.UINT8 not in stored and ir.DataType.INT32 not in stored
        if target == "ort-cpu-avx2":
            weights = [ir.constant(v) for v in made.graph.initializers.values() if v.dtype == ir.DataType.INT8]
            assert max(np.abs(w.astype(int)).max() for w in weights if w is not None and w.ndim > 1) <= 63


def test_four_bit_weights_raise_the_opset_and_keep_what_was_rounded() -> None:
    model, data = residual(), images()
    assert model.graph.opset_imports[""] < 21
    rounded = ir.clone(model)
    Pass.parse("round-weights{bits=4}").run(rounded, Context(executor=registry.executor("ort"), data=list(data)))
    made, _, count = quantized(rounded, data, target="openvino", weight_type="QInt4", bias_correction=False)
    assert count and made.graph.opset_imports[""] >= 21
    stored = [v for v in made.graph.initializers.values() if v.dtype == ir.DataType.INT4 and v.shape and len(v.shape)]
    codes = {v.name: ir.constant(v).astype(np.int8) for v in stored if (ir.constant(v) != 0).any()}
    assert len(codes) == len(COMPUTE["residual"])
    assert all(c.min() >= -7 and c.max() <= 7 for c in codes.values())
    assert lost(rounded, made, data) < 2e-3  # what activations lose: the weights lie on their grids already


def test_types_that_need_an_opset_out_of_reach_are_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(model: ir.Model, wanted: int) -> None:
        raise OpsetError("the converter has no rule")

    monkeypatch.setattr("lwgraph.passes.quantize.quantize.raise_opset", fails)
    with pytest.raises(UsageError, match=r"int4 needs opset 21 and the model has .*no rule.*allowed here"):
        quantized(residual(), images(), target="openvino", weight_type="int4")
