"""Layers as they stand in a file, in every spelling."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir, registry
from lwgraph.measure.kernels import kernels
from lwgraph.views.written import layers

HEADER = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>\n'
FACE = "g (float[1, 4, 5, 5] x, uint8[1, 4, 5, 5] i, float[3, 4] m) => (float[a, b, c, d] y)"
DQ = "wf = DequantizeLinear(w, s, z) "
BACK = "p = QuantizeLinear(r, s, u) y = DequantizeLinear(p, s, u)"
QM = "q = QuantizeLinear(m, s, u) f = DequantizeLinear(q, s, u) "
DYNAMIC = "q, t, v = DynamicQuantizeLinear(m) r = MatMulInteger(q, w, v) y = Cast <to = 1> (r)"
BLOCKED = "y = com.microsoft.MatMulNBits <K = 4, N = 6, bits = 4, block_size = 16> (m, w, k)"
QX = "q = QuantizeLinear(x, s, u) f = DequantizeLinear(q, s, u) "


def model(steps: str, weight: np.ndarray, **more: np.ndarray) -> ir.Model:
    proto = onnx.parser.parse_model(HEADER + FACE + "{" + steps + "}")
    constants = {"w": weight, "s": np.float32(0.1), "z": np.int8(0), "u": np.uint8(9), **more}
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    return ir.load(proto)


CONV, MATRIX = np.ones((2, 4, 3, 3)), np.ones((4, 6))


@pytest.mark.parametrize(
    ("steps", "weight", "precision"),
    [
        ("y = Conv(x, w)", CONV.astype(np.float32), "float32"),
        ("y = Conv(x, w)", CONV.astype(np.float64), "float64"),
        ("h = Cast <to = 10> (x) y = Conv(h, w)", CONV.astype(np.float16), "float16"),
        ("wf = Cast <to = 1> (w) y = Conv(x, wf)", CONV.astype(np.float16), "float16 weights"),
        (DQ + "y = Conv(x, wf)", CONV.astype(np.int8), "int8 weights"),
        ("wf = Cast <to = 1> (w) ws = Mul(wf, s) y = MatMul(m, ws)", MATRIX.astype(np.int8), "int8 weights"),
        (
            "wf = Cast <to = 1> (w) zf = Cast <to = 1> (z) d = Sub(wf, zf) ws = Mul(s, d) y = MatMul(m, ws)",
            MATRIX.astype(np.int8),
            "int8 weights",
        ),
        ("h = Mul(m, s) t = Transpose(m) y = MatMul(t, h)", MATRIX.astype(np.int8), None),
        (QX + DQ + "y = Conv(f, wf)", CONV.astype(np.int8), "int8 weights"),  # it returns floats: no kernel for that
        (QX + DQ + "r = Conv(f, wf) " + BACK, CONV.astype(np.int8), "int8"),
        (QX + "r = Conv(f, w) " + BACK, CONV.astype(np.float32), "float32"),
        (QX + DQ + "y = ConvTranspose(f, wf)", CONV.swapaxes(0, 1).astype(np.int8).copy(), "int8 weights"),
        (QM + DQ + "y = MatMul(f, wf)", MATRIX.astype(np.int8), "int8"),
        (QM + DQ + "y = Gemm(f, wf)", MATRIX.astype(np.int8), "int8"),
        (DYNAMIC, MATRIX.astype(np.int8), "int8"),
        ("q = QLinearConv(i, s, u, w, s, z, s, u) y = DequantizeLinear(q, s, u)", CONV.astype(np.int8), "int8"),
        (BLOCKED, np.ones((6, 1, 8), np.uint8), "int4 weights"),
        ("y = com.microsoft.own.Conv(x, w)", CONV.astype(np.float32), None),  # a name of another domain means nothing
        ("y = MatMul(x, x)", CONV.astype(np.float32), None),  # no constant weight
    ],
)  # fmt: skip
def test_precision_is_what_stands_in_the_file(steps: str, weight: np.ndarray, precision: str | None) -> None:
    found = layers(model(steps, weight, k=np.ones(6, np.float32)))
    assert [layer.precision for layer in found] == ([] if precision is None else [precision])


def test_the_runtime_has_the_last_word() -> None:
    steps = QX + DQ + "r = Conv(f, wf) " + BACK
    made = model(steps, CONV.astype(np.int8))
    made.graph[-3].name = "c"
    ran = kernels(registry.executor("ort"), made)
    assert ran is not None and ran["c"] == "QLinearConv"
    assert [layer.precision for layer in layers(made, ran)] == ["int8"]
    assert [layer.precision for layer in layers(made, {"c": "Conv"})] == ["int8 weights"]


def test_names_shapes_and_forms() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"]),
            helper.make_node("Conv", ["a", "v"], ["b"], name="c_low-rank_1"),
            helper.make_node("Gemm", ["b", "v"], ["y"], name="d"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(CONV.astype(np.float32), name) for name in ("w", "v")],
    )
    made = ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9))
    made.graph[2].metadata_props.update({"lwgraph.pass": "ghost{ratio=2}", "lwgraph.from": "first"})
    found = [(layer.name, layer.shape, layer.form, layer.stands_for) for layer in layers(made)]
    assert found == [
        ("a", "2x4x3x3", "", "a"),
        ("c_low-rank_1", "2x4x3x3", "low-rank", "c"),
        ("d", "2x4x3x3", "ghost{ratio=2}", "first"),
    ]
