"""A network of which only its annotations weigh anything."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def tiny() -> onnx.ModelProto:
    """Two Mul by constants after an Identity: every annotation weighs more than what is removed."""
    nodes = [
        helper.make_node("Identity", ["x"], ["i"]),
        helper.make_node("Mul", ["i", "a"], ["m"]),
        helper.make_node("Mul", ["m", "b"], ["y"]),
    ]
    constants = [numpy_helper.from_array(np.array([v], np.float32), name) for name, v in (("a", 2), ("b", 3))]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "tiny", value[:1], value[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
