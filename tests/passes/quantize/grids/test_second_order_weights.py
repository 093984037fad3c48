"""Weights rounded by the second moments of their inputs, inside `quantize`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.measure.distance import Distance
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.rewrite import Context
from tests.passes.quantize.quantize_models import Net

MIXING = np.random.default_rng(1).normal(size=(6, 48)).astype(np.float32)


def layers(**gemm: Any) -> ir.Model:
    """Two layers whose inputs have few directions."""
    n = Net()
    mixed = n.op("Relu", n.gemm(n.input("x", ["n", 48]), 48, 48, name="hidden", **gemm))
    return n.model(n.gemm(mixed, 48, 10, name="last", **gemm))


def data(count: int = 12) -> list[dict[str, Array]]:
    latent = np.random.default_rng(2).normal(size=(count, 128, 6)).astype(np.float32)
    return [{"x": x @ MIXING} for x in latent]


def quantized(
    model: ir.Model, rounding: str, feeds: list[dict[str, Array]], **options: Any
) -> tuple[ir.Model, Context]:
    context = Context(executor=registry.executor("ort"), data=feeds)
    plain = {"calibration_method": "minmax", "equalize": False, "keep": "none", "reduce_range": True}
    Quantize(rounding=rounding, **{**plain, **options}).run(made := ir.clone(model), context)  # type: ignore[arg-type]
    return made, context


@pytest.mark.parametrize("options", [{}, {"alpha": 0.5}])
def test_auto_takes_the_second_order_where_weights_do_the_damage(options: dict[str, Any]) -> None:
    model, feeds = layers(**options), data()
    executor = registry.executor("ort")
    distance = Distance(executor.prepare(model), feeds)
    made = {r: quantized(model, r, feeds)[0] for r in ("auto", "nearest", "second-order")}
    lost = {r: distance(executor.prepare(m)) for r, m in made.items()}
    assert lost["second-order"] < lost["nearest"] / 1.5
    assert ir.fingerprint(made["auto"]) == ir.fingerprint(made["second-order"])


def test_nothing_is_tried_where_activations_do_the_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr("lwgraph.passes.quantize.quantize.finer", never)
    monkeypatch.setattr("lwgraph.passes.quantize.quantize.weight_share", lambda *_: 0.33)
    model, feeds = layers(), data()
    assert ir.fingerprint(quantized(model, "auto", feeds)[0]) == ir.fingerprint(quantized(model, "nearest", feeds)[0])
    monkeypatch.setattr("lwgraph.passes.quantize.quantize.weight_share", lambda *_: 0.34)  # could be 1.5 times closer
    with pytest.raises(AssertionError):
        quantized(model, "auto", feeds)


def test_auto_leaves_what_is_not_closer(monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeds = layers(), data()
    monkeypatch.setattr("lwgraph.passes.quantize.quantize.CLEARLY", 1e3)
    monkeypatch.setattr("lwgraph.passes.quantize.quantize.weight_share", lambda *_: 1.0)
    assert ir.fingerprint(quantized(model, "auto", feeds)[0]) == ir.fingerprint(quantized(model, "nearest", feeds)[0])


def test_one_step_for_a_tensor_is_rounded_to_nearest() -> None:
    model, feeds = layers(), data()
    made, context = quantized(model, "second-order", feeds, per_channel=False)
    assert any("second-order needs a step for each output channel" in s.reason for s in context.skipped)
    nearest, _ = quantized(model, "nearest", feeds, per_channel=False)
    assert ir.fingerprint(made) == ir.fingerprint(nearest)
