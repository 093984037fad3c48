"""Prices on OpenVINO, under a key that tells precision, version and threads; integers have one where they are such."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from lwgraph import ir, registry
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.layers.site import find_sites
from lwgraph.plan.precision import INT8
from lwgraph.plan.price.oracle import Oracle
from lwgraph.plan.price.price_table import PriceCache
from lwgraph.runtime.openvino import OpenVinoRun
from tests.runtime.models import model

pytest.importorskip("openvino")


def network() -> ir.Model:
    weight = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="layer", pads=[1] * 4)
    return model([node], {"x": (TensorProto.FLOAT, [1, 16, 8, 8])}, ["y"], {"w": weight})


def priced(monkeypatch: pytest.MonkeyPatch, precision: str = "u8") -> float:
    """The price of the layer in integers, where OpenVINO says that it runs everything in `precision`."""
    m, executor = network(), registry.executor("openvino")
    site = find_sites(m, layer_shapes(m, {"x": np.ones((1, 16, 8, 8), np.float32)}, executor))[0]
    if precision != "u8":
        kernels = OpenVinoRun.kernels.func
        monkeypatch.setattr(
            OpenVinoRun,
            "kernels",
            property(lambda run: [k.__class__(k.name, k.op_type, 0.0, precision, k.nodes) for k in kernels(run)]),
        )
    return Oracle(executor, PriceCache.in_memory(), budget=0.001).prices(site, [None], INT8)[0].ms


def test_integers_have_a_price(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < priced(monkeypatch) < float("inf")


def test_what_runs_in_floats_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert priced(monkeypatch, "f32") == float("inf")


def test_the_key_tells_the_precision() -> None:
    target = Oracle(registry.executor("openvino"), PriceCache.in_memory()).target
    assert target.startswith("openvino:f32 20") and "threads=1" in target
