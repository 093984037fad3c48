"""Products of matrices whose weights lie in a file of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from lwgraph import ir
from tests.passes.quantize.quantize_models import Net

WIDTH = 1024
LAYER = 4 * WIDTH**2  # bytes
X = {"x": np.random.default_rng(1).standard_normal((2, WIDTH)).astype(np.float32)}


def products(folder: Path, layers: int = 2) -> Path:
    """Products with weights of LAYER bytes each, in a file of their own."""
    net = Net()
    x = net.input("x", ["n", WIDTH])
    for index in range(layers):
        weight = np.full((WIDTH, WIDTH), 0.5 / WIDTH, np.float32)
        weight[index % WIDTH] = 1e-3 * (index + 1)
        x = net.op("MatMul", x, net.constant(weight))
    path = folder / "products.onnx"
    onnx.save(ir.to_proto(net.model(x)), path, save_as_external_data=True, location="weights", size_threshold=0)
    return path
