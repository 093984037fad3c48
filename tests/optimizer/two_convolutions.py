"""Two convolutions and a product behind them, with random weights."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from lwgraph import ir
from tests.runtime.models import model


def two_convolutions(size: int) -> ir.Model:
    """For images of (8, size, size)."""
    random = np.random.default_rng(0)
    node = helper.make_node
    made = model(
        [
            node("Conv", ["x", "v"], ["a"], name="first", pads=[1] * 4),
            node("Relu", ["a"], ["r"], name="relu"),
            node("Conv", ["r", "w"], ["b"], name="second", pads=[1] * 4),
            node("GlobalAveragePool", ["b"], ["p"], name="pool"),
            node("Flatten", ["p"], ["f"], name="flat"),
            node("Gemm", ["f", "u"], ["y"], name="last"),
        ],
        {"x": (TensorProto.FLOAT, ["n", 8, size, size])},
        ["y"],
        {
            "v": random.standard_normal((32, 8, 3, 3), np.float32) / 8,
            "w": random.standard_normal((32, 32, 3, 3), np.float32) / 16,
            "u": random.standard_normal((32, 4), np.float32),
        },
    )
    made.graph.outputs[0].dtype, made.graph.outputs[0].shape = ir.DataType.FLOAT, ir.Shape(["n", 4])
    return made
