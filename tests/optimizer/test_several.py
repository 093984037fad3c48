"""--target any: a plan for each runtime, all judged and timed on each, and the best with the code that runs it."""

from typing import Any

import numpy as np
import pytest

import lwgraph
from benchmarks.runtimes import in_floats, in_integers
from lwgraph import ir, registry
from lwgraph.errors import ModelError, UsageError
from lwgraph.executor import faithful, in_stated_types
from lwgraph.optimizer import Result
from lwgraph.report.html import to_html
from tests.optimizer.two_convolutions import two_convolutions

pytest.importorskip("openvino")
from lwgraph.runtime.openvino import OpenVinoExecutor, precisions

SAMPLES = {"x": np.random.default_rng(1).standard_normal((96, 8, 12, 12)).astype(np.float32)}
HALF = pytest.mark.skipif("bf16" not in precisions(), reason="this processor does not compute in bfloat16")


def optimized(target: str, pipeline: str = "clean", **asked: Any) -> Result:
    return lwgraph.optimize(ir.to_proto(two_convolutions(12)), target=target, data=SAMPLES, pipeline=pipeline, **asked)


def rows(result: Result) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["target"], row["model"]): row for row in result.report.details["runtimes"]["rows"]}


def test_every_model_on_every_target() -> None:
    result = optimized("any", "quantize{keep=none,calibration_method=minmax,rounding=nearest,equalize=false}")
    found = rows(result)
    targets = ["ort-cpu", *(f"openvino:{precision}" for precision in precisions())]
    assert list(dict.fromkeys(target for target, _ in found)) == targets
    assert all((target, "input") in found and (target, "ort-cpu") in found for target in targets)
    assert all(found[target, "input"]["verdict"] == "kept" for target in targets[:2])
    assert found["ort-cpu", "input"]["lost"] == 0 and found["ort-cpu", "input"]["speed"] == "1.00x"
    chosen = [key for key, row in found.items() if row["chosen"]]
    told = result.report.details["runtimes"]
    assert chosen == [(told["target"], told["model"])] and result.report.target == told["target"]
    allowed = [row for row in found.values() if row["verdict"] != "broken"]
    assert found[chosen[0]]["milliseconds"] == min(row["milliseconds"] for row in allowed)
    assert "MODEL" in told["code"]
    fixed = 'reshape({"x": [1, 8, 12, 12]})' in told["code"]
    assert fixed == told["target"].startswith("openvino")  # the size of a batch is open, and all samples have the same
    called = in_integers(result.model)
    assert called == ([] if told["model"] == "input" else ["first", "second", "last"])
    assert in_floats(registry.executor("openvino"), result.model) == []
    page = to_html(result.report)
    assert page.index("Runtimes") < page.index("Layers") and "made for ort-cpu" in page


@HALF
def test_bfloat16_is_judged_against_the_model_as_it_is_written() -> None:
    """What the untouched model loses in bfloat16 is a loss, although nothing was rewritten."""
    narrow = registry.executor("openvino:bf16")
    assert not faithful(narrow) and in_stated_types(narrow).name == "openvino:f32"
    strict = optimized("openvino:bf16", metric="cosine", max_drop=1.0)
    assert strict.report.score is not None and strict.report.score.drop != 0


def test_data_are_read_once() -> None:
    """A generator gives its samples to the first run alone."""
    samples = ({"x": SAMPLES["x"][i : i + 1]} for i in range(32))
    result = lwgraph.optimize(ir.to_proto(two_convolutions(12)), target="any", data=samples, pipeline="clean")
    assert {"ort-cpu", "openvino:f32"} <= {target for target, _ in rows(result)}


def test_a_runtime_that_fails_costs_its_own_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ModelError("not this one")

    monkeypatch.setattr(OpenVinoExecutor, "prepare", refuse)
    monkeypatch.setattr("lwgraph.optimizer.request.Request.named", False)
    result = optimized("any")
    assert {target for target, _ in rows(result)} == {"ort-cpu"}
    assert "not optimized for openvino:f32: not this one" in result.report.notes


def test_samples_to_label_are_of_one_target() -> None:
    with pytest.raises(UsageError, match="is for one target"):
        lwgraph.optimize(ir.to_proto(two_convolutions(12)), target="any", data=SAMPLES, label_these="x")
