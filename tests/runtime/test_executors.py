"""What both executors promise: the protocol, intermediates, and one-line errors for bad feeds and models."""

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from lwgraph import ir, registry
from lwgraph.errors import DataError, ModelError, UsageError
from lwgraph.executor import Executor, Run, at_sizes_of
from tests.runtime.models import mlp, model

EXECUTORS = ["ort", "reference"]
X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> Executor:
    return registry.executor(request.param)


def expected() -> dict[str, np.ndarray]:
    graph = mlp().graph
    w, b = (ir.constant(graph.initializers[name]) for name in "wb")
    h = X @ w
    return {"h": h, "s": h + b, "y": np.maximum(h + b, 0), "w": w, "x": X}


def test_is_an_executor(executor: Executor) -> None:
    assert isinstance(executor, Executor) and executor.name in EXECUTORS


def test_outputs_of_the_graph(executor: Executor) -> None:
    result = executor.prepare(mlp())({"x": X})
    assert list(result) == ["y"]
    np.testing.assert_allclose(result["y"], expected()["y"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("names", [["s", "h"], ["y", "h"], ["w", "x", "s"], ["x"]])
def test_any_value_can_be_returned_and_the_model_stays(executor: Executor, names: list[str]) -> None:
    m = mlp()
    before = ir.fingerprint(m)
    result = executor.prepare(m, names)({"x": X})
    assert list(result) == names
    for name in names:
        np.testing.assert_allclose(result[name], expected()[name], rtol=1e-6, atol=1e-6)
    assert ir.fingerprint(m) == before


def test_unknown_value(executor: Executor) -> None:
    with pytest.raises(ModelError, match=r"no value 'hh'.*"):
        executor.prepare(mlp(), ["hh"])


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, r"input 'x' \(float \[n,4\]\) is missing"),
        ({"x": X, "z": X}, "no input 'z'"),
        ({"x": X.astype(np.float64)}, r"input 'x' is float64; the model wants float \[n,4\]"),
        ({"x": X[0]}, r"shape \[4\]; the model wants \[n,4\]"),
        ({"x": X[:, :3]}, r"shape \[2,3\]; the model wants \[n,4\]"),
    ],
)
def test_bad_feeds(executor: Executor, feeds: dict[str, np.ndarray], message: str) -> None:
    run = executor.prepare(mlp())
    with pytest.raises(DataError, match=message) as info:
        run(feeds)
    assert "\n" not in str(info.value)


def test_unknown_operator(executor: Executor, capfd: pytest.CaptureFixture[str]) -> None:
    m = model([helper.make_node("Nonsense", ["x"], ["y"])], {"x": (TensorProto.FLOAT, [2])}, ["y"])
    with pytest.raises(ModelError, match="Nonsense") as info:
        executor.prepare(m)
    assert "\n" not in str(info.value)
    assert capfd.readouterr() == ("", "")


def test_data_that_cannot_be_computed(executor: Executor, capfd: pytest.CaptureFixture[str]) -> None:
    m = model(
        [helper.make_node("Reshape", ["x", "s"], ["y"])],
        {"x": (TensorProto.FLOAT, ["n"]), "s": (TensorProto.INT64, [2])},
        ["y"],
    )
    with pytest.raises(DataError) as info:
        executor.prepare(m)({"x": np.ones(5, np.float32), "s": np.array([2, 2])})
    assert "\n" not in str(info.value)
    assert capfd.readouterr() == ("", "")


def test_newest_ir_version(executor: Executor) -> None:
    m = mlp()
    m.ir_version = 13
    np.testing.assert_allclose(executor.prepare(m)({"x": X})["y"], expected()["y"], rtol=1e-6, atol=1e-6)


def test_an_input_with_an_initializer_is_optional(executor: Executor) -> None:
    m = model(
        [helper.make_node("Add", ["x", "b"], ["y"])],
        {"x": (TensorProto.FLOAT, [2]), "b": (TensorProto.FLOAT, [2])},
        ["y"],
        {"b": np.array([1, 2], np.float32)},
    )
    run, x = executor.prepare(m), np.zeros(2, np.float32)
    assert run({"x": x})["y"].tolist() == [1, 2]
    assert run({"x": x, "b": np.array([3, 4], np.float32)})["y"].tolist() == [3, 4]


def test_bfloat16_in_and_out(executor: Executor) -> None:
    m = model([helper.make_node("Identity", ["x"], ["y"])], {"x": (TensorProto.BFLOAT16, ["n"])}, ["y"])
    x = np.array([1, -2, 0.5], ml_dtypes.bfloat16)
    y = executor.prepare(m)({"x": x})["y"]
    assert y.dtype == x.dtype and y.tolist() == x.tolist()


def test_large_initializers_are_lent() -> None:
    w = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    m = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (TensorProto.FLOAT, ["n", 64])}, ["y"], {"w": w})
    proto, arrays = ir.detached_proto(m, ["y"], 1024, {ir.DataType.FLOAT})
    assert list(arrays) == ["w"] and len(proto.SerializeToString()) < 1024
    x = w[:2]
    np.testing.assert_allclose(registry.executor("ort").prepare(m)({"x": x})["y"], x @ w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"threads": 0}, {"optimize": "fastest"}])
def test_bad_options(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="ort executor"):
        registry.executor("ort", **options)


def test_session_options_hook() -> None:
    seen = []
    registry.executor("ort", optimize="basic", session_options=seen.append).prepare(mlp())
    assert len(seen) == 1 and seen[0].intra_op_num_threads == 1


def test_a_large_initializer_that_nothing_uses(executor: Executor) -> None:
    m = mlp()
    ir.add_initializer(m.graph, np.zeros((64, 64), np.float32), "unused")
    np.testing.assert_allclose(executor.prepare(m)({"x": X})["y"], expected()["y"], rtol=1e-6)


class Sized:
    """An executor that gains from known sizes."""

    name = "sized"

    def __init__(self, sizes: Mapping[str, Sequence[int]] | None = None) -> None:
        self.sizes = sizes

    def prepare(self, model: ir.Model, outputs: Sequence[str] | None = None) -> Run:
        raise NotImplementedError

    def at_sizes(self, sizes: Mapping[str, Sequence[int]]) -> "Sized":
        return Sized(sizes)


def test_sizes_are_fixed_where_the_data_tell_them() -> None:
    node = helper.make_node("Add", ["x", "b"], ["y"])
    m = model([node], {"x": (TensorProto.FLOAT, ["n", 3]), "b": (TensorProto.FLOAT, [3])}, ["y"])
    feed = {"x": np.ones((2, 3), np.float32), "b": np.ones(3, np.float32)}
    found = at_sizes_of(Sized(), m, [feed, feed])
    assert isinstance(found, Sized) and found.sizes == {"x": (2, 3)}  # what the model states stays with it
    plain, other = Sized(), feed | {"x": np.ones((1, 3), np.float32)}
    assert at_sizes_of(plain, m, [feed, other]) is plain
    ort = registry.executor("ort")
    assert at_sizes_of(ort, m, [feed]) is ort
    stated = model([node], {"x": (TensorProto.FLOAT, [2, 3]), "b": (TensorProto.FLOAT, [3])}, ["y"])
    assert at_sizes_of(plain, stated, [feed]) is plain
