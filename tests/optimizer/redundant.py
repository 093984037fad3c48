"""A network whose weights may be redundant."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from tests.passes.prune.networks import Net


def network(rank: int | None = None, width: int = 96) -> onnx.ModelProto:
    """Three convolutions and a head; the two in the middle have weights of a rank."""
    net = Net(1)
    x = net.conv(net.input("N", 3, 16, 16), 3, width, 3, act="Relu")
    for _ in range(2):
        x = net.conv(x, width, width, 3, act="Relu")
    proto = net.model(net.head(x, width))
    for weight in proto.graph.initializer:
        array = numpy_helper.to_array(weight).astype(np.float64)
        if rank is not None and array.shape == (width, width, 3, 3):
            u, s, v = np.linalg.svd(array.reshape(width, -1), full_matrices=False)
            thin = ((u[:, :rank] * s[:rank]) @ v[:rank]).reshape(array.shape)
            weight.CopyFrom(numpy_helper.from_array(thin.astype(np.float32), weight.name))
    return proto
