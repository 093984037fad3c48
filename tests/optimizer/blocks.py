"""A network of residual blocks."""

from lwgraph import ir
from tests.passes.prune.networks import Net


def net(width=48):
    """Three blocks of two convolutions on a trunk."""
    made = Net()
    x = made.conv(made.input("N", 3, 8, 8), 3, width, 3, act="Relu")
    for _ in range(3):
        inner = made.conv(x, width, width, 3, act="Relu")
        x = made.op("Relu", made.op("Add", x, made.conv(inner, width, width, 3)))
    return ir.load(made.model(made.conv(x, width, 4)))
