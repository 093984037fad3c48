"""Runs the command line in this process, as the console script would."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph.cli import main


@dataclass
class Ended:
    code: int
    out: str
    err: str

    def one_line_error(self) -> str:
        """The error text, after checking that it is one clean line and no traceback."""
        lines = [line for line in self.err.splitlines() if line.startswith("lwgraph: error:")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err + self.out
        return lines[0]


@pytest.fixture
def lw(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    def call(*args: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["lwgraph", *map(str, args)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capfd.readouterr()
        code = ended.value.code
        return Ended(code if isinstance(code, int) else 1, captured.out, captured.err)

    return call


def small_model(*, classes: int = 10, seed: int = 0) -> onnx.ModelProto:
    """conv 3x3 (3 to 32, BatchNormalization, Relu), conv 3x3 (32 to 32, Relu), average pool, Gemm; batch is dynamic."""
    rng = np.random.default_rng(seed)

    def array(name: str, *shape: int, scale: float = 1.0) -> onnx.TensorProto:
        return numpy_helper.from_array((rng.standard_normal(shape) * scale).astype(np.float32), name)

    ones = numpy_helper.from_array(np.ones(32, np.float32), "var")
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "scale", "shift", "mean", "var"], ["b1"], "bn1"),
        helper.make_node("Relu", ["b1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["logits"], "head", transB=1),
    ]
    initializers = [
        array("w1", 32, 3, 3, 3, scale=0.2),
        array("scale", 32),
        array("shift", 32),
        array("mean", 32),
        ones,
        array("w2", 32, 32, 3, 3, scale=0.06),
        array("b2", 32),
        array("w3", classes, 32),
        array("b3", classes),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    onnx.save(small_model(), path)
    return path


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    path = tmp_path / "samples.npz"
    rng = np.random.default_rng(0)
    np.savez(path, x=rng.standard_normal((64, 3, 16, 16)).astype(np.float32))
    return path
