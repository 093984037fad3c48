"""lwgraph measure: here, for another machine, and what can go wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from .conftest import Ended
from .documents import check

Call = Callable[..., Ended]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def gemm(tmp_path: Path) -> Path:
    """One layer: quick to measure."""
    weight = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], "head", transB=1)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32])],
        [numpy_helper.from_array(weight, "w")],
    )
    path = tmp_path / "gemm.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    batch = {"id": "0", "kind": "switch", "keys": [["switch"]], "ms": [1.0, 1.5], "rounds": 7, "what": ""}
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"lwgraph_prices": 1, "device": "pi5", "threads": 4, "batches": [batch]}))
    return path


def test_measured_once(lw: Call, gemm: Path) -> None:
    first = lw("measure", gemm, "--json", "--quiet")
    assert first.code == 0, first.err
    found = json.loads(first.out)
    check(found, "measure")
    assert found["layers"] == 1 and found["measured"] > 1 and "ort" in found["target"]
    assert json.loads(lw("measure", gemm, "--json", "--quiet").out)["measured"] == 0


def test_export_writes_a_kit_once(lw: Call, gemm: Path, tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    ended = lw("measure", gemm, "--export", kit)
    assert ended.code == 0, ended.err
    assert "python kit/measure.py" in ended.out
    assert {path.name for path in kit.iterdir()} == {"measure.py", "manifest.json", "models"}
    again = lw("measure", gemm, "--export", kit)
    assert again.code == 2 and "not an empty folder" in again.one_line_error()


def test_import_and_list(lw: Call, table: Path) -> None:
    assert "no table of another machine" in lw("measure").out
    ended = lw("measure", "--import", table)
    assert ended.code == 0 and "1 prices of pi5" in ended.out and "--target pi5 --threads 4" in ended.out
    document = json.loads(lw("measure", "--json").out)
    check(document, "measure")
    listed = document["devices"]
    check(json.loads(lw("measure", "--import", table, "--json").out), "measure")
    assert [(d["name"], d["threads"]) for d in listed] == [("pi5", 4)]


def test_wrong_inputs(lw: Call, gemm: Path, table: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    for words, message in (
        (("--import", tmp_path / "none.json"), "cannot be read"),
        (("--import", tmp_path / "bad.json"), "is not a table of prices"),
        ((gemm, "--import", table), "without MODEL and --export"),
        (("--export", tmp_path / "kit"), "needs MODEL"),
    ):
        ended = lw("measure", *words)
        assert ended.code == 2 and message in ended.one_line_error()
    missing = lw("measure", tmp_path / "none.onnx", "--export", tmp_path / "kit")
    assert missing.code == 1 and "none.onnx" in missing.one_line_error() and not (tmp_path / "kit").exists()


def test_a_cache_that_cannot_be_written_is_told(
    lw: Call, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LWGRAPH_CACHE", str(table))  # a file where a folder must be
    ended = lw("measure", "--import", table)
    assert ended.code == 1 and "set LWGRAPH_CACHE" in ended.one_line_error()
