"""Presets: each is what it says, and what the user states wins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import registry
from lwgraph.errors import UsageError
from lwgraph.optimizer import Request, optimize
from lwgraph.optimizer.judge import Judge
from lwgraph.optimizer.presets import PRESETS, find_preset


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """x -> Conv 1x1 of rank 1 -> y: redundant, so that an approximate rewrite would be found."""
    weight = np.ones((16, 16, 1, 1), np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16, 8, 8])],
        [numpy_helper.from_array(weight, "w")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_each_preset_reaches_the_request() -> None:
    for name, preset in PRESETS.items():
        request = Request(preset=name)
        assert (request.objective, request.trials, request.asked) == (preset.objective, preset.trials, preset)
        assert request.asked.approximate == (name != "lossless")
    assert Request().asked == Request(preset="balanced").asked


def test_what_is_stated_wins() -> None:
    request = Request(preset="small", objective="macs", budget="2m", max_drop=0.5)
    assert (request.objective, request.budget, request.max_drop) == ("macs", 120.0, 0.5)


def test_an_unknown_preset() -> None:
    with pytest.raises(UsageError, match=r"--preset is 'fats'; did you mean 'fast'"):
        find_preset("fats")


def test_lossless_tries_nothing(model: Path) -> None:
    result = optimize(model, preset="lossless")
    assert result.plan.empty and any("no approximation was tried" in note for note in result.report.notes)
    assert all(check.contract in ("exact", "rounding") for check in result.report.checks)
    with pytest.raises(UsageError, match="without pipeline="):
        optimize(model, preset="lossless", pipeline="clean")


@pytest.mark.parametrize(("score", "factor", "promise"), [(0.9, 1.0, 0.01), (0.9, 2.0, 0.02)])
def test_the_factor_scales_the_default_promise(model: Path, score: float, factor: float, promise: float) -> None:
    from lwgraph import ir

    def metric(run: Mapping[str, Any]) -> float:
        return score

    judge = Judge(ir.load(model), registry.executor("ort"), None, metric, None, 0, factor)
    assert judge.max_drop == pytest.approx(promise) and not judge.stated
