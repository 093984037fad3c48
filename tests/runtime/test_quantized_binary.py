"""Sums and products of bytes: bit for bit what ONNX Runtime's kernels give."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

from lwgraph import ir, registry

PAIRS = np.meshgrid(np.arange(256), np.arange(256))


def scales(rng, whole):
    """Scales whose ratios are short fractions, so that many results lie half way between two integers."""
    found = {n: np.float32(rng.integers(1, 200) / np.float32(rng.choice([64, 100, 255]))) for n in ("s", "t", "u")}
    limits = np.iinfo(whole)
    return found | {name: np.array(rng.integers(limits.min, limits.max + 1), whole) for name in ("p", "q", "r")}


def group(kind, a, b, constants):
    """QuantizeLinear of the sum or product of two dequantized inputs."""
    nodes = [
        helper.make_node("DequantizeLinear", ["a", "s", "p"], ["ad"]),
        helper.make_node("DequantizeLinear", ["b", "t", "q"], ["bd"]),
        helper.make_node(kind, ["ad", "bd"], ["z"]),
        helper.make_node("QuantizeLinear", ["z", "u", "r"], ["y"]),
    ]
    element = helper.np_dtype_to_tensor_dtype(a.dtype)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, element, x.shape) for name, x in (("a", a), ("b", b))],
        [helper.make_tensor_value_info("y", element, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return ir.load(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]))


def results(kind, a, b, constants, qdq="integer"):
    model = group(kind, a, b, constants)
    runs = registry.executor("ort").prepare(model), registry.executor("reference", qdq=qdq).prepare(model)
    return [run({"a": a, "b": b})["y"] for run in runs]


@pytest.mark.parametrize("whole", [np.uint8, np.int8])
@pytest.mark.parametrize("kind", ["Add", "Mul"])
def test_all_pairs_of_bytes(kind, whole):
    rng, far = np.random.default_rng(1), 0
    a, b = ((x.reshape(1, -1) + np.iinfo(whole).min).astype(whole) for x in PAIRS)
    for _ in range(25):
        constants = scales(rng, whole)
        ort, ours = results(kind, a, b, constants)
        np.testing.assert_array_equal(ours, ort)
        far += int((results(kind, a, b, constants, "float")[1] != ort).sum())
    assert far > 0  # the graph read in floats rounds some ties the other way


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 8, 9, 7), (1, 8, 1, 1)),
        ((1, 8, 1, 1), (2, 8, 9, 7)),
        ((2, 8, 9, 7), (7,)),
        ((64, 1), (64, 50)),
        ((40, 40), ()),
        ((), (40, 40)),
        ((40, 1), (1, 30)),
        ((1, 1), (1, 1)),
        ((5, 6, 1), (1, 6, 1)),
    ],
)
def test_one_side_broadcasts(shapes):
    rng = np.random.default_rng(2)
    for _ in range(25):
        a, b = (rng.integers(0, 256, shape).astype(np.uint8) for shape in shapes)
        for kind in ("Add", "Mul"):
            ort, ours = results(kind, a, b, scales(rng, np.uint8))
            np.testing.assert_array_equal(ours, ort)
