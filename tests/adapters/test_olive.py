"""The pass of Olive, in Olive itself: the workflow of the examples, from its files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("olive")

from lwgraph.adapters.olive import PACKAGE_CONFIG, LwgraphOptimize
from lwgraph.optimizer.request import options
from tests.cli.conftest import small_model

WORKFLOW = Path(__file__).parents[2] / "examples" / "olive" / "workflow.json"


def test_every_argument_of_optimize_is_an_option_of_the_pass():
    assert set(LwgraphOptimize._default_config(None)) == {f.name for f, _, _ in options()} | {"data_config"}
    assert "LwgraphOptimize" in json.loads(PACKAGE_CONFIG.read_text())["passes"]


def test_the_workflow_of_the_examples(tmp_path):
    onnx.save(small_model(), tmp_path / "model.onnx")
    np.savez(tmp_path / "samples.npz", x=np.random.default_rng(0).standard_normal((48, 3, 16, 16)).astype(np.float32))
    code = "import sys, olive.workflows as w; w.run(sys.argv[1], package_config=sys.argv[2])"
    ended = subprocess.run(
        [sys.executable, "-c", code, str(WORKFLOW), str(PACKAGE_CONFIG)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (made,) = [path for path in (tmp_path / "smaller").rglob("*.onnx") if "cache" not in path.parts]
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(made).graph.node}
