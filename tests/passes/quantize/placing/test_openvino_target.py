"""The rules of quantization follow the runtime that runs the models, and what it fuses into floats stays in floats."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lwgraph import ir, registry
from lwgraph.measure.kernels import is_integer_kernel, kernels
from lwgraph.measure.node_times import node_seconds
from lwgraph.passes.quantize.half import Half
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.rewrite.base import Context
from lwgraph.runtime.openvino import precisions
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


def _between(op_type: str, *inputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op_type, list(inputs), ["m"], name="between", **attributes)


def sandwich(between: onnx.NodeProto, channels: int) -> ir.Model:
    """Two layers "one" and "two", the operator "between", which reads `a` and `b` of them, and the layer "last"."""
    random = np.random.default_rng(0)
    node = helper.make_node
    weights = {
        "w": random.standard_normal((16, 8, 1, 1), np.float32),
        "u": random.standard_normal((16, 8, 1, 1), np.float32),
        "v": random.standard_normal((4, channels, 1, 1), np.float32),
        "t": random.standard_normal((16, 16, 2, 2), np.float32),
        "twice": np.array([1, 1, 2, 2], np.float32),
        "sides": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "begin": np.array([1]),
        "end": np.array([15]),
        "two": np.array([2]),
        "shape": np.array([1, 16, 4, 16]),
        "ninth": np.float32(9),
    }
    read = {"x", "c", "d", "w", "u", "v", *between.input}
    return model(
        [
            node("Conv", ["x", "w"], ["c"], name="one"),
            node("Relu", ["c"], ["a"], name="relu"),
            node("Conv", ["x", "u"], ["d"], name="two"),
            node("Relu", ["d"], ["b"], name="other"),
            between,
            node("Conv", ["m", "v"], ["y"], name="last"),
        ],
        {"x": (FLOAT, [1, 8, 8, 8])},
        ["y"],
        {name: value for name, value in weights.items() if name in read},
        opset=17,
    )


def quantized(m: ir.Model, executor: str = "ort") -> set[str]:
    """Quantize by OpenVINO's rules everything that they allow; the nodes that read integers.

    With OpenVINO as the executor, what its graph tells counts, too.
    """
    feeds = [{"x": np.random.default_rng(1).standard_normal((1, 8, 8, 8), np.float32)}]
    quantize = Quantize(target="openvino", keep="none", calibration_method="minmax", rounding="nearest", equalize=False)
    assert quantize.run(m, Context(executor=registry.executor(executor), data=feeds))
    made = [(node, value.producer()) for node in m.graph for value in node.inputs[:1] if value is not None]
    return {node.name or "" for node, maker in made if maker is not None and maker.op_type == "DequantizeLinear"}


@pytest.mark.parametrize(
    ("between", "channels"),
    [
        (_between("Concat", "a", "b", axis=1), 32),
        (_between("Add", "a", "b"), 16),
        (_between("Sub", "a", "b"), 16),
        (_between("MaxPool", "a", kernel_shape=[2, 2]), 16),
        (_between("AveragePool", "a", kernel_shape=[2, 2]), 16),
        (_between("GlobalAveragePool", "a"), 16),
        (_between("GlobalMaxPool", "a"), 16),
        (_between("ReduceMean", "a", axes=[2, 3], keepdims=1), 16),
        (_between("Resize", "a", "", "twice", mode="nearest", coordinate_transformation_mode="asymmetric"), 16),
        (_between("DepthToSpace", "a", blocksize=2), 4),
        (_between("Pad", "a", "sides"), 16),
        (_between("Slice", "a", "begin", "end", "two"), 16),
        (_between("Transpose", "a", perm=[0, 1, 3, 2]), 16),
        (_between("Reshape", "a", "shape"), 16),
        (_between("ConvTranspose", "a", "t", kernel_shape=[2, 2]), 16),
    ],
    ids=lambda value: getattr(value, "op_type", None),
)
def test_the_rules_are_what_openvino_does(between: onnx.NodeProto, channels: int) -> None:
    """What the target file says of operators between layers, and layers that return floats at the end."""
    pytest.importorskip("openvino")
    m = sandwich(between, channels)
    called = quantized(m)
    assert {"one", "two", "between", "last"} - called <= {"two"}  # which some do not read
    ran = kernels(registry.executor("openvino"), m)
    assert ran is not None
    for name in called:  # a kernel of its own, or within the one of the layer before it
        assert name not in ran or is_integer_kernel(ran[name]), (name, ran[name])
    assert all(is_integer_kernel(ran[name]) for name in ("one", "last"))
    assert not any(op.startswith(("Eltwise_f", "Interpolate_f")) for op in ran.values())


@pytest.mark.parametrize(
    "between",
    [
        _between("Resize", "a", "", "twice", mode="linear"),
        _between("Softmax", "a", axis=1),
        _between("Erf", "a"),
        _between("MatMul", "a", "b"),
    ],
    ids=lambda value: f"{value.op_type}",
)
def test_what_openvino_computes_in_floats_has_no_grids(between: onnx.NodeProto) -> None:
    """A product of two activations has, and is left in floats after what the graph tells."""
    pytest.importorskip("openvino")
    m = sandwich(between, 16)
    assert ("between" in quantized(ir.clone(m))) == (between.op_type == "MatMul")
    called = quantized(m, "openvino")
    assert "last" in called
    assert "between" not in called
    ran = kernels(registry.executor("openvino"), m)
    assert ran is not None
    assert is_integer_kernel(ran["last"])
    assert not is_integer_kernel(ran["between"])


def test_a_pad_with_a_number_brings_in_what_no_grid_may_have() -> None:
    m = sandwich(_between("Pad", "a", "sides", "ninth"), 16)
    assert "between" not in quantized(m)


def test_each_layer_runs_in_the_type_that_it_has() -> None:
    """float32, bfloat16 and integers in one file, under the hint that adds none of its own."""
    pytest.importorskip("openvino")
    if "bf16" not in precisions():
        pytest.skip("this processor does not compute in bfloat16")
    executor, m = registry.executor("openvino:f32"), sandwich(_between("MaxPool", "a", kernel_shape=[2, 2]), 16)
    feeds = [{"x": np.random.default_rng(1).standard_normal((1, 8, 8, 8), np.float32)}]
    context = Context(executor=executor, data=feeds)
    Half(type="bfloat16", activations=True, nodes_to_exclude=("two", "other", "last")).run(m, context)
    assert m.graph.opset_imports[""] == 22 and not context.warnings
    named = {kernel.nodes: kernel.precision for kernel in executor.prepare(m).kernels}
    found = {name: precision for nodes, precision in named.items() for name in nodes}
    assert found["one"] == "bf16" and found["last"] == "f32"
    quantize = Quantize(keep="none", calibration_method="minmax", rounding="nearest", equalize=False)
    assert quantize.run(m, context)
    ran = kernels(executor, m)
    assert ran is not None and is_integer_kernel(ran["last"]) and ran["one"].endswith("_bf16")
