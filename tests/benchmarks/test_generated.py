"""Generated networks: 200 go through clean and fuse; wrong passes are caught on them, and made small."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest

from benchmarks.generated import checks
from benchmarks.generated.grow import network
from benchmarks.generated.minimize import minimize
from benchmarks.generated.run import Row, do, summary
from lwgraph import ir, registry
from lwgraph.contract import Contract
from lwgraph.errors import ModelError
from lwgraph.rewrite import RewritePass

COUNT, AT_ONCE = 200, 10
SMALL = 2  # pieces of a network
RELU_SEED = 24  # of a network whose outputs depend on what its Relu takes away


@pytest.mark.parametrize("first", range(0, COUNT, AT_ONCE))
def test_clean_and_fuse_keep_what_they_promise(first: int) -> None:
    left_out = 0
    for seed in range(first, first + AT_ONCE):
        made = network(seed, SMALL)
        case = checks.case_of(made, most=4)
        if case is not None:
            fault = checks.check(case, checks.DEFAULT).fault
            assert fault is None, f"seed {seed}: {fault}"
        elif made.proto.opset_import[0].version <= newest_opset():
            left_out += 1
    assert left_out <= 2


@cache
def newest_opset() -> int:
    """The newest that ONNX Runtime loads."""

    def loads(opset: int) -> bool:
        value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
        after = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
        graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [after])
        opsets = [onnx.helper.make_opsetid("", opset)]
        try:
            registry.executor("ort").prepare(ir.load(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)))
        except ModelError:
            return False
        return True

    return max(filter(loads, range(7, onnx.defs.onnx_opset_version() + 1)))


def test_approximate_passes_are_tried() -> None:
    row = do(20, approximate=True, pieces=SMALL)
    assert row.runs and not row.faults and len(row.actions) == 9
    assert "| all | 1 |" in summary([row]).replace(" 0 |", " 0 |")


def test_networks_are_reproducible_and_differ() -> None:
    assert network(3).proto == network(3).proto
    assert len({network(seed).proto.SerializeToString() for seed in range(20)}) == 20
    operators = {node.op_type for seed in range(60) for node in network(seed).proto.graph.node}
    assert {"Conv", "LSTM", "GRU", "Loop", "If", "Softmax", "Erf", "Gemm", "Split", "Gather", "Where"} <= operators
    assert len({network(seed).proto.opset_import[0].version for seed in range(60)}) > 10


@dataclass(frozen=True)
class Unlimited(RewritePass):
    """Relu(x) -> x: equal where nothing is negative."""

    name: ClassVar[str] = "unlimited"
    contract: ClassVar[Contract] = Contract.EXACT

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Relu(x)

    def replace(self, op: Any, x: Any) -> Any:
        return op.Identity(x)


def test_a_wrong_pass_is_caught_and_its_network_made_small() -> None:
    action = "tests.benchmarks.test_generated:Unlimited"
    case = checks.case_of(network(RELU_SEED, SMALL), most=4)
    assert case is not None
    fault = checks.check(case, action).fault
    assert fault is not None and fault.kind == "wrong"
    small, message = minimize(case, action)
    assert [node.op_type for node in small.proto.graph.node] == ["Relu"]
    assert len(small.feeds) == 1
    assert "largest difference" in message or "values differ" in message


def test_outputs_that_turn_over_by_a_rounding_say_nothing() -> None:
    """Sign of what cancels: a network that no rewrite could be held to."""
    node = onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [node("Sub", ["x", "z"], ["d"]), node("Mul", ["d", "big"], ["y"])],
        "cancels",
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in ("x", "z")],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4])],
        [onnx.numpy_helper.from_array(np.float32(1e9), "big")],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    x = np.linspace(1, 2, 4, dtype=np.float32)
    assert checks.delicate(checks.Case(proto, [{"x": x, "z": x}], []), 0)
    assert not checks.delicate(checks.Case(proto, [{"x": x, "z": -x}], []), 0)


@pytest.mark.parametrize(("middle", "tied"), [(1.0, True), (0.2, False)])
def test_a_choice_between_equal_values_says_nothing(middle: float, tied: bool) -> None:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Clip", ["x", "", "most"], ["c"]), onnx.helper.make_node("ArgMax", ["c"], ["y"])],
        "saturated",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT64, [1])],
        [onnx.numpy_helper.from_array(np.float32(1), "most")],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    case = checks.Case(proto, [{"x": np.array([2.0, 0.0, 3 * middle], np.float32)}], [])
    assert checks.tied(case, 0) == checks.delicate(case, 0) == tied


@pytest.mark.parametrize(("op", "fragile"), [("Sqrt", True), ("Abs", False)])
def test_approximations_are_not_held_to_where_a_nan_is(op: str, fragile: bool) -> None:
    node = onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [node(op, ["x"], ["r"]), node("Max", ["r", "zero"], ["m"]), node("Greater", ["m", "zero"], ["y"])],
        "nan",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.BOOL, [4])],
        [onnx.numpy_helper.from_array(np.float32(0), "zero")],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    assert checks.fragile(checks.Case(proto, [{"x": np.float32([-1, 1, 2, 3])}], []), 0) == fragile


def test_the_page_counts() -> None:
    rows = [
        Row(0, "attention", 5, [], True, {"clean": 1, "clean,fuse,clean": 2}, {}, [("clean", "wrong", "it differs")]),
        Row(1, "attention", 9, [], True, {"clean": 1, "clean,fuse,clean": 2, "quantize": 0}, {"quantize": "no 'x' 12"}),
        Row(2, runs=False),
    ]
    text = summary(rows)
    assert "1 more that ONNX Runtime does not load" in text
    assert "| all | 2 | 9 | 1 | 1 | 0 | 0 | 0 | 0 |" in text
    assert "| `quantize` | 1 | 0 |" in text and "| no '...' N | 1 |" in text
