"""The reference executor beyond single operators: control flow, functions, memory, quantize-dequantize groups."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir, registry
from lwgraph.errors import DataError, ModelError, UsageError
from lwgraph.runtime.reference import ReferenceExecutor
from tests.runtime.models import model

F, B, U8, I8 = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.UINT8, TensorProto.INT8
RNG = np.random.default_rng(0)
X = RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)
W = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)


def reference(**options: Any) -> Any:
    return registry.executor("reference", **options)


@pytest.mark.parametrize("names", [["y", ""], ["y", "", ""], ["y", "", "c"], ["", "h", ""]])
def test_outputs_without_a_name_take_no_place(names: list[str]) -> None:
    """What an operator returns and nobody names was put where the last value of the graph lay."""
    wanted = [name for name in names if name]
    weights = {
        "w": RNG.standard_normal((1, 8, 3)).astype(np.float32),
        "r": RNG.standard_normal((1, 8, 2)).astype(np.float32),
    }
    m = model([helper.make_node("LSTM", ["x", "w", "r"], names, hidden_size=2)], {"x": (F, [4, 2, 3])}, wanted, weights)
    feed = {"x": RNG.standard_normal((4, 2, 3)).astype(np.float32)}
    theirs = registry.executor("ort").prepare(m)(feed)
    for name, value in reference().prepare(m)(feed).items():
        np.testing.assert_allclose(value, theirs[name], atol=1e-5)


def test_our_operators_run_inside_subgraphs_and_see_outer_values() -> None:
    """If with a Conv on an outer value in one branch, nested in a Loop."""
    then = helper.make_graph(
        [helper.make_node("Conv", ["state", "w"], ["t"], pads=[1] * 4)],
        "then",
        [],
        [helper.make_tensor_value_info("t", F, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["state"], ["e"])], "else", [], [helper.make_tensor_value_info("e", F, None)]
    )
    body = helper.make_graph(
        [
            helper.make_node("If", ["b"], ["next"], then_branch=then, else_branch=other),
            helper.make_node("Identity", ["cond"], ["again"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("cond", B, []),
            helper.make_tensor_value_info("state", F, None),
        ],
        [helper.make_tensor_value_info("again", B, []), helper.make_tensor_value_info("next", F, None)],
    )
    w = RNG.standard_normal((3, 3, 3, 3)).astype(np.float32)
    m = model(
        [helper.make_node("Loop", ["n", "c", "x"], ["y"], body=body)],
        {"x": (F, [1, 3, 8, 8]), "b": (B, [])},
        ["y"],
        {"w": w, "n": np.array(3), "c": np.array(True)},
    )
    for b in (True, False):
        feeds = {"x": X, "b": np.array(b)}
        got = reference().prepare(m)(feeds)["y"]
        np.testing.assert_allclose(got, registry.executor("ort").prepare(m)(feeds)["y"], rtol=1e-3, atol=1e-3)


def test_functions_and_their_attributes() -> None:
    inner = helper.make_function(
        "local",
        "Scaled",
        ["v"],
        ["r"],
        [helper.make_node("LeakyRelu", ["v"], ["r"])],
        [helper.make_opsetid("", 18)],
        ["alpha"],
    )
    inner.node[0].attribute.add(name="alpha", type=1, ref_attr_name="alpha")
    outer = helper.make_function(
        "local",
        "Twice",
        ["v"],
        ["r"],
        [
            helper.make_node("Scaled", ["v"], ["s"], domain="local", alpha=0.5),
            helper.make_node("Scaled", ["s"], ["r"], domain="local", alpha=0.25),
        ],
        [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)],
    )
    m = model(
        [helper.make_node("Twice", ["x"], ["y"], domain="local")],
        {"x": (F, [3])},
        ["y"],
        functions=[outer, inner],
        domains=["local"],
    )
    got = reference().prepare(m)({"x": np.array([-8, 0, 8], np.float32)})["y"]
    assert got.tolist() == [-1, 0, 8]


def test_functions_of_another_opset() -> None:
    """They cannot be inlined: onnx's evaluator runs them, with our operators."""
    function = helper.make_function(
        "local",
        "Layer",
        ["v", "w"],
        ["r"],
        [helper.make_node("Conv", ["v", "w"], ["c"]), helper.make_node("Relu", ["c"], ["r"])],
        [helper.make_opsetid("", 17)],
    )
    m = model(
        [helper.make_node("Layer", ["x", "w"], ["y"], domain="local")],
        {"x": (F, [1, 3, 8, 8])},
        ["y"],
        {"w": W},
        functions=[function],
        domains=["local"],
    )
    np.testing.assert_allclose(
        reference().prepare(m)({"x": X})["y"], registry.executor("ort").prepare(m)({"x": X})["y"], atol=1e-4
    )


