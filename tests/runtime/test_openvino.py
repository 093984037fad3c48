"""OpenVINO as an executor: its precision is stated, and what it really runs is told."""

import sys

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from benchmarks import runtime_backend
from lwgraph import demo, ir, registry
from lwgraph.errors import DataError, ModelError, UsageError
from lwgraph.executor import as_written, at_sizes_of, in_calling_thread, settings, untimed
from lwgraph.measure.kernels import is_integer_kernel, kernels
from lwgraph.optimizer.first_run import FirstRuns
from lwgraph.runtime import openvino as module
from lwgraph.runtime.interface import packed, unpacked
from tests.runtime.models import mlp, model

X = np.arange(8, dtype=np.float32).reshape(2, 4)
FLOAT = TensorProto.FLOAT


def test_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # importing it now raises ImportError
    with pytest.raises(UsageError, match=r"pip install 'lwgraph\[openvino\]'") as info:
        registry.executor("openvino")
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("kind", [ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.FLOAT4E2M1, ir.DataType.BFLOAT16])
def test_packed_types(kind: ir.DataType) -> None:
    array = np.array([[1, 2, 3], [0, 4, 6]] if kind != ir.DataType.INT4 else [[-8, 2, 7], [0, -1, 6]], kind.numpy())
    raw = packed(array, kind)
    assert raw.dtype == np.uint8 and raw.size == array.size * kind.bitwidth // 8
    assert (unpacked(raw, kind, array.shape) == array).all()


pytest.importorskip("openvino")


def bf16() -> bool:
    return "bf16" in module.precisions()


def matmul(weights: np.ndarray) -> ir.Model:
    return model(
        [helper.make_node("MatMul", ["x", "w"], ["h"], name="product"), helper.make_node("Relu", ["h"], ["y"])],
        {"x": (FLOAT, ["n", len(weights)])},
        ["y"],
        {"w": weights},
    )


def test_the_precision_is_stated() -> None:
    """OpenVINO's own default would be bfloat16 where the processor has it, to three digits."""
    random = np.random.default_rng(0)
    x, w = random.standard_normal((4, 64), np.float32), random.standard_normal((64, 64), np.float32)
    executor = registry.executor("openvino")
    assert executor.name == "openvino:f32"
    exact = np.maximum(x.astype(np.float64) @ w, 0)
    np.testing.assert_allclose(executor.prepare(matmul(w))({"x": x})["y"], exact, rtol=1e-4, atol=1e-4)
    if bf16():
        narrow = registry.executor("openvino", precision="bf16")
        off = np.abs(narrow.prepare(matmul(w))({"x": x})["y"] - exact).max() / exact.max()
        assert narrow.name == "openvino:bf16" and 1e-5 < off < 2e-2
        assert as_written(narrow).name == "openvino:f32"
        assert kernels(narrow, matmul(w))["product"] == "FullyConnected_bf16"
    assert kernels(executor, matmul(w))["product"] == "FullyConnected_f32"


def test_settings_key_what_is_measured() -> None:
    executor = registry.executor("openvino", threads=2)
    version, _, threads = settings(executor)
    assert version and threads == 2
    assert not in_calling_thread(executor) and in_calling_thread(registry.executor("openvino"))
    assert untimed(registry.executor("openvino")).name == "openvino:f32"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads=0"),
        ({"precision": "f64"}, "precision='f64' of the openvino executor: it is unknown; one of f32"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        registry.executor("openvino", **options)


def test_a_precision_that_the_processor_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "precisions", lambda: ["f32"])
    with pytest.raises(UsageError, match=r"precision='bf16'.*this processor does not compute in it; one of f32"):
        registry.executor("openvino", precision="bf16")


def test_the_precision_may_be_a_part_of_the_name() -> None:
    assert registry.executor("openvino:f32").name == "openvino:f32"
    with pytest.raises(UsageError, match="precision='f64'"):
        registry.executor("openvino:f64")
    with pytest.raises(UsageError, match="executor 'ort' has no precisions to choose from; leave ':f32' out"):
        registry.executor("ort:f32")


@pytest.mark.parametrize("names", [None, ["s", "h"], ["w", "x", "s"], ["x"]])
def test_any_value_can_be_returned(names: list[str] | None) -> None:
    found = registry.executor("openvino").prepare(mlp(), names)({"x": X})
    wanted = registry.executor("reference").prepare(mlp(), names)({"x": X})
    assert list(found) == list(wanted)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-5)


def test_sizes_may_change_between_runs() -> None:
    run = registry.executor("openvino").prepare(mlp())
    for rows in (1, 3, 2):
        assert run({"x": np.ones((rows, 4), np.float32)})["y"].shape[0] == rows


