"""Patches: the weight times a patch is the layer's output, whatever the geometry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lwgraph import registry
from lwgraph.calibrate.patches import Patches, positions
from tests.calibrate.calibration_layers import canonical, conv_model

ORT = registry.executor("ort")


def check(weight, shape, kind="conv", seed=0, **attributes):
    model, layer = conv_model(weight, shape, kind, **attributes)
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    y = ORT.prepare(model)({"x": x})["y"]
    patches = Patches.of(layer)
    assert patches.grid(shape) == y.shape[2:]
    total = patches.count(shape)
    rows = patches.rows(x, np.arange(total))
    assert rows.shape == (total, layer.group, layer.fan_in)
    expected = np.moveaxis(y, 1, -1).reshape(total, layer.group, -1)
    found = np.einsum("god,rgd->rgo", canonical(weight, kind, layer.group), rows)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_any_convolution(data):
    rank = data.draw(st.integers(1, 3))
    spatial = [data.draw(st.integers(4, 7)) for _ in range(rank)]
    kernel = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    group, per_in, per_out = (data.draw(st.integers(1, 3)) for _ in range(3))
    kind = data.draw(st.sampled_from(["conv", "conv_transpose"]))
    attributes = {"group": group, "strides": [data.draw(st.integers(1, 3)) for _ in range(rank)]}
    auto_pad = data.draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if auto_pad == "NOTSET":
        attributes["pads"] = [data.draw(st.integers(0, k - 1)) for k in kernel * 2]
    else:
        attributes["auto_pad"] = auto_pad
    if auto_pad in ("NOTSET", "VALID") and rank < 3:
        attributes["dilations"] = [data.draw(st.integers(1, 2)) for _ in range(rank)]
    if kind == "conv_transpose" and auto_pad == "NOTSET":
        attributes["output_padding"] = [data.draw(st.integers(0, max(0, s - 1))) for s in attributes["strides"]]
    if kind == "conv_transpose" and auto_pad.startswith("SAME"):
        attributes["strides"] = [1] * rank  # ONNX Runtime and the standard differ for others
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    outer = (group * per_out, per_in) if kind == "conv" else (group * per_in, per_out)
    check(rng.standard_normal((*outer, *kernel)), (2, group * per_in, *spatial), kind, **attributes)


def test_rows_of_a_matrix_product_and_float64():
    x = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    patches = Patches()
    assert patches.count(x.shape) == 6
    assert patches.rows(x, np.array([0, 5])).tolist() == [[[0, 1, 2, 3]], [[20, 21, 22, 23]]]
    assert patches.rows(x, np.array([0])).dtype == np.float64
    assert patches.rows(x.astype(np.float16), np.array([0])).dtype == np.float32


@pytest.mark.parametrize("total, wanted", [(10, 3), (10, 9), (7, 7), (3, 9), (100000, 17), (1000, 999)])
def test_sampled_positions_are_distinct_spread_and_seeded(total, wanted):
    found = positions(total, wanted, np.random.default_rng(3))
    assert len(found) == min(total, wanted)
    assert (np.diff(found) > 0).all()
    assert found[0] >= 0
    assert found[-1] < total
    assert np.array_equal(found, positions(total, wanted, np.random.default_rng(3)))
    if wanted < total // 4:
        assert not np.array_equal(found, positions(total, wanted, np.random.default_rng(4)))
        assert np.diff(found).max() <= 2 * -(-total // wanted)
