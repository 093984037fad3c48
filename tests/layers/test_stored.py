"""A layer's weight in its own type is the one that fits see, without a copy where the model holds it so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir
from lwgraph.layers.site import find_sites


@pytest.mark.parametrize(
    ("operator", "shape", "attributes"),
    [
        ("Conv", (6, 2, 3, 3), {"group": 2}),
        ("ConvTranspose", (4, 3, 3, 3), {"group": 2}),
        ("MatMul", (4, 6), {}),
        ("Gemm", (4, 6), {}),
        ("Gemm", (6, 4), {"transB": 1}),
        ("Gemm", (6, 4), {"transB": 1, "alpha": 0.3}),
    ],
)
def test_stored_weights_are_the_canonical_ones(
    operator: str, shape: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    weight = np.random.default_rng(0).standard_normal(shape, np.float32)
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    value[0] = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4] + [8] * (len(shape) - 2))
    node = helper.make_node(operator, ["x", "w"], ["y"], **attributes)
    graph = helper.make_graph([node], "g", value[:1], value[1:], [numpy_helper.from_array(weight, "w")])
    model = ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    (site,) = find_sites(model)
    stored, alpha = site.stored, attributes.get("alpha", 1.0)
    assert np.array_equal(stored, site.weight) and site.weight.shape == tuple(site.shape)
    assert (stored.dtype == np.float32) is (alpha == 1)
    if operator in ("Conv", "MatMul") or attributes == {"transB": 1}:
        assert np.shares_memory(stored, ir.constant(model.graph.initializers["w"]))
    other = site.with_weight(2 * site.weight, None)
    assert np.array_equal(other.stored, 2 * site.weight)
