"""The rules of quantization follow the runtime that runs the models, and what it fuses into floats stays in floats."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from lwgraph import ir, registry
from lwgraph.measure.kernels import is_integer_kernel, kernels
from lwgraph.measure.node_times import node_seconds
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.rewrite.base import Context
from tests.runtime.models import model

FLOAT = TensorProto.FLOAT


def attention() -> ir.Model:
    """A layer, then products of activations around a Softmax, which OpenVINO fuses into one kernel of floats."""
    random = np.random.default_rng(0)
    node = helper.make_node
    return model(
        [
            node("MatMul", ["x", "w"], ["p"], name="layer"),
            node("Reshape", ["p", "heads"], ["h"], name="reshape"),
            node("Transpose", ["h"], ["q"], name="q", perm=[0, 2, 1, 3]),
            node("Transpose", ["h"], ["k"], name="k", perm=[0, 2, 3, 1]),
            node("MatMul", ["q", "k"], ["a"], name="scores"),
            node("Softmax", ["a"], ["s"], name="softmax", axis=-1),
            node("MatMul", ["s", "q"], ["o"], name="mixed"),
            node("Transpose", ["o"], ["t"], name="t", perm=[0, 2, 1, 3]),
            node("Reshape", ["t", "flat"], ["f"], name="flatten"),
            node("MatMul", ["f", "v"], ["y"], name="last"),
        ],
        {"x": (FLOAT, [1, 32, 64])},
        ["y"],
        {
            "w": random.standard_normal((64, 64), np.float32) / 8,
            "v": random.standard_normal((64, 64), np.float32) / 8,
            "heads": np.array([1, 32, 4, 16]),
            "flat": np.array([1, 32, 64]),
        },
        opset=17,
    )


def test_auto_is_the_runtime_that_runs_the_models() -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

    for name, rules in (("ort", "ort-cpu"), ("reference", "ort-cpu"), ("openvino:bf16", "openvino"), ("qnn", "qnn")):
        assert Quantize().rules(Named(name)).name == rules  # type: ignore[arg-type]
    assert Quantize().rules(None).name == "ort-cpu"
    assert Quantize(target="tensorrt").rules(Named("ort")).name == "tensorrt"  # type: ignore[arg-type]


def test_what_is_called_integer_runs_in_integers() -> None:
    pytest.importorskip("openvino")
    executor, m = registry.executor("openvino"), attention()
    feeds = [{"x": np.random.default_rng(k).standard_normal((1, 32, 64), np.float32)} for k in range(4)]
    mixed = Quantize(keep="none", calibration_method="minmax", rounding="nearest", equalize=False).within(
        m, Context(executor=executor, data=feeds)
    )
    assert mixed.built is not None
    ran, layers = kernels(executor, mixed.model), set(mixed.built.compute)
    assert ran is not None and {"layer", "last"} <= layers
    assert all(is_integer_kernel(ran[name]) for name in layers)
    plain = Quantize(keep="none", target="qnn", calibration_method="minmax", rounding="nearest", equalize=False).within(
        m, Context(executor=executor, data=feeds)
    )
    assert plain.built is not None and layers < set(plain.built.compute)  # without what the graph told
    seconds = node_seconds(executor, mixed.model, feeds[0])
    assert seconds is not None and seconds["layer"] > 0


@pytest.mark.parametrize(
    ("between", "channels"),
    [
        (helper.make_node("Concat", ["a", "b"], ["m"], name="between", axis=1), 32),
        (helper.make_node("Add", ["a", "b"], ["m"], name="between"), 16),
        (helper.make_node("MaxPool", ["a"], ["m"], name="between", kernel_shape=[2, 2]), 16),
        (helper.make_node("ConvTranspose", ["a", "t"], ["m"], name="between", kernel_shape=[2, 2]), 16),
    ],
    ids=lambda value: getattr(value, "op_type", None),
)
def test_the_rules_are_what_openvino_does(between: object, channels: int) -> None:
    """What the target file says of operators between layers, and layers that return floats at the end."""
    pytest.importorskip("openvino")
    random = np.random.default_rng(0)
    node = helper.make_node
    m = model(
        [
            node("Conv", ["x", "w"], ["c"], name="one"),
            node("Relu", ["c"], ["a"], name="relu"),
            node("Conv", ["x", "u"], ["d"], name="two"),
            node("Relu", ["d"], ["b"], name="other"),
            between,  # type: ignore[list-item]
            node("Conv", ["m", "v"], ["y"], name="last"),
        ],
        {"x": (FLOAT, [1, 8, 8, 8])},
        ["y"],
        {
            "w": random.standard_normal((16, 8, 1, 1), np.float32),
            "u": random.standard_normal((16, 8, 1, 1), np.float32),
            "v": random.standard_normal((4, channels, 1, 1), np.float32),
            "t": random.standard_normal((16, 16, 2, 2), np.float32),
        },
        opset=17,
    )
    feeds = [{"x": random.standard_normal((1, 8, 8, 8), np.float32)}]
    quantize = Quantize(target="openvino", keep="none", calibration_method="minmax", rounding="nearest", equalize=False)
    assert quantize.run(m, Context(executor=registry.executor("ort"), data=feeds))
    ran = kernels(registry.executor("openvino"), m)
    assert ran is not None and all(is_integer_kernel(ran[name]) for name in ("one", "between", "last"))
