"""Gemms with factors of 0, weights of zeros, weights and tables that are not finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.check import verify
from lwgraph.layers.apply import apply_forms
from lwgraph.layers.form import parse_form
from lwgraph.layers.site import find_sites
from lwgraph.layers.weights import write
from lwgraph.passes.prune.channels import PruneChannels
from lwgraph.passes.prune.weights import PruneWeights
from lwgraph.passes.quantize.absorb_bias import AbsorbBias
from lwgraph.passes.quantize.equalize import Equalize
from lwgraph.passes.quantize.half import Half
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.passes.quantize.quantize_weights import QuantizeWeights
from lwgraph.passes.quantize.round_weights import RoundWeights
from lwgraph.passes.quantize.smooth_quant import SmoothQuant
from lwgraph.plan.refit.unit_weights import Snapshot
from lwgraph.rewrite import Context, Pass
from tests.faults.models import Array, applied, conv, images, kernel, model, reasons, run, sqnr

ROWS = (6, 32)
PASSES: list[Pass] = [
    Quantize(keep="none"),
    Quantize(keep="none", rounding="second-order"),
    Quantize(),
    Equalize(),
    AbsorbBias(),
    SmoothQuant(),
    RoundWeights(),
    RoundWeights(sequential=True),
    RoundWeights(method="adaround"),
    QuantizeWeights(minimum=1),
    QuantizeWeights(minimum=1, bits=4),
    Half(activations=True),
]


def gemms(weight: Array | None = None, **factors: float) -> ir.Model:
    """Gemm, Gemm with `factors` (and `weight`), added to another Gemm."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"], "first", transB=1),
        helper.make_node("Gemm", ["a", "w2", "b2"], ["b"], "second", transB=1, **factors),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Gemm", ["r", "w3", "b3"], ["c"], "third", transB=1),
        helper.make_node("Add", ["b", "c"], ["y"], "sum"),
    ]
    weights = {f"w{i}": kernel(i, 32, 32) for i in (1, 2, 3)} | {f"b{i}": kernel(3 + i, 32) for i in (1, 2, 3)}
    if weight is not None:
        weights["w2"] = weight
    return model(nodes, weights, inputs=[("x", TensorProto.FLOAT, ROWS)], outputs=[("y", TensorProto.FLOAT, ROWS)])


def convs(weight: Array) -> ir.Model:
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("Relu", ["a"], ["r"]),
        conv("r", "w2", "b"),
        helper.make_node("Add", ["b", "a"], ["s"], "sum"),
        conv("s", "w3", "y"),
    ]
    return model(nodes, {"w1": kernel(1, 8, 8, 3, 3), "w2": weight, "w3": kernel(3, 8, 8, 3, 3)})


def spoiled(weight: Array, what: float) -> Array:
    weight = weight.copy()
    weight.reshape(-1)[5] = what
    return weight


MODELS: dict[str, ir.Model] = {
    "alpha 0": gemms(alpha=0.0),
    "beta 0": gemms(beta=0.0),
    "both 0": gemms(alpha=0.0, beta=0.0),
    "alpha tiny": gemms(alpha=1e-30),
    "Gemm of zeros": gemms(np.zeros((32, 32), np.float32)),
    "Conv of zeros": convs(np.zeros((8, 8, 3, 3), np.float32)),
    "a row of zeros": convs(kernel(2, 8, 8, 3, 3) * (np.arange(8) > 0)[:, None, None, None].astype(np.float32)),
}


@pytest.mark.parametrize("pass_", PASSES, ids=str)
@pytest.mark.parametrize("name", list(MODELS))
def test_factors_and_weights_of_zero(name: str, pass_: Pass) -> None:
    before = MODELS[name]
    data = images(shape=before.graph.inputs[0].shape.numpy())  # type: ignore[union-attr]
    after, _, _ = applied(pass_, before, data)
    assert sqnr(before, after, data) > (12 if getattr(pass_, "bits", 8) == 4 else 25)


