"""A graph as a torch module: which initializers learn, quantized weights, batch statistics, and the way back."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import onnx  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from lwgraph import ir, registry  # noqa: E402
from lwgraph.demo import MODEL  # noqa: E402
from lwgraph.errors import DataError, ModelError, UsageError  # noqa: E402
from lwgraph.measure.compare import compare  # noqa: E402
from lwgraph.rewrite.base import Contract  # noqa: E402

RNG = np.random.default_rng(0)


def build(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[Any]],
    outputs: list[str],
    constants: dict[str, Any],
    opset: int = 21,
) -> ir.Model:
    def tensor(name: str, array: Any) -> onnx.TensorProto:
        return numpy_helper.from_array(np.asarray(array), name)

    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [tensor(n, a) for n, a in constants.items()],
    )
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10))


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(
        kind, ["" if n == "_" else n for n in inputs.split()], outputs.split(), kind + outputs, **attributes
    )


def test_the_demo_model_agrees_with_ort() -> None:
    model, x = ir.load(MODEL), {"image": normal(3, 1, 28, 28)}
    want = registry.executor("ort").prepare(model)(x)
    assert compare(want, registry.executor("torch").prepare(model)(x), Contract.ROUNDING).ok


def test_parameters_are_the_weights_and_come_back() -> None:
    model = build(
        [
            node("Conv", "x w b", "h", pads=[1, 1, 1, 1]),
            node("Clip", "h low high", "c"),
            node("Pow", "c two", "p"),
            node("Mul", "p gain", "g"),
            node("Mul", "g half", "y"),
        ],
        {"x": ["n", 3, 8, 8]},
        ["y"],
        {
            "w": normal(4, 3, 3, 3),
            "b": normal(4),
            "low": np.float32(0),
            "high": np.float32(6),
            "two": np.float32(2),
            "gain": normal(4, 1, 1),
            "half": np.float32(0.5),
            "unused": normal(3),
        },
    )
    before = {name: ir.constant(v).copy() for name, v in model.graph.initializers.items()}
    module = registry.executor("torch").module(model)
    assert {name for name, _ in module.weights()} == {"w", "b", "gain"}
    x = torch.from_numpy(normal(2, 3, 8, 8))
    module({"x": x})["y"].sum().backward()
    with torch.no_grad():
        for _, parameter in module.weights():
            parameter -= 0.1 * parameter.grad
    wanted = module({"x": x})["y"]
    assert module.store(model) == 3
    after = {name: ir.constant(v) for name, v in model.graph.initializers.items()}
    assert {n for n in before if not np.array_equal(before[n], after[n])} == {"w", "b", "gain"}
    np.testing.assert_allclose(
        registry.executor("ort").prepare(model)({"x": x.numpy()})["y"], wanted.detach().numpy(), rtol=1e-4, atol=1e-4
    )


def test_a_weight_behind_moves_is_a_weight() -> None:
    model = build(
        [node("Transpose", "w", "t"), node("Identity", "t", "i"), node("MatMul", "x i", "y")],
        {"x": ["n", 4]},
        ["y"],
        {"w": normal(3, 4)},
    )
    assert [name for name, _ in registry.executor("torch").module(model).weights()] == ["w"]


def test_store_without_training_changes_nothing() -> None:
    model = ir.load(MODEL)
    module = registry.executor("torch").module(model)
    assert module.store(model) == 0


def quantized(kind: str, bias: bool = True) -> ir.Model:
    """QDQ convolution: uint8 activations, int8 (or packed int4) per-channel weights, int32 bias."""
    w = RNG.integers(-7, 8, (4, 3, 3, 3))
    scale = (np.abs(normal(4)) * 0.1 + 0.05).astype(np.float32)
    constants: dict[str, Any] = {
        "xs": np.float32(0.02),
        "xz": np.uint8(120),
        "ws": scale,
        "bs": np.float32(0.02) * scale,
        "b": RNG.integers(-(2**28), 2**28, 4).astype(np.int32) // 2**16,
    }
    array = w.astype(getattr(ir.DataType, kind).numpy())
    constants["w"] = array
    nodes = [
        node("QuantizeLinear", "x xs xz", "xq"), node("Reshape", "xq same", "xr"),
        node("DequantizeLinear", "xr xs xz", "xd"), node("DequantizeLinear", "w ws", "wd", axis=0),
        node("DequantizeLinear", "b bs", "bd", axis=0), node("Conv", "xd wd bd", "y"),
    ]  # fmt: skip
    constants["same"] = np.array([0, 0, 0, 0])
    return build(nodes, {"x": ["n", 3, 6, 6]}, ["y"], constants)


@pytest.mark.parametrize("kind", ["INT8", "INT4"])
def test_quantized_weights_train_and_stay_on_their_grid(kind: str) -> None:
    model, x = quantized(kind), normal(2, 3, 6, 6)
    want = registry.executor("ort").prepare(model)({"x": x})
    assert compare(want, registry.executor("torch").prepare(model)({"x": x}), Contract.ROUNDING).ok
    module = registry.executor("torch").module(model)
    assert {name for name, _ in module.weights()} == {"w", "b"}
    assert module.store(model) == 0
    fed = torch.from_numpy(x).requires_grad_()
    (module({"x": fed})["y"] ** 2).sum().backward()
    inside = (x / 0.02 + 120 > 0.5) & (x / 0.02 + 120 < 254.5)
    # Straight through the soft codes and the Reshape, and not where the codes are clamped.
    assert bool(fed.grad[torch.from_numpy(inside)].abs().gt(0).any())
    assert bool(fed.grad[torch.from_numpy(~inside)].eq(0).all())
    weights = dict(module.weights())
    with torch.no_grad():
        weights["w"] += 0.3 * torch.randn(weights["w"].shape, generator=torch.Generator().manual_seed(0))
        weights["b"] += 0.01
    trained = module({"x": torch.from_numpy(x)})["y"].detach().numpy()
    assert module.store(model) == 2
    assert model.graph.initializers["w"].dtype == ir.DataType[kind]
    np.testing.assert_allclose(registry.executor("ort").prepare(model)({"x": x})["y"], trained, rtol=1e-3, atol=1e-2)


def test_scales_learn_only_when_asked() -> None:
    model = quantized("INT8")
    names = {name for name, _ in registry.executor("torch").module(model, scales=True).weights()}
    assert names == {"w", "b", "xs", "ws", "bs"}


def test_batch_statistics() -> None:
    model = build(
        [node("BatchNormalization", "x s b m v", "y", momentum=0.5)],
        {"x": ["n", 3, 4]},
        ["y"],
        {"s": np.ones(3, np.float32), "b": normal(3), "m": normal(3), "v": np.ones(3, np.float32)},
    )
    module = registry.executor("torch").module(model)
    assert {name for name, _ in module.weights()} == {"s", "b"}
    x = normal(5, 3, 4) * 3 + 1
    mean = ir.constant(model.graph.initializers["m"]).copy()
    module.mode.batch_statistics = True
    y = module({"x": torch.from_numpy(x)})["y"].detach().numpy()
    np.testing.assert_allclose(y.std((0, 2)), 1, rtol=1e-4)
    assert module.store(model) == 2  # the running mean and variance
    m, v = (ir.constant(model.graph.initializers[name]) for name in "mv")
    np.testing.assert_allclose(m, 0.5 * mean + 0.5 * x.mean((0, 2)), rtol=1e-5)
    np.testing.assert_allclose(v, 0.5 + 0.5 * x.var((0, 2)), rtol=1e-5)


def test_state_goes_round() -> None:
    model = ir.load(MODEL)
    module, other = (registry.executor("torch").module(model) for _ in range(2))
    with torch.no_grad():
        for _, parameter in module.weights():
            parameter += 1
    other.load_state(module.state())
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))
    with pytest.raises(ModelError, match="does not fit"):
        other.load_state({})


def test_functions_are_inlined() -> None:
    function = helper.make_function(
        "f", "Twice", ["a"], ["c"], [helper.make_node("Add", ["a", "a"], ["c"])], [helper.make_opsetid("", 18)]
    )
    graph = helper.make_graph(
        [helper.make_node("Twice", ["x"], ["h"], domain="f"), helper.make_node("Add", ["h", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(np.ones(2, np.float32), "b")],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    model = ir.load(helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10))
    assert registry.executor("torch").prepare(model)({"x": np.ones(2, np.float32)})["y"].tolist() == [3, 3]
    assert registry.executor("torch").module(model).store(model) == 0


def test_only_what_is_asked_for_must_be_runnable() -> None:
    model = build([node("Relu", "x", "h"), node("Unique", "h", "y")], {"x": ["n"]}, ["y"], {})
    assert registry.executor("torch").prepare(model, ["h"])({"x": normal(3)})["h"].shape == (3,)
    with pytest.raises(ModelError, match="'Unique' of node 'Uniquey' is not supported"):
        registry.executor("torch").prepare(model)


def test_bad_feeds_and_failures_name_the_place() -> None:
    model = build([node("Add", "x b", "y")], {"x": ["n"]}, ["y"], {"b": normal(3)})
    run = registry.executor("torch").prepare(model)
    with pytest.raises(DataError, match=r"node 'Addy' \(Add\) failed"):
        run({"x": normal(2)})
    with pytest.raises(DataError, match="no input 'z'"):
        run({"z": normal(2)})
    with pytest.raises(UsageError, match="threads=0"):
        registry.executor("torch", threads=0)


def test_float64_inside_float32_outside() -> None:
    model = ir.load(MODEL)
    y = registry.executor("torch", precise=True).prepare(model)({"image": normal(1, 1, 28, 28)})["logits"]
    assert y.dtype == np.float32
    module = registry.executor("torch", precise=True).module(model)
    assert {p.dtype for p in module.parameters()} == {torch.float64}


@pytest.mark.parametrize("pads", [[1, 1, 1, 1], [0, 1, 2, 1]])
def test_rounded_gradients_are_near_the_exact_ones(pads: list[int]) -> None:
    model = build(
        [node("Conv", "x w b", "y", pads=pads, strides=[2, 1], group=2)],
        {"x": ["n", 4, 9, 8]},
        ["y"],
        {"w": normal(6, 2, 3, 3), "b": normal(6)},
    )
    x = torch.from_numpy(normal(2, 4, 9, 8)).requires_grad_()
    found = []
    for rounded in (False, True):
        module = registry.executor("torch").module(model)
        module.mode.rounded_gradients = rounded
        y = module({"x": x})["y"]
        gradients = torch.autograd.grad((y * y.detach().sin()).sum(), (x, *(p for _, p in module.weights())))
        found.append((y, dict(zip(("x", *(name for name, _ in module.weights())), gradients, strict=True))))
    (y, exact), (same, near) = found
    assert torch.equal(y, same)
    for name in "xw":
        error = float((near[name] - exact[name]).norm() / exact[name].norm())
        assert 1e-5 < error < 1e-2
        assert near[name].dtype == torch.float32
    assert torch.allclose(near["b"], exact["b"], rtol=1e-4, atol=1e-4)
