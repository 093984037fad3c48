"""Layers that share a constant and read it in different ways, and forms in models of old opsets."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from lwgraph import ir
from lwgraph.calibrate.gram import Gram
from lwgraph.layers.apply import apply_forms
from lwgraph.layers.form import parse_form
from lwgraph.layers.moments import Moments
from lwgraph.layers.site import find_sites
from lwgraph.passes.forms.octave import Octave
from lwgraph.passes.prune.channels import PruneChannels
from lwgraph.passes.prune.weights import PruneWeights
from lwgraph.passes.quantize.round_weights import RoundWeights
from lwgraph.rewrite import Context, Pipeline
from tests.faults.models import applied, conv, images, kernel, model, reasons, sqnr

ROWS = (6, 32)


def products() -> ir.Model:
    """A square weight of low rank, of a Gemm, a Gemm that transposes it, and a MatMul."""
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"], "plain"),
        helper.make_node("Gemm", ["x", "w"], ["b"], "turned", transB=1, alpha=0.5),
        helper.make_node("MatMul", ["x", "w"], ["c"], "product"),
        helper.make_node("Concat", ["a", "b", "c"], ["y"], axis=1),
    ]
    weight = kernel(0, 32, 2) @ kernel(1, 2, 32)
    return model(
        nodes, {"w": weight}, inputs=[("x", TensorProto.FLOAT, ROWS)], outputs=[("y", TensorProto.FLOAT, (6, 96))]
    )


def test_forms_of_one_weight_that_is_read_in_three_ways() -> None:
    before = products()
    after = ir.clone(before)
    context = Context()
    sites = find_sites(after)
    records = apply_forms([(site, parse_form("low-rank{rank=2}")) for site in sites], context)
    assert [record.done for record in records] == [True] * 3
    assert sqnr(before, after, images(2, ROWS)) > 80


@pytest.mark.parametrize("data", [True, False])
def test_zeros_are_not_put_into_a_weight_that_is_read_in_three_ways(data: bool) -> None:
    before = products()
    after, context, count = applied(PruneWeights(), before, images(8, ROWS) if data else None)
    assert count == 0 and "which reads it otherwise" in reasons(context)
    assert ir.fingerprint(after) == ir.fingerprint(before)


def test_channels_that_such_a_weight_reads_are_pruned_all_the_same() -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "v"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w"], ["a"], "plain"),
        helper.make_node("MatMul", ["r", "w"], ["c"], "product"),
        helper.make_node("Add", ["a", "c"], ["y"]),
    ]
    before = model(
        nodes,
        {"v": kernel(2, 32, 32), "w": kernel(3, 32, 32)},
        inputs=[("x", TensorProto.FLOAT, ROWS)],
        outputs=[("y", TensorProto.FLOAT, ROWS)],
    )
    data = images(12, ROWS)
    after, _, count = applied(PruneChannels(ratio=0.25, multiple=1), before, data)
    assert count and sqnr(before, after, data) > 3


@pytest.mark.parametrize("opset", [9, 10, 17])
def test_an_image_that_is_cropped_before_a_smaller_kernel(opset: int) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv")]
    weight = np.zeros((8, 8, 3, 3), np.float32)
    weight[:, :, 2, 2] = kernel(0, 8, 8)
    before = model(nodes, {"w": weight}, outputs=[("y", TensorProto.FLOAT, (1, 8, 6, 6))], opset=opset)
    after, _, count = applied(Pipeline.parse("smaller-kernel{size=1}").passes[0], before)
    assert count == 1 and any(node.op_type == "Slice" for node in after.graph)
    assert sqnr(before, after, images(2)) > 80


@pytest.mark.parametrize(("opset", "count"), [(10, 0), (11, 1)])
def test_octave_needs_resize(opset: int, count: int) -> None:
    before = model([conv("x", "w", "y")], {"w": kernel(0, 8, 8, 3, 3)}, opset=opset)
    found = Octave.refusal(find_sites(before)[0])
    assert bool(found) == (not count) and (not found or "Resize of opset 11" in found)


@pytest.mark.parametrize("sequential", [True, False])
def test_inputs_that_hardly_vary(sequential: bool) -> None:
    """What is left of their covariance is rounding, and not definite."""
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], "dense", transB=1)]
    before = model(
        nodes,
        {"w": kernel(0, 8, 8), "b": kernel(1, 8)},
        inputs=[("x", TensorProto.FLOAT, (1, 8))],
        outputs=[("y", TensorProto.FLOAT, (1, 8))],
    )
    rng = np.random.default_rng(3)
    data = [{"x": (1 + 1e-7 * rng.standard_normal((1, 8))).astype(np.float32)} for _ in range(8)]
    after, _, count = applied(RoundWeights(sequential=sequential), before, data)
    assert count == 1 and sqnr(before, after, data) > 30


def test_moments_of_inputs_that_do_not_vary_are_definite() -> None:
    mean = np.linspace(1, 3, 16)[None]
    matrix = mean[:, :, None] * mean[:, None, :]
    matrix -= 1e-16 * np.eye(16)
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], "dense")]
    made = model(
        nodes,
        {"w": kernel(0, 16, 16)},
        inputs=[("x", TensorProto.FLOAT, (1, 16))],
        outputs=[("y", TensorProto.FLOAT, (1, 16))],
    )
    (block,) = Moments(find_sites(made)[0], Gram(matrix, mean, 100)).blocks
    assert np.linalg.eigvalsh(block.moments).min() > 0
