"""Inputs that are empty by design: what ONNX Runtime runs on them is accepted."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from lwgraph import ir
from lwgraph.calibrate.generate import generate
from lwgraph.calibrate.signature import fit, signature
from lwgraph.cli import main
from lwgraph.cli.common import parse_shapes
from lwgraph.errors import DataError, UsageError
from tests.faults.models import kernel, model, run

F32 = TensorProto.FLOAT


def product(rows: int) -> ir.Model:
    """A product and an addition of zero, for a number of rows that the model fixes."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Add", ["a", "none"], ["y"])]
    weights = {"w": kernel(1, 4, 3), "none": np.zeros(3, np.float32)}
    return model(nodes, weights, inputs=[("x", F32, (rows, 4))], outputs=[("y", F32, (rows, 3))])


def cached() -> ir.Model:
    """One step of a decoder: keys and values of what came before, of which there may be nothing."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Reshape", ["a", "heads"], ["b"]),
        helper.make_node("Transpose", ["b"], ["c"], perm=[0, 2, 1, 3]),
        helper.make_node("Concat", ["past", "c"], ["present"], axis=2),
    ]
    weights = {"w": kernel(1, 8, 8), "heads": np.array([1, -1, 2, 4])}
    inputs = [("x", F32, (1, "s", 8)), ("past", F32, (1, 2, "p", 4))]
    return model(nodes, weights, inputs=inputs, outputs=[("present", F32, (1, 2, "t", 4))])


@pytest.mark.parametrize("arguments", [["--preset", "lossless"], []])
def test_a_size_of_0_that_the_model_fixes(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    ir.save(product(0), before)
    assert generate(ir.load(before), 2)[1]["x"].shape == (0, 4)
    monkeypatch.setattr(sys, "argv", ["lwgraph", "optimize", str(before), "-o", str(after), "--quiet", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    made = ir.load(after)
    assert [node.op_type for node in made.graph] == ["Gemm"]
    assert run(made, {"x": np.zeros((0, 4), np.float32)})[0].shape == (0, 3)


def test_an_axis_that_is_empty_at_first() -> None:
    before, past = cached(), np.zeros((1, 2, 0, 4), np.float32)
    feeds = fit({"x": np.ones((1, 3, 8), np.float32), "past": past}, signature(before), "a sample")
    assert run(before, feeds)[0].shape == (1, 2, 3, 4)
    shapes = parse_shapes(["past:1,2,0,4", "x:1,3,8"])
    assert [feed["past"].shape for feed in generate(before, 2, shapes=shapes)] == [(1, 2, 0, 4)] * 2


def test_no_sample_at_all_is_refused() -> None:
    with pytest.raises(DataError, match=r"'x' is empty, shape \[0, 3, 8\]"):
        sample = {"x": np.ones((0, 3, 8), np.float32), "past": np.ones((0, 2, 1, 4), np.float32)}
        fit(sample, signature(cached()), "a sample", check_batch=False)
    with pytest.raises(UsageError, match="with sizes of 1 or more"):
        parse_shapes(["x:0,3,8"])
