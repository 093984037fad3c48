"""lwgraph plan: show, diff and apply."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from .conftest import Ended, small_model

Call = Callable[..., Ended]


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    choice = {"form": "low-rank{rank=16,split=output}", "error": 0.1, "ms": [1.0, 0.4]}
    path.write_text(json.dumps({"lwgraph_plan": 2, "target": "here", "sites": {"conv2": choice}}))
    return path


def test_show(lw: Call, plan_file: Path, model_file: Path) -> None:
    ended = lw("plan", "show", plan_file)
    assert ended.code == 0, ended.err
    assert "conv2" in ended.out and "low-rank{rank=16,split=output}" in ended.out
    assert "predicted to save 0.600 ms on here" in ended.out
    with_model = lw("plan", "show", plan_file, model_file, "--json")
    (entry,) = json.loads(with_model.out)["choices"]
    assert entry["shape"] == "32x32x3x3" and entry["error"] == 0.1 and entry["ms"] == [1.0, 0.4]


def test_show_refuses_a_plan_of_another_model(lw: Call, plan_file: Path, model_file: Path) -> None:
    plan_file.write_text(plan_file.read_text().replace("conv2", "conv9"))
    ended = lw("plan", "show", plan_file, model_file)
    assert ended.code == 1 and "'conv9'" in ended.one_line_error()


def test_diff(lw: Call, plan_file: Path) -> None:
    same = lw("plan", "diff", plan_file, plan_file)
    assert same.code == 0 and "make the same choices" in same.out
    other = plan_file.with_name("other.json")
    other.write_text('{"lwgraph_plan": 2, "sites": {}, "precision": {"passes": ["quantize"], "keep_float": ["conv1"]}}')
    ended = lw("plan", "diff", plan_file, other, "--json")
    assert ended.code == 1
    changes = json.loads(ended.out)["changes"]
    assert [(c["kind"], c["before"], c["after"]) for c in changes] == [
        ("site", "low-rank{rank=16,split=output}", "as it is"),
        ("passes", "as it is", "quantize"),
        ("float", "not kept in float", "kept in float"),
    ]
    assert changes[0]["ms"] == pytest.approx(-0.6)


def test_diff_ignores_predictions(lw: Call, plan_file: Path) -> None:
    other = plan_file.with_name("other.json")
    other.write_text(plan_file.read_text().replace("0.4", "0.5"))
    assert lw("plan", "diff", plan_file, other).code == 0


def test_apply_fits_to_a_retrained_model(lw: Call, plan_file: Path, tmp_path: Path, samples: Path) -> None:
    retrained, out = tmp_path / "retrained.onnx", tmp_path / "out.onnx"
    onnx.save(small_model(seed=7), retrained)
    ended = lw("plan", "apply", plan_file, retrained, "--data", samples, "-o", out, "--json")
    assert ended.code == 0, ended.err
    forms = {site["name"]: site["form"] for site in json.loads(ended.out)["sites"]}
    assert {n: f for n, f in forms.items() if f} == {"conv2": "low-rank{rank=16,split=output}"} and len(forms) == 3
    names = {node.name for node in onnx.load(out).graph.node}
    assert any("low-rank" in name for name in names)
    assert np.isfinite(onnx.numpy_helper.to_array(onnx.load(out).graph.initializer[0])).all()


@pytest.mark.parametrize("verb", [("show",), ("diff",), ("apply",)])
def test_a_wrong_plan_is_one_line(lw: Call, plan_file: Path, model_file: Path, verb: tuple[str, ...]) -> None:
    plan_file.write_text('{"lwgraph_plan": 2, "sites": {"a": {"form": "low-rnk"}}}')
    before = sorted(plan_file.parent.iterdir())
    ended = lw("plan", *verb, plan_file, plan_file if verb == ("diff",) else model_file)
    assert ended.code == 2
    assert "plan.json" in ended.one_line_error() and "low-rank" in ended.one_line_error()
    assert sorted(plan_file.parent.iterdir()) == before


def test_help_tells_what_each_does(lw: Call) -> None:
    ended = lw("plan", "--help")
    assert ended.code == 0 and all(verb in ended.out for verb in ("show", "diff", "apply"))


def test_workers_and_targets_that_are_wrong(lw: Call, model_file: Path) -> None:
    for words, message in (
        (("--workers", "0"), "--workers is 0; allowed: 1 to"),
        (("--workers", "2", "--dask", "tcp://x:1"), "both say where to work"),
        (("--target", "ort-cp"), "did you mean 'ort-cpu'"),
        (("--target", "none.json"), "none.json' cannot be read"),
        (("--preset", "smal"), "did you mean 'small'"),
    ):
        ended = lw("optimize", model_file, *words)
        assert ended.code == 2 and message in ended.one_line_error()
    assert [path.name for path in model_file.parent.iterdir()] == [model_file.name]
