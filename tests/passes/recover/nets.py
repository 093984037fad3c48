"""A small network, ways to damage it, and inputs."""

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir


def inputs(count: int, seed: int = 1, batch: int = 8) -> list[dict[str, Any]]:
    """`count` smooth random images x (n, 3, 8, 8), in feeds of `batch`."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 3, 8, 8)) + rng.standard_normal((count, 3, 1, 1))
    x = (x + np.roll(x, 1, 2) + np.roll(x, 1, 3)).astype(np.float32)
    return [{"x": x[i : i + batch]} for i in range(0, count, batch)]


def convnet(seed: int = 0) -> ir.Model:
    """Conv-Relu-Conv-Add-Relu-pool-Gemm: x (n, 3, 8, 8) -> logits (n, 5)."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Any:
        fan = int(np.prod(shape[1:])) or 1
        return (rng.standard_normal(shape) * np.sqrt(2 / fan)).astype(np.float32)

    constants = {
        "w0": normal(12, 3, 3, 3),
        "b0": normal(12) * 0.1,
        "w1": normal(12, 12, 3, 3),
        "b1": normal(12) * 0.1,
        "w2": normal(12, 12, 3, 3),
        "w3": normal(5, 12),
        "b3": normal(5) * 0.1,
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], "conv0", pads=[1] * 4), node("Relu", ["c0"], ["r0"], "relu0"),
        node("Conv", ["r0", "w1", "b1"], ["c1"], "conv1", pads=[1] * 4), node("Add", ["c1", "r0"], ["s1"], "add1"),
        node("Relu", ["s1"], ["r1"], "relu1"),
        node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1] * 4), node("Relu", ["c2"], ["r2"], "relu2"),
        node("GlobalAveragePool", ["r2"], ["p"], "pool"), node("Flatten", ["p"], ["f"], "flat"),
        node("Gemm", ["f", "w3", "b3"], ["y"], "head", transB=1),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def damaged(teacher: ir.Model, bits: int = 0, noise: float = 0.35, seed: int = 3) -> ir.Model:
    """A copy with noise on its weights; or, with `bits`, conv1 quantized to so many of them (as int8 codes)."""
    model, rng = ir.clone(teacher), np.random.default_rng(seed)
    graph = model.graph
    if bits:
        value = graph.initializers["w1"]
        w = ir.constant(value)
        scale = (np.abs(w).max((1, 2, 3)) / (2 ** (bits - 1) - 0.5)).astype(np.float32)
        codes = np.round(w / scale[:, None, None, None]).astype(np.int8)
        (user, _), *_ = value.uses()
        reader = ir.Node(
            "",
            "DequantizeLinear",
            [ir.add_initializer(graph, codes, "w1_codes"), ir.add_initializer(graph, scale, "w1_scale")],
            [ir.Attr("axis", ir.AttributeType.INT, 0)],
            name="dequantize1",
        )
        graph.insert_before(user, reader)
        reader.outputs[0].name = "w1_real"
        user.replace_input_with(1, reader.outputs[0])
        del graph.initializers["w1"]
        return model
    for value in graph.initializers.values():
        array = ir.constant(value)
        ir.set_constant(value, (array + noise * array.std() * rng.standard_normal(array.shape)).astype(np.float32))
    return model
