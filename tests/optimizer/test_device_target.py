"""Planning for a machine elsewhere: predicted with its prices, never measured, and said so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir, registry
from lwgraph.calibrate import generate
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.layers.form import searched_forms
from lwgraph.optimizer import Result, optimize, timing
from lwgraph.optimizer.stages import structure
from lwgraph.plan.price.kit import Recorder
from lwgraph.plan.price.prefetch import ask_all
from lwgraph.plan.price.regress import FIRST, FLOATS, INTEGERS
from lwgraph.rewrite import Context, Pipeline

DEVICE = {"lwgraph_prices": 1, "device": "far", "threads": 1, "runtime": "onnxruntime 9"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions of 16 channels."""
    random = np.random.default_rng(0)
    weights = [(random.standard_normal((16, 16, 3, 3)) / 12).astype(np.float32) for _ in range(2)]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "v"], ["a"], "first", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["a"], ["r"], "relu"),
            helper.make_node("Conv", ["r", "w"], ["y"], "second", pads=[1, 1, 1, 1]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16, 6, 6])],
        [numpy_helper.from_array(w, n) for w, n in zip(weights, "vw", strict=True)],
    )
    folder = tmp_path_factory.mktemp("device")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")
    samples = random.standard_normal((24, 16, 6, 6)).astype(np.float32)
    np.savez(folder / "samples.npz", x=samples)
    return folder / "m.onnx"


def table(model: Path, int8: float) -> Path:
    """Made-up prices: forms take as long as the dense layer, and the dense layer in integers `int8` of that."""
    executor = registry.executor("ort")
    recorder, loaded = Recorder(executor), ir.load(model)
    feeds = next(iter(generate(loaded, 1, executor=executor)))
    Pipeline.parse("default").run(loaded, Context())
    forms = searched_forms(pytest.fail)
    ask_all(loaded, recorder, Context(executor=executor), forms=forms, shapes=layer_shapes(loaded, feeds, executor))
    batches: list[dict[str, Any]] = []
    for number, batch in enumerate(recorder.batches):
        count = len(batch.keys)
        integers = [1 + 9 * int8] * count
        ms = {
            FLOATS: [10.0, 1.0] + [10.0] * count,
            INTEGERS: [10.0, 1.0, 1.0, 1.0, *integers],
            FIRST: [10.0, 1.0, 2.0, *integers],
        }
        kept = {"id": str(number), "kind": batch.kind, "keys": batch.keys, "what": batch.what, "rounds": 7}
        batches.append({**kept, "ms": ms.get(batch.kind, [1.0] * len(batch.models))})
    path = model.with_name(f"table-{int8}.json")
    path.write_text(json.dumps({**DEVICE, "batches": batches}))
    return path


def planned(model: Path, target: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Result:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("timed for a machine that is elsewhere")

    monkeypatch.setattr(timing, "paired_latency", never)
    monkeypatch.setattr(structure, "find_offers", never)  # narrower layers have no price there
    data = model.with_name("samples.npz")
    return optimize(model, data=data, metric="sqnr", max_drop=80.0, target=str(target), **options)


@pytest.mark.usefixtures("no_trials")
def test_what_is_fast_there_is_chosen(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = planned(model, table(model, 0.25), monkeypatch, speedup=1.5)
    assert result.status == 3  # four samples resolve nothing
    assert result.plan.precision.passes and "far" in result.plan.target
    before, after = result.plan.ms
    assert before == pytest.approx(18.0) and after == pytest.approx(4.5)  # two layers of 9 ms, a quarter in integers
    assert any("was not measured here but predicted" in note for note in result.report.notes)
    assert all(stage.ratio is None and stage.milliseconds is None for stage in result.report.stages)


@pytest.mark.usefixtures("no_trials")
def test_what_is_slow_there_is_not(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = planned(model, table(model, 2.0), monkeypatch, speedup=1.5)
    assert not result.plan.precision.passes
    assert not result.kept and "speedup=1.5" in result.report.outcome  # told from predictions, too