def test_values_are_freed_after_their_last_use() -> None:
    count, size = 40, 1 << 20
    nodes = [helper.make_node("Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(count)]
    m = model(nodes, {"v0": (F, ["n"])}, [f"v{count}"])
    run, x = reference().prepare(m), np.ones(size, np.float32)
    tracemalloc.start()
    run({"v0": x})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * x.nbytes


def test_results_belong_to_the_caller() -> None:
    m = model(
        [helper.make_node("Reshape", ["x", "s"], ["y"]), helper.make_node("Identity", ["c"], ["z"])],
        {"x": (F, [2, 2])},
        ["y", "z"],
        {"s": np.array([4]), "c": np.ones(3, np.float32)},
    )
    run, x = reference().prepare(m), np.zeros((2, 2), np.float32)
    first = run({"x": x})
    first["y"] += 1
    first["z"] += 1
    assert not x.any()
    assert run({"x": x})["z"].tolist() == [1, 1, 1]


def test_only_what_is_wanted_is_computed() -> None:
    m = model(
        [helper.make_node("Reshape", ["x", "s"], ["bad"]), helper.make_node("Relu", ["x"], ["y"])],
        {"x": (F, [3])},
        ["y", "bad"],
        {"s": np.array([5])},
    )
    x = np.ones(3, np.float32)
    assert reference().prepare(m, ["y"])({"x": x})["y"].tolist() == [1, 1, 1]
    with pytest.raises(DataError, match=r"fails at Reshape 'bad'"):
        reference().prepare(m)({"x": x})


def test_small_constants_are_computed_once() -> None:
    m = model(
        [helper.make_node("Add", ["c", "c"], ["d"]), helper.make_node("Mul", ["x", "d"], ["y"])],
        {"x": (F, [2])},
        ["y", "d"],
        {"c": np.array([1, 2], np.float32)},
    )
    run = reference().prepare(m)
    assert [step.label for step in run._program.steps] == ["Mul 'y'"]
    got = run({"x": np.ones(2, np.float32)})
    assert got["y"].tolist() == [2, 4] == got["d"].tolist()


def test_random_operators_are_not_folded() -> None:
    m = model([helper.make_node("RandomNormal", [], ["y"], shape=[4])], {"x": (F, [1])}, ["y"])
    run = reference().prepare(m)
    assert len(run._program.steps) == 1


def test_a_contrib_operator_is_refused_on_one_line() -> None:
    m = model(
        [helper.make_node("Inverse", ["x"], ["y"], domain="com.microsoft")],
        {"x": (F, [2, 2])},
        ["y"],
        domains=["com.microsoft"],
    )
    with pytest.raises(ModelError, match=r"cannot run com\.microsoft\.Inverse 'y', opset 1") as info:
        reference().prepare(m)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"threads": 0}, "threads=0"), ({"qdq": "int"}, "qdq='int'"), ({"emulate": "sse"}, "emulate='sse'.*no-vnni")],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ReferenceExecutor(**options)


def test_precise_is_nearer_to_float64() -> None:
    w = (RNG.standard_normal((8, 64, 3, 3)) * 100).astype(np.float32)
    x = RNG.standard_normal((1, 64, 9, 9)).astype(np.float32)
    m = model([helper.make_node("Conv", ["x", "w"], ["y"])], {"x": (F, x.shape)}, ["y"], {"w": w})
    d = model(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        {"x": (TensorProto.DOUBLE, x.shape)},
        ["y"],
        {"w": w.astype(np.float64)},
    )
    exact = reference().prepare(d)({"x": x.astype(np.float64)})["y"]
    errors = [np.abs(reference(precise=p).prepare(m)({"x": x})["y"] - exact).max() for p in (False, True)]
    assert errors[1] <= np.spacing(np.abs(exact).max().astype(np.float32)) < errors[0]


def test_threads_do_not_change_results() -> None:
    x = RNG.standard_normal((2, 16, 40, 40)).astype(np.float32)
    w = RNG.standard_normal((32, 16, 3, 3)).astype(np.float32)
    m = model([helper.make_node("Conv", ["x", "w"], ["y"])], {"x": (F, x.shape)}, ["y"], {"w": w})
    one, two = (reference(threads=t).prepare(m)({"x": x})["y"] for t in (1, 2))
    np.testing.assert_array_equal(one, two)


# ---- quantize-dequantize groups ----


