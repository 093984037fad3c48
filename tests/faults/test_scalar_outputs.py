"""Outputs of rank 0, one number for a whole feed: their kind is found, and each metric judges them or says why not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import lwgraph
from lwgraph.errors import DataError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((24, 4, 6, 6)).astype(np.float32)
W = RNG.standard_normal((4, 4, 3, 3)).astype(np.float32)
TAILS = {
    "float y": "y = ReduceMean <keepdims = 0> (r)",
    "int64 y": "q = Flatten (r)  i = ArgMax <keepdims = 0, axis = 1> (q)  y = ReduceMax <keepdims = 0> (i)",
    "bool y": "m = ReduceMean <keepdims = 0> (r)  y = Greater (m, half)",
    "float y, float[1, 4] z": "y = ReduceMean <keepdims = 0> (r)  g = GlobalAveragePool (r)  z = Flatten (g)",
}


def scalar(outputs: str) -> onnx.ModelProto:
    head = '<ir_version: 8, opset_import: ["" : 17]>'
    text = f"{head} g (float[1,4,6,6] x) => ({outputs}) {{ c = Conv (x, w)  r = Relu (c)  {TAILS[outputs]} }}"
    made: Any = parser.parse_model(text)
    for name, value in {"w": W, "half": np.float32(0.5)}.items():
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return made


@pytest.mark.parametrize("outputs", TAILS)
def test_they_are_judged(outputs: str) -> None:
    result = lwgraph.optimize(scalar(outputs), data={"x": X}, pipeline="low-rank{rank=2}")
    assert result.report.score is not None and len(result.model.graph) >= 3
    assert np.shape(result.session().run(["y"], {"x": X[:1]})[0]) == ()


@pytest.mark.parametrize(("outputs", "metric"), [("int64 y", "top1"), ("float y", "psnr"), ("float y", "cosine")])
def test_by_metrics_with_labels(outputs: str, metric: str) -> None:
    data = {"x": X, "labels": np.zeros(24, np.int64 if metric == "top1" else np.float32)}
    assert lwgraph.optimize(scalar(outputs), data=data, metric=metric, pipeline="clean").report.score is not None


@pytest.mark.parametrize("metric", ["top1", "agreement", "symbols"])
def test_what_needs_classes_says_so(metric: str) -> None:
    with pytest.raises(DataError, match=r"output 'y' has shape \[\]: no"):
        lwgraph.optimize(scalar("float y"), data={"x": X, "labels": np.zeros(24, int)}, metric=metric)


@pytest.mark.parametrize("given", [None, {"x": np.arange(96, dtype=np.float32).reshape(4, 2, 3, 4)}])
def test_a_sequence_of_unlike_tensors_is_judged_by_each(given: Any) -> None:
    """Their shapes do not stack to one array."""
    head = '<ir_version: 8, opset_import: ["" : 17]>'
    nodes = "{ i = Identity (x)  y = SplitToSequence <axis = 2> (i, parts) }"
    text = f"{head} g (float[2,3,4] x) => (seq(float[A,B,C]) y) <int64[2] parts = {{1, 3}}> {nodes}"
    result = lwgraph.optimize(parser.parse_model(text), data=given)
    assert [node.op_type for node in result.model.graph] == ["SplitToSequence"]
    (found,) = result.session().run(None, {"x": np.ones((2, 3, 4), np.float32)})
    assert [value.shape for value in found] == [(2, 3, 1), (2, 3, 3)]