@pytest.mark.parametrize("pass_", PASSES, ids=str)
@pytest.mark.parametrize("what", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("kind", ["Gemm", "Conv"])
def test_weights_that_are_not_finite(kind: str, what: float, pass_: Pass) -> None:
    """The one layer stays as it is; what does not depend on it stays right, and no warning is raised."""
    before = gemms(spoiled(kernel(2, 32, 32), what)) if kind == "Gemm" else convs(spoiled(kernel(2, 8, 8, 3, 3), what))
    data = images(3, shape=before.graph.inputs[0].shape.numpy())  # type: ignore[union-attr]
    after, _, _ = applied(pass_, before, data)
    for feeds in data:
        (y,), (z,) = run(before, feeds), run(after, feeds)
        if kind == "Gemm":
            np.testing.assert_array_equal(np.isnan(y), np.isnan(z))
            fine = np.isfinite(y)
            assert fine.any() and np.square(z[fine] - y[fine]).sum() < 0.1 * np.square(y[fine]).sum()


def test_the_reason_is_told() -> None:
    before = gemms(spoiled(kernel(2, 32, 32), -np.inf))
    for pass_, place in ((Quantize(keep="none"), "'w2' holds"), (RoundWeights(), "its weight or bias holds")):
        _, context, count = applied(pass_, before, images(shape=ROWS))
        assert count and f"second: {place} infinity or NaN" in reasons(context)
    _, context, count = applied(RoundWeights(), MODELS["alpha 0"], images(shape=ROWS))
    assert count == 2 and "second: alpha=0" in reasons(context)


def test_a_table_with_infinity_is_gathered_as_it_is() -> None:
    mask = np.where(np.triu(np.ones((64, 64)), 1), np.float32(-np.inf), np.float32(0))
    nodes = [
        helper.make_node("Gather", ["table", "pos"], ["mask"], "gather"),
        helper.make_node("Gather", ["words", "pos"], ["e"], "embed"),
        helper.make_node("MatMul", ["e", "w"], ["s"], "product"),
        helper.make_node("Add", ["s", "mask"], ["t"]),
        helper.make_node("Softmax", ["t"], ["y"], axis=-1),
    ]
    before = model(
        nodes,
        {"table": mask, "words": kernel(1, 64, 64), "w": kernel(2, 64, 64)},
        inputs=[("pos", TensorProto.INT64, (64,))],
        outputs=[("y", TensorProto.FLOAT, (64, 64))],
    )
    data = [{"pos": np.arange(64)}]
    after, context, count = applied(QuantizeWeights(), before)
    assert count == 2 and "gather: its table holds infinity or NaN" in reasons(context)
    assert sqnr(before, after, data) > 30


@pytest.mark.parametrize("name", ["alpha 0", "beta 0", "Conv of zeros"])
@pytest.mark.parametrize("measured", [False, True])
def test_forms_and_pruning(name: str, measured: bool) -> None:
    before = MODELS[name]
    data = images(shape=before.graph.inputs[0].shape.numpy())  # type: ignore[union-attr]
    executor = registry.executor("ort")

    def context(of: ir.Model) -> Context:
        return Context(executor=executor, data=data, statistics=Statistics(of, data, executor) if measured else None)

    formed = ir.clone(before)
    records = apply_forms([(site, parse_form("low-rank{rank=4}")) for site in find_sites(formed)], context(formed))
    assert len(records) == (2 if name == "alpha 0" else 3)
    pruned, sparse = ir.clone(before), ir.clone(before)
    PruneChannels(ratio=0.25, multiple=1).run(pruned, context(pruned))
    PruneWeights(sparsity=0.1).run(sparse, context(sparse))
    for after in (formed, pruned, sparse):
        assert all(np.isfinite(y).all() for y in run(after, data[0]))
    assert sqnr(before, sparse, data) > 20


def test_a_bias_that_was_not_used_is_not_used_after_rounding() -> None:
    """With beta 0 the stored bias is of no account; what the rounding adds to it is."""
    before: Any = gemms(np.round(kernel(2, 32, 32), 2), beta=0.0)
    before.graph.initializers["b2"].const_value = ir.Tensor(np.full(32, 1e6, np.float32))
    data = images(shape=ROWS)
    after, _, _ = applied(RoundWeights(), before, data)
    assert sqnr(before, after, data) > 30


@pytest.mark.parametrize("shape", [(), (1,), (32,), (1, 32), (1, 1)])
@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_a_refit_that_is_taken_back_leaves_the_gemm_as_it_was(shape: tuple[int, ...], beta: float) -> None:
    """The bias that is written has n values and no beta; the old one keeps its shape and its factor."""
    original = gemms(beta=beta)
    ir.set_constant(original.graph.initializers["b2"], kernel(9, *shape))
    changed = ir.clone(original)
    site = next(site for site in find_sites(changed) if site.name == "second")
    before = Snapshot(site.nodes)
    write(site, site.weight * 2, np.ones(32))
    after = Snapshot(site.nodes)
    feeds = {"x": kernel(11, *ROWS)}
    doubled = run(changed, feeds)
    before.restore()
    verify(changed)
    assert ir.fingerprint(changed) == ir.fingerprint(original)
    after.restore()
    verify(changed)
    np.testing.assert_array_equal(run(changed, feeds), doubled)
