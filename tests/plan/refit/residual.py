"""A network of residual blocks, images for it, and a form of every kind for its layers."""

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir, registry
from lwgraph.plan.refit.sequential import output_error

ORT = registry.executor("ort")


FORMS = {
    "low-rank": "low-rank{rank=5,split=vertical}",
    "low-rank-out": "low-rank{rank=8,split=output}",
    "tucker": "tucker{inputs=8,outputs=8}",
    "cp": "cp{rank=24}",
    "depthwise": "depthwise{terms=2}",
    "pointwise-first": "depthwise{terms=1,order=pw-dw}",
    "shift": "shift{columns=48}",
    "grouped": "grouped{groups=2,rank=8}",
    "fire": "fire{squeeze=12}",
    "ghost": "ghost{primary=8}",
    "smaller-kernel": "smaller-kernel{cross=true}",
}


def inputs(count: int, seed: int = 1, channels: int = 16) -> list[dict[str, Any]]:
    """Single smooth random images x (1, channels, 8, 8)."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((channels, channels)) * np.arange(1, channels + 1) ** -0.7
    x = rng.standard_normal((count, channels, 8, 8))
    x = np.einsum("dc,nchw->ndhw", mix, x + np.roll(x, 1, 2) + np.roll(x, 1, 3)).astype(np.float32)
    return [{"x": x[i : i + 1]} for i in range(count)]


def network(blocks: int = 3, seed: int = 0, channels: int = 16) -> ir.Model:
    """`blocks` of Conv-Relu-Conv-Add-Relu, then pooling and a Gemm: x -> y (n, 6)."""
    rng = np.random.default_rng(seed)
    node, constants, nodes, last = helper.make_node, {}, [], "x"
    for b in range(blocks):
        for k in "ab":
            shape = (channels, channels, 3, 3)
            w = rng.standard_normal(shape) * rng.uniform(0.05, 1, (1, 1, 3, 3)) * np.sqrt(2 / (9 * channels))
            constants |= {f"w{b}{k}": w.astype(np.float32), f"b{b}{k}": np.float32(0.1 * rng.standard_normal(channels))}
        nodes += [
            node("Conv", [last, f"w{b}a", f"b{b}a"], [f"a{b}"], f"conv{b}a", pads=[1] * 4),
            node("Relu", [f"a{b}"], [f"r{b}"], f"relu{b}a"),
            node("Conv", [f"r{b}", f"w{b}b", f"b{b}b"], [f"c{b}"], f"conv{b}b", pads=[1] * 4),
            node("Add", [f"c{b}", last], [f"s{b}"], f"add{b}"),
            node("Relu", [f"s{b}"], [f"o{b}"], f"relu{b}b"),
        ]
        last = f"o{b}"
    constants |= {"wy": np.float32(rng.standard_normal((6, channels)) / 4), "by": np.zeros(6, np.float32)}
    nodes += [
        node("GlobalAveragePool", [last], ["p"], "pool"),
        node("Flatten", ["p"], ["f"], "flat"),
        node("Gemm", ["f", "wy", "by"], ["y"], "head", transB=1),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [info("x", TensorProto.FLOAT, ["n", channels, 8, 8])],
        [info("y", TensorProto.FLOAT, ["n", 6])],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def distance(original: ir.Model, model: ir.Model) -> float:
    """On inputs that nothing was fitted to."""
    return output_error(original, model, inputs(24, seed=9), ORT)
