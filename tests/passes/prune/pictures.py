"""Networks that look at pictures, and pictures."""

from __future__ import annotations

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from tests.passes.quantize.quantize_models import Net


def classifier(height: int | str = 24, width: int | str = 24, channels: int = 3, opset: int = 17) -> ir.Model:
    n = Net(opset)
    h = n.op("Relu", n.conv(n.input("x", ["batch", channels, height, width]), channels, 8, name="conv"))
    return n.model(n.gemm(n.op("Flatten", n.op("GlobalAveragePool", h)), 8, 5, name="head"))


def image(height: int, width: int, channels: int = 3, batch: int = 2) -> dict[str, Array]:
    ramp = np.linspace(0, 1, height, dtype=np.float32)[:, None] + np.linspace(0, 2, width, dtype=np.float32)[None]
    return {"x": np.broadcast_to(ramp, (batch, channels, height, width)).copy()}


def fixed() -> ir.Model:
    """Its head reads every position, so that no other size fits."""
    n = Net(17)
    h = n.op("Relu", n.conv(n.input("x", [1, 3, 16, 16]), 3, 4, name="conv"))
    return n.model(n.gemm(n.op("Flatten", h), 4 * 256, 5, name="head"))
