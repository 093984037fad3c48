"""Removal of channels that once computed wrong models."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir
from lwgraph.passes.prune.dead import RemoveDeadChannels
from lwgraph.rewrite import Context


def random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def proto(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], shape: list[Any] | None, outputs: list[str] | None = None
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs or ["y"]],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, x: Any) -> list[Any]:
    return list(ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x}))


def check_equal(model: onnx.ModelProto, x: Any) -> int:
    """Remove dead channels, compare in ONNX Runtime; how many were removed."""
    changed = ir.load(model)
    count = RemoveDeadChannels().run(changed, Context())
    for before, after in zip(run(model, x), run(ir.to_proto(changed), x), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    return count


def with_dead(weight: Any, *rows: int) -> Any:
    weight = weight.copy()
    weight[list(rows)] = 0
    return weight


class TestTwoConstantsIntoOneBias:
    NORM = {  # noqa: RUF012
        "s": np.ones(8, np.float32),
        "b": random(8, seed=1) + 1,
        "m": random(8, seed=2),
        "v": np.ones(8, np.float32),
    }

    @pytest.mark.parametrize("bias", [True, False])
    def test_a_concat_of_two_layers(self, bias: bool) -> None:
        constants = {
            "w1": with_dead(random(4, 3, 1, 1, seed=3), 1),
            "w3": with_dead(random(4, 3, 1, 1, seed=4), 2, 3),
            "w2": random(5, 8, 1, 1),
            **self.NORM,
            **({"b2": random(5)} if bias else {}),
        }
        nodes = [
            helper.make_node("Conv", ["x", "w1"], ["a"], name="A"),
            helper.make_node("Conv", ["x", "w3"], ["d"], name="D"),
            helper.make_node("Concat", ["a", "d"], ["k"], axis=1),
            helper.make_node("BatchNormalization", ["k", "s", "b", "m", "v"], ["c"]),
            helper.make_node("Conv", ["c", "w2", *(["b2"] if bias else [])], ["y"], name="reader"),
        ]
        assert check_equal(proto(nodes, constants, [1, 3, 8, 8]), random(1, 3, 8, 8)) == 3

    @pytest.mark.parametrize("attributes", [{}, {"beta": 2.0}, {"beta": 0.0}, {"transB": 1}, {"alpha": 0.5}])
    def test_a_gemm(self, attributes: dict[str, Any]) -> None:
        reader = random(8, 5)
        constants = {
            "w1": with_dead(random(4, 3, seed=3), 1),
            "c1": np.ones(4, np.float32),
            "w3": with_dead(random(4, 3, seed=4), 2),
            "c3": np.float32([1, 2, 3, 4]),
            "w2": reader.T.copy() if "transB" in attributes else reader,
            "b2": random(5),
        }
        nodes = [
            helper.make_node("Gemm", ["x", "w1", "c1"], ["a"], name="A", transB=1),
            helper.make_node("Gemm", ["x", "w3", "c3"], ["d"], name="D", transB=1),
            helper.make_node("Concat", ["a", "d"], ["k"], axis=1),
            helper.make_node("Gemm", ["k", "w2", "b2"], ["y"], name="reader", **attributes),
        ]
        assert check_equal(proto(nodes, constants, [2, 3]), random(2, 3)) == 2


class TestUnknownRank:
    @pytest.mark.parametrize(
        ("op", "inputs"),
        [
            ("BatchNormalization", ["s", "b", "m", "v"]),
            ("InstanceNormalization", ["s", "b"]),
            ("Relu", []),
            ("PRelu", ["slope"]),
            ("Mul", ["factor"]),
        ],
    )
    def test_what_follows_a_cut_layer_fits(self, op: str, inputs: list[str]) -> None:
        """The input has no shape, so the layer's output has no rank that inference could give."""
        constants = {
            "w1": with_dead(random(8, 3, 1, 1), 1, 5),
            "w2": random(5, 8, 1, 1),
            **TestTwoConstantsIntoOneBias.NORM,
            "slope": random(8, 1, 1),
            "factor": random(8, 1, 1),
        }
        nodes = [
            helper.make_node("Conv", ["x", "w1"], ["a"]),
            helper.make_node(op, ["a", *inputs], ["n"]),
            helper.make_node("Conv", ["n", "w2"], ["y"]),
        ]
        used = {name for node in nodes for name in node.input}
        check_equal(proto(nodes, {k: v for k, v in constants.items() if k in used}, None), random(1, 3, 8, 8))
