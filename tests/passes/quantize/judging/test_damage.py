"""The report on a quantized model: figures that can be checked by hand, and the page that shows them."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest

import lwgraph
from lwgraph import ir, registry
from lwgraph.calibrate.capture import capture
from lwgraph.errors import DataError
from lwgraph.measure import paired_latency
from lwgraph.passes.quantize.judging.damage import BINS, decibels, measure, pairs_of
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.report import Report
from lwgraph.report.sections.quantization import quantization
from lwgraph.rewrite import Context
from tests.passes.quantize.quantize_models import Net, detector, images, residual

ORT = registry.executor("ort")
DATA = images(6)


def described(model: ir.Model, **options: object) -> tuple[ir.Model, dict[str, object]]:
    made = ir.clone(model)
    context = Context(executor=ORT, data=DATA, details={})  # type: ignore[arg-type]
    assert Quantize(keep="none", equalize=False, calibration_method="minmax", **options).run(made, context)  # type: ignore[arg-type]
    assert context.details is not None
    return made, context.details["quantization"]


def test_every_layer_and_tensor_is_measured() -> None:
    _, found = described(residual())
    layers = {n["name"]: n for n in found["layers"]}  # type: ignore[attr-defined]
    assert set(layers) == {"stem", "inner", "outer", "depthwise", "pointwise", "classifier"}
    assert all(n["precision"] == "integer" and n["sqnr"] > 20 and n["weight"] > 30 for n in layers.values())
    assert layers["classifier"]["sqnr"] == next(iter(found["outputs"].values()))  # type: ignore[attr-defined]
    for tensor in found["tensors"]:  # type: ignore[attr-defined]
        assert tensor["rounding"] >= tensor["sqnr"] - 1.0, "what was lost before adds to the own rounding"
        assert 0.8 < tensor["used"] <= 1.0 and tensor["saturated"] < 0.01


def test_the_worst_layers_have_histograms_of_all_their_values() -> None:
    model = residual()
    _, found = described(model)
    shown = found["histograms"]
    assert set(shown) <= {n["name"] for n in found["layers"]} and len(shown) > 2  # type: ignore[attr-defined, call-overload]
    stem = shown["stem"]  # type: ignore[index]
    tensor = next(t for t in found["tensors"] if t["grid_high"] == stem["high"])  # type: ignore[attr-defined]
    assert sum(stem["real"]) == sum(stem["integer"]) > 100 and len(stem["real"]) == BINS
    feeds = [DATA[0], DATA[3]][: found["samples"]]  # type: ignore[misc]
    x = np.concatenate([a[tensor["name"]].reshape(-1) for _, a in capture(model, [tensor["name"]], feeds, ORT)])
    assert sum(stem["real"]) == x.size
    again, _ = np.histogram(np.clip(x, stem["low"], stem["high"]), BINS, (stem["low"], stem["high"]))
    assert np.abs(again - stem["real"]).sum() <= 4  # values on the border of two parts, by rounding
    page = quantization(Report("m", "ort-cpu", 1, 0, details={"quantization": found}))
    assert page.count("<details><summary><code>") == len(shown) and "Open a layer" in page


def test_figures_are_those_of_a_direct_computation() -> None:
    """Read a tensor of both models and compute the figures again."""
    model = residual()
    made, found = described(model)
    tensor = next(t for t in found["tensors"] if t["name"] == "relu1_out")  # type: ignore[attr-defined]
    context = Context(executor=ORT, data=DATA, details={})  # type: ignore[arg-type]
    feeds = [DATA[0], DATA[3]]
    q_name = next(
        n.outputs[0].name
        for n in made.graph
        if n.op_type == "QuantizeLinear" and (n.outputs[0].name or "").startswith("relu1_out")
    )
    x = np.concatenate([a["relu1_out"].reshape(-1) for _, a in capture(model, ["relu1_out"], feeds, ORT)])
    q = np.concatenate([a[q_name or ""].reshape(-1) for _, a in capture(made, [q_name or ""], feeds, ORT)])
    y = (q.astype(np.float64) - tensor["zero"]) * tensor["scale"]
    expected = 10 * np.log10(np.square(x.astype(np.float64)).sum() / np.square(x - y).sum())
    assert tensor["sqnr"] == pytest.approx(expected, abs=1e-6)
    assert tensor["low"] == x.min() and tensor["high"] == x.max()
    assert context.details == {}


def test_saturation_is_seen() -> None:
    """Calibrated on quiet samples, shown loud ones: most of a tensor lies beyond its grid."""
    model, made = residual(), residual()
    quiet = [{"x": 0.1 * f["x"]} for f in DATA]
    context = Context(executor=ORT, data=quiet)  # type: ignore[arg-type]
    assert Quantize(keep="none", equalize=False, calibration_method="minmax").run(made, context)
    found = measure(model, made, DATA, ORT)
    worst = found.worst(1)[0].sqnr
    assert worst is not None and worst < 10
    first = next(t for t in found.tensors if t.name == "x")
    assert first.saturated > 0.5 and first.high > 5 * first.grid_high


def test_float_layers_say_why() -> None:
    _, found = described(detector(), nodes_to_exclude=("mixed",))
    layers = {n["name"]: n for n in found["layers"]}  # type: ignore[attr-defined]
    assert layers["mixed"]["precision"] == "float" and "nodes_to_exclude" in layers["mixed"]["reason"]
    assert layers["stem"]["precision"] == "integer" and layers["stem"]["reason"] == ""


def test_portions_do_not_change_the_figures() -> None:
    model, made = residual(), residual()
    assert Quantize(keep="none", equalize=False).run(made, Context(executor=ORT, data=DATA))  # type: ignore[arg-type]
    whole, parts = (measure(model, made, DATA, ORT, activation_bytes=n) for n in (1 << 28, 1 << 12))
    assert [t.name for t in whole.tensors] == [t.name for t in parts.tensors]
    for a, b in zip(whole.tensors, parts.tensors, strict=True):  # the runtime fuses otherwise, and rounds otherwise
        assert a.sqnr == pytest.approx(b.sqnr, abs=0.2) and a.high == pytest.approx(b.high, rel=1e-5)


def test_nothing_quantized_and_nothing_to_measure_on() -> None:
    assert pairs_of(residual(), residual()) == {}
    assert decibels(1.0, 0.0) is None and decibels(0.0, 1.0) is None and decibels(100.0, 1.0) == pytest.approx(20)
    with pytest.raises(DataError, match="at least 1"):
        measure(residual(), residual(), [], ORT)


def test_the_page_shows_the_worst_layer_first() -> None:
    _, found = described(residual())
    report = Report(source="m", target="ort-cpu", threads=1, seed=0)
    assert quantization(report) == ""
    report.details["quantization"] = found
    json.loads(report.to_json())
    page = quantization(report)
    layers = sorted(found["layers"], key=lambda n: float(n["sqnr"]))  # type: ignore[call-overload]
    assert page.index(f"<code>{layers[0]['name']}</code>") < page.index(f"<code>{layers[-1]['name']}</code>")
    assert "6 of 6 layers compute in integers" in page and "quantized tensors" in page and "<svg" in page
    found["layers"][0]["name"] = "<script>"  # type: ignore[index]
    assert "<script>" not in quantization(report)


def test_optimize_puts_it_into_its_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwgraph.optimizer.timing.paired_latency", functools.partial(paired_latency, rounds=2))
    n = Net()
    x = n.input("x", [1, 3, 16, 16])
    y = n.conv(n.op("Relu", n.conv(x, 3, 32, name="a")), 32, 32, name="b")
    result = lwgraph.optimize(ir.to_proto(n.model(y)), data=images(8), pipeline="quantize{keep=none}", max_drop=1e9)
    assert [layer["name"] for layer in result.report.details["quantization"]["layers"]] == ["a", "b"]