def qdq(
    op: str = "Conv",
    weight: Any = None,
    x_type: Any = np.uint8,
    relu: bool = False,
    bias: bool = False,
    y_zero: int | None = None,
    per_channel: bool = False,
    **attributes: Any,
) -> ir.Model:
    """Q - DQ - op - (Relu) - Q - DQ."""
    weight = RNG.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8) if weight is None else weight
    outputs = weight.shape[0] if op != "MatMul" else weight.shape[1]
    scale = np.full(outputs, 0.01, np.float32) if per_channel else np.float32(0.01)
    zero = x_type(128) if x_type is np.uint8 else x_type(3)
    constants = {
        "xs": np.float32(0.02),
        "xz": zero,
        "w": weight,
        "ws": scale,
        "wz": np.zeros(outputs, np.int8) if per_channel else np.int8(0),
        "ys": np.float32(0.3),
        "yz": x_type(zero if y_zero is None else y_zero),
    }
    axis = {"axis": 1 if op == "MatMul" else 0} if per_channel else {}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], **axis),
    ]
    inputs = ["xd", "wd"]
    if bias:
        constants["b"] = np.arange(outputs, dtype=np.int32) * 1000
        constants["bs"] = (np.float32(0.02) * scale).astype(np.float32)
        constants["bz"] = np.zeros(outputs if per_channel else (), np.int32)
        nodes.append(
            helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["bd"], **({"axis": 0} if per_channel else {}))
        )
        inputs.append("bd")
    nodes.append(helper.make_node(op, inputs, ["c"], **attributes))
    if relu:
        nodes.append(helper.make_node("Relu", ["c"], ["r"]))
    nodes += [
        helper.make_node("QuantizeLinear", ["r" if relu else "c", "ys", "yz"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    shape = [2, 3, 8, 8] if op == "Conv" else [5, weight.shape[1] if attributes.get("transB") else weight.shape[0]]
    return model(nodes, {"x": (F, shape)}, ["y", "yq"], constants)


GROUPS = {
    "conv": {},
    "conv-int8": {"x_type": np.int8},
    "conv-bias": {"bias": True, "pads": [1, 1, 1, 1]},
    "conv-channels": {"bias": True, "per_channel": True, "strides": [2, 2]},
    "conv-relu": {"relu": True, "y_zero": 0},
    "gemm": {"op": "Gemm", "weight": RNG.integers(-127, 128, (4, 9)).astype(np.int8), "transB": 1, "bias": True,
             "per_channel": True},
    "matmul": {"op": "MatMul", "weight": RNG.integers(-127, 128, (9, 4)).astype(np.int8), "per_channel": True},
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPS)
def test_integer_groups_are_what_onnx_runtime_fuses(name: str) -> None:
    m = qdq(**GROUPS[name])
    x = RNG.standard_normal([d if isinstance(d, int) else 1 for d in m.graph.inputs[0].shape]).astype(np.float32)
    run = reference(qdq="integer").prepare(m)
    assert run.mode == "integer" and run.fused == ("yq",)
    got, want = run({"x": x}), registry.executor("ort").prepare(m)({"x": x})
    np.testing.assert_array_equal(got["yq"], want["yq"])
    floats = reference().prepare(m)
    assert floats.mode == "float" and floats.fused == ()
    assert np.abs(floats({"x": x})["yq"].astype(int) - got["yq"].astype(int)).max() <= 1


@pytest.mark.parametrize(
    "changes",
    [{"relu": True, "y_zero": 7}, {"weight": RNG.integers(0, 9, (4, 3, 3, 3)).astype(np.int16)}],
    ids=["relu that saturation does not replace", "16-bit weights"],
)
def test_other_groups_stay_in_floats(changes: dict[str, Any]) -> None:
    m = qdq(**changes)
    if "weight" in changes:
        m.graph.initializers["wz"].const_value = ir.Tensor(np.int16(0), name="wz")
    run = reference(qdq="integer").prepare(m)
    assert run.fused == ()
    run({"x": np.concatenate([X, X])})


def test_a_wanted_inner_value_keeps_its_group_in_floats() -> None:
    run = reference(qdq="integer").prepare(qdq(), ["c", "yq"])
    assert run.fused == () and list(run({"x": np.concatenate([X, X])})) == ["c", "yq"]


def test_no_vnni_saturates() -> None:
    weight = np.full((1, 2, 1, 1), 127, np.int8)
    m = model(
        [helper.make_node("ConvInteger", ["x", "w"], ["y"])], {"x": (U8, [1, 2, 1, 1])}, ["y"], {"w": weight}, opset=13
    )
    x = np.full((1, 2, 1, 1), 255, np.uint8)
    assert reference().prepare(m)({"x": x})["y"].item() == 64770
    assert reference(emulate="no-vnni").prepare(m)({"x": x})["y"].item() == 32767


def test_initializers_in_subgraphs_with_external_data(tmp_path: Any) -> None:
    import onnx

    branch = helper.make_graph(
        [helper.make_node("Add", ["x", "big"], ["t"])],
        "b",
        [],
        [helper.make_tensor_value_info("t", F, None)],
        [numpy_helper.from_array(np.full((64, 64), 2, np.float32), "big")],
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        "g",
        [helper.make_tensor_value_info("x", F, [64, 64]), helper.make_tensor_value_info("c", B, [])],
        [helper.make_tensor_value_info("y", F, None)],
    )
    path = tmp_path / "m.onnx"
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(proto, path, save_as_external_data=True, size_threshold=0)
    got = reference().prepare(ir.load(path))({"x": np.ones((64, 64), np.float32), "c": np.array(True)})["y"]
    assert (got == 3).all()
