"""A Gemm with beta 0 does not look at its bias (as in BLAS): nor does any pass, whatever the bias holds."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from lwgraph import ir, registry
from lwgraph.check import verify
from lwgraph.rewrite import Context, Pipeline
from tests.faults.models import images, kernel, model, sqnr

ROWS = (6, 16)
DATA = images(4, ROWS)
DECIBELS = {
    "fuse": 100,
    "equalize": 100,
    "absorb-bias": 100,
    "remove-dead-channels": 100,
    "half{activations=true}": 50,
    "quantize{keep=none}": 30,
    "round-weights": 40,
    "quantize-weights{minimum=1}": 30,
    "prune-weights{sparsity=0.1}": 20,
    "prune-channels{ratio=0.1,multiple=1}": 10,
}


def gemms(bias: float, opset: int = 17) -> ir.Model:
    """Two Gemms of three must not look at their bias; constants around them fold, and channels can be scaled."""
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "high"], ["h"], "head", transB=1),
        helper.make_node("Relu", ["h"], ["s"]),
        helper.make_node("Gemm", ["s", "w1", "b1"], ["a"], "first", transB=1, beta=0.0),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["c"], "second", beta=0.0, alpha=0.5),
        helper.make_node("Add", ["c", "shift"], ["y"], "after"),
    ]
    weights = {f"w{i}": kernel(i, 16, 16) for i in range(3)} | {f"b{i}": np.full(16, bias, np.float32) for i in (1, 2)}
    weights |= {"high": np.full(16, 20, np.float32), "shift": kernel(4, 16)}
    weights["w0"][:4] *= 4  # uneven channels
    weights["w0"][5] = 0  # a channel that is the same for every input
    info = [("x", TensorProto.FLOAT, ROWS)], [("y", TensorProto.FLOAT, ROWS)]
    return model(nodes, weights, inputs=info[0], outputs=info[1], opset=opset)


def rewritten(text: str, before: ir.Model) -> tuple[ir.Model, int]:
    after = ir.clone(before)
    context = Context(executor=registry.executor("ort"), data=DATA)
    steps = Pipeline.parse(text).rewrite(after, context)
    verify(after)
    return after, sum(step.count for step in steps)


@pytest.mark.parametrize("text", DECIBELS)
def test_a_bias_that_counts_for_nothing(text: str) -> None:
    """The result is right, and as if the bias were zero."""
    before = gemms(1e4)
    after, found = rewritten(text, before)
    plain, count = rewritten(text, gemms(0.0))
    assert found == count > 0
    assert sqnr(before, after, DATA) > DECIBELS[text]
    assert sqnr(plain, after, DATA) > 100


@pytest.mark.parametrize("text", ["fuse", "remove-dead-channels", "round-weights"])
def test_one_that_is_not_a_number(text: str) -> None:
    """A pass by itself may leave such a layer alone; a cleaned model has no such bias."""
    before = gemms(np.nan)
    for first in ("", "default-inputs,"):
        after, found = rewritten(first + text, before)
        assert sqnr(before, after, DATA) > DECIBELS[text]
    assert found == rewritten(first + text, gemms(0.0))[1] >= 3


@pytest.mark.parametrize(("opset", "left"), [(7, 3), (10, 3), (11, 1), (13, 1)])
def test_cleaning_drops_it_where_it_is_optional(opset: int, left: int) -> None:
    before = gemms(np.inf, opset)
    after, _ = rewritten("clean", before)
    assert sum(len(node.inputs) == 3 for node in after.graph if node.op_type == "Gemm") == left
    assert sum("beta" in node.attributes for node in after.graph) == left - 1
    assert sqnr(before, after, DATA) > 100
