"""A network of three products of matrices."""

from __future__ import annotations

from lwgraph import ir
from tests.passes.quantize.quantize_models import Net


def encoder() -> ir.Model:
    net = Net()
    x = net.input("x", [4, 64])
    for index in range(3):
        x = net.op("MatMul", x, net.constant(net.rng.normal(size=(64, 64)).astype("float32")), name=f"p{index}")
    return net.model(x)
