"""Static integers even out outlier channels behind normalizations, where that brings the outputs nearer."""

from __future__ import annotations

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.rewrite import Context
from tests.passes.quantize.quantize_models import Net

ORT = registry.executor("ort")
WIDTH = 32


def normed(loud: float) -> ir.Model:
    """A normalization with one channel that is louder than the others, which the product behind takes back."""
    net = Net()
    scale, weight = np.ones(WIDTH, np.float32), net.rng.normal(size=(WIDTH, 16)).astype(np.float32)
    scale[3], weight[3] = loud, weight[3] / loud
    x = net.input("x", ["n", WIDTH])
    y = net.op("LayerNormalization", x, net.constant(scale), net.constant(np.zeros(WIDTH, np.float32)), name="norm")
    net.op("MatMul", y, net.constant(weight), name="product")
    return net.model("product_out")


def lost(model: ir.Model, equalize: bool) -> float:
    rng = np.random.default_rng(1)
    data = [{"x": rng.normal(size=(8, WIDTH)).astype(np.float32)} for _ in range(16)]
    made = ir.clone(model)
    p = Quantize(calibration_method="minmax", keep="none", rounding="nearest", equalize=equalize)
    assert p.run(made, Context(executor=ORT, data=data))
    feed = {"x": rng.normal(size=(64, WIDTH)).astype(np.float32)}
    want, got = (next(iter(ORT.prepare(m)(feed).values())) for m in (model, made))
    return float(np.square(want - got).sum() / np.square(want - want.mean()).sum())


def test_a_loud_channel_behind_a_normalization_is_evened_out() -> None:
    assert lost(normed(100.0), True) < 0.05 * lost(normed(100.0), False)


def test_even_channels_stay() -> None:
    assert lost(normed(1.0), True) == pytest.approx(lost(normed(1.0), False))
