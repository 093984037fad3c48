"""What the report tells of a quantized model is told of what is there, and never takes the model away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from lwgraph import ir, registry
from lwgraph.calibrate.thresholds import Range
from lwgraph.passes.quantize.grids.grid import activation_grid
from lwgraph.passes.quantize.judging import damage
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.report.record import Report
from lwgraph.report.sections.quantization import quantization
from lwgraph.rewrite import Context
from tests.faults.models import conv, images, in_integers, kernel, model, sqnr

WEIGHTS = {f"w{i}": kernel(i, 8, 8, 3, 3) for i in (1, 2, 3)} | {"half": np.array(0.5, np.float32)}
OPEN = [("x", TensorProto.FLOAT, ("n", 8, "h", "w"))]
OUT = [("y", TensorProto.FLOAT, ("n", 8, None, None))]


def detector() -> ir.Model:
    """HardSwish, which is taken apart, and sizes that are open."""
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("HardSwish", ["a"], ["b"], "swish"),
        conv("b", "w2", "c"),
        helper.make_node("HardSwish", ["c"], ["d"], "swish2"),
        conv("d", "w3", "y"),
    ]
    return model(nodes, WEIGHTS, inputs=OPEN, outputs=OUT)


def halved() -> ir.Model:
    """Two tensors that are the same integers on different grids."""
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("Mul", ["a", "half"], ["m"], "halve"),
        conv("m", "w2", "b"),
        conv("a", "w3", "c"),
        helper.make_node("Add", ["b", "c"], ["y"], "sum"),
    ]
    return model(nodes, WEIGHTS, inputs=OPEN, outputs=OUT)


def sequence() -> ir.Model:
    """The first output is a sequence of tensors of different sizes."""
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("MaxPool", ["a"], ["p"], "pool", kernel_shape=[2, 2]),
        conv("p", "w2", "y"),
        helper.make_node("SequenceConstruct", ["a", "y"], ["q"]),
    ]
    outputs = [helper.make_tensor_sequence_value_info("q", TensorProto.FLOAT, None), *OUT]
    return model(nodes, WEIGHTS, inputs=OPEN, outputs=outputs)


def told(before: ir.Model, **options: Any) -> tuple[ir.Model, dict[str, Any], int]:
    after, details = ir.clone(before), dict[str, Any]()
    context = Context(executor=registry.executor("ort"), data=images(12, (2, 8, 8, 6)), details=details)
    count = Quantize(**options).run(after, context)
    return after, details["quantization"], count


@pytest.mark.parametrize("keep", ["none", "auto"])
@pytest.mark.parametrize("made", [detector, halved])
def test_the_report_does_not_take_the_pass_away(made: Any, keep: str) -> None:
    before = made()
    after, found, count = told(before, keep=keep)
    assert found["failed"] == "" and [n["name"] for n in found["layers"]]
    integers = {n["name"] for n in found["layers"] if n["precision"] == "integer"}
    assert integers == in_integers(after) & {n["name"] for n in found["layers"]}
    assert sqnr(before, after, images(3, (2, 8, 8, 6))) > 25
    if keep == "none":
        assert count and found["outputs"]["y"] > 25


def test_a_sequence_output_is_passed_over() -> None:
    _, found, count = told(sequence(), keep="none", equalize=False, rounding="nearest", calibration_method="minmax")
    assert count and found["failed"] == "" and set(found["outputs"]) == {"y"}


def test_portions_do_not_confuse_tensors_of_the_same_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = told(halved(), keep="none")[1]["tensors"]
    monkeypatch.setattr(damage.measure, "__kwdefaults__", {"activation_bytes": 1, "seed": 0})
    assert told(halved(), keep="none")[1]["tensors"] == whole
    assert {"a", "m"} <= {tensor["name"] for tensor in whole}


def test_tensors_that_one_model_lacks_are_left_out() -> None:
    before = detector()
    after = told(before, keep="none")[0]
    grid = activation_grid(Range(-4.0, 4.0))
    pairs = {"x": ("x_quantized", grid), "gone": ("x_quantized", grid), "a": ("never", grid)}
    found = damage.measure(before, after, images(2, (1, 8, 8, 8)), registry.executor("ort"), pairs)
    assert [tensor.name for tensor in found.tensors] == ["x"]


def test_a_part_that_fails_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("swish_clipped")

    monkeypatch.setattr("lwgraph.passes.quantize.judging.describe.measure", fail)
    before = detector()
    after, found, count = told(before, keep="none")
    assert count and in_integers(after) >= {"conv_a", "conv_c"}
    assert "KeyError: 'swish_clipped'" in found["failed"]
    assert {n["name"] for n in found["layers"] if n["precision"] == "integer"} >= {"conv_a", "conv_c"}
    report = Report("model", "ort-cpu", 1, 0, details={"quantization": found})
    assert "The damage was not measured: KeyError" in quantization(report)