def test_sizes_that_data_tell_are_fixed() -> None:
    """The code says so, and the run takes no others."""
    open_ = registry.executor("openvino")
    assert "reshape" not in open_.code("m.onnx")  # type: ignore[attr-defined]
    fixed = at_sizes_of(open_, mlp(), [{"x": X}])
    told = fixed.code("m.onnx")  # type: ignore[attr-defined]
    assert told.index("read_model") < told.index('loaded.reshape({"x": [2, 4]})') < told.index("compile_model(loaded")
    run = fixed.prepare(mlp())
    assert isinstance(run, module.OpenVinoRun) and not run.compiled.inputs[0].partial_shape.is_dynamic
    np.testing.assert_array_equal(run({"x": X})["y"], open_.prepare(mlp())({"x": X})["y"])
    with pytest.raises(DataError, match="OpenVINO could not run"):
        run({"x": np.ones((3, 4), np.float32)})
    first = FirstRuns(open_).at_sizes({"x": [2, 4]})
    assert isinstance(first, FirstRuns) and first.executor.sizes == {"x": [2, 4]}  # type: ignore[attr-defined]


def test_arrays_belong_to_the_caller() -> None:
    """What is fed may be read-only, and what comes out is not written to by the next run."""
    m = model([helper.make_node("Identity", ["x"], ["y"])], {"x": (FLOAT, ["n", 4])}, ["y"])
    run, x = registry.executor("openvino").prepare(m), X.copy()
    x.flags.writeable = False
    first = run({"x": x})["y"]
    run({"x": X + 1})
    assert (first == X).all()


def test_an_input_that_is_an_output() -> None:
    """OpenVINO names such an input as the output."""
    m = model([helper.make_node("Dropout", ["x"], ["y"])], {"x": (FLOAT, [2, 4])}, ["y"], opset=13)
    assert (registry.executor("openvino").prepare(m)({"x": X})["y"] == X).all()


def test_bfloat16_values_are_exchanged() -> None:
    m = model([helper.make_node("Relu", ["x"], ["y"])], {"x": (TensorProto.BFLOAT16, [2, 2])}, ["y"], opset=18)
    x = np.array([[-1, 1.5], [2, -3]], ml_dtypes.bfloat16)
    y = registry.executor("openvino").prepare(m)({"x": x})["y"]
    assert y.dtype == ml_dtypes.bfloat16 and y.tolist() == [[0, 1.5], [2, 0]]


@pytest.mark.parametrize(
    ("feeds", "message"),
    [({}, "input 'x' .* is missing"), ({"x": X[:, :3]}, "shape"), ({"x": X, "z": X}, "no input 'z'")],
)
def test_bad_feeds(feeds: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        registry.executor("openvino").prepare(mlp())(feeds)


def test_what_it_cannot_run_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    m = model([helper.make_node("Nonsense", ["x"], ["y"])], {"x": (FLOAT, [2])}, ["y"])
    with pytest.raises(ModelError, match=r"OpenVINO cannot load the model: .*Nonsense") as info:
        registry.executor("openvino").prepare(m)
    assert "\n" not in str(info.value) and capfd.readouterr() == ("", "")


def test_integers_are_told_from_the_execution_graph() -> None:
    """A Conv between grids runs in integers; a Conv of floats does not."""
    grid = ["s", "z"]
    shape = [1, 8, 6, 6]
    m = model(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], name="floats", kernel_shape=[1, 1]),
            helper.make_node("QuantizeLinear", ["a", *grid], ["q"], name="enter"),
            helper.make_node("DequantizeLinear", ["q", *grid], ["d"], name="leave"),
            helper.make_node("DequantizeLinear", ["wq", "s", "zw"], ["wd"], name="weights"),
            helper.make_node("Conv", ["d", "wd"], ["y"], name="integers", kernel_shape=[1, 1]),
        ],
        {"x": (FLOAT, shape)},
        ["y"],
        {
            "w": np.eye(8, dtype=np.float32).reshape(8, 8, 1, 1),
            "wq": np.eye(8, dtype=np.int8).reshape(8, 8, 1, 1),
            "s": np.float32(0.05),
            "z": np.uint8(128),
            "zw": np.int8(0),
        },
        opset=13,
    )
    executor = registry.executor("openvino")
    ran = kernels(executor, m)
    assert ran is not None and is_integer_kernel(ran["integers"]) and not is_integer_kernel(ran["floats"])
    feeds = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    timed = {node: kernel for kernel in executor.profile(m, [feeds] * 2) for node in kernel.nodes}
    assert timed["integers"].precision in ("u8", "i8") and timed["floats"].precision == "f32"
    assert timed["floats"].seconds > 0


def test_same_as_the_reference_on_the_demo() -> None:
    m, feed = ir.load(demo.MODEL), next(iter(demo.calibration()))
    feed = {name: array[:2] for name, array in feed.items()}
    found, wanted = (registry.executor(name).prepare(m)(feed) for name in ("openvino", "reference"))
    np.testing.assert_allclose(found["logits"], wanted["logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("operator", ["Conv", "MatMul", "Softmax"])
def test_backend_suite(operator: str) -> None:
    """All of onnx's own tests of these; `python -m benchmarks.runtime_backend --executor openvino` has all."""
    executor = registry.executor("openvino")

    def runner(proto: object, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        return list(executor.prepare(ir.load(proto))(feeds).values())

    cases = [c for c in runtime_backend.node_cases([operator]) if runtime_backend.operators(c.model) == {operator}]
    assert cases and [why for case in cases if (why := runtime_backend.failure(case, runner))] == []
