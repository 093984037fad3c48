"""half{activations=true} on graphs with bodies, sequences, optionals and values without a type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.passes.quantize.half import Half
from tests.faults.models import IMAGE, applied, conv, images, kernel, model, reasons, run, sqnr

F = TensorProto.FLOAT
WEIGHTS: dict[str, Array] = {f"w{i}": kernel(i, 8, 8, 3, 3) for i in (1, 2, 3)} | {"two": np.array(2, np.float32)}
HEAD = [conv("x", "w1", "a"), conv("a", "w2", "b")]


def branch(name: str, *nodes: NodeProto) -> Any:
    made = helper.make_tensor_value_info(nodes[-1].output[0], F, None)
    return helper.make_graph(list(nodes), name, [], [made])


def condition() -> list[NodeProto]:
    return [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "two"], ["flag"]),
    ]


def if_capture() -> ir.Model:
    then = branch("then", helper.make_node("Mul", ["b", "two"], ["to"]))
    other = branch("else", helper.make_node("Add", ["b", "a"], ["eo"]))
    nodes = [
        *HEAD,
        *condition(),
        helper.make_node("If", ["flag"], ["c"], "if", then_branch=then, else_branch=other),
        conv("c", "w3", "y"),
    ]
    return model(nodes, WEIGHTS)


def nested_capture() -> ir.Model:
    inner = [
        branch("t2", helper.make_node("Mul", ["b", "b"], ["t2o"])),
        branch("e2", helper.make_node("Sub", ["b", "x"], ["e2o"])),
    ]
    then = branch("then", helper.make_node("If", ["flag"], ["to"], then_branch=inner[0], else_branch=inner[1]))
    other = branch("else", helper.make_node("Identity", ["a"], ["eo"]))
    nodes = [
        *HEAD,
        *condition(),
        helper.make_node("If", ["flag"], ["c"], "if", then_branch=then, else_branch=other),
        conv("c", "w3", "y"),
    ]
    return model(nodes, WEIGHTS)


def loop_capture() -> ir.Model:
    body = helper.make_graph(
        [
            helper.make_node("Add", ["state", "b"], ["next"]),
            helper.make_node("Identity", ["go"], ["again"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, ()),
            helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("state", F, IMAGE),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("next", F, IMAGE),
        ],
    )
    nodes = [*HEAD, helper.make_node("Loop", ["three", "yes", "a"], ["c"], "loop", body=body), conv("c", "w3", "y")]
    return model(nodes, {**WEIGHTS, "three": np.array(3), "yes": np.array(True)})


def sequence(returned: bool) -> ir.Model:
    nodes = [*HEAD, helper.make_node("SequenceConstruct", ["a", "b"], ["q"], "construct")]
    if returned:
        return model(nodes, WEIGHTS, outputs=[helper.make_tensor_sequence_value_info("q", F, None)])
    nodes += [helper.make_node("ConcatFromSequence", ["q"], ["c"], "concat", axis=0), conv("c", "w3", "y")]
    return model(nodes, WEIGHTS, outputs=[("y", F, (2, 8, 8, 8))])


def optional() -> ir.Model:
    nodes = [
        *HEAD,
        helper.make_node("Optional", ["b"], ["o"], "optional"),
        helper.make_node("OptionalGetElement", ["o"], ["c"], "get"),
        conv("c", "w3", "y"),
    ]
    return model(nodes, WEIGHTS)


def without_types() -> ir.Model:
    """A runtime's own operator, whose output has no type that ONNX could give."""
    nodes = [
        *HEAD,
        helper.make_node("Gelu", ["b"], ["t"], "gelu", domain="com.microsoft"),
        helper.make_node("Mul", ["t", "a"], ["m"], "product"),
        conv("m", "w3", "y"),
    ]
    return model(nodes, WEIGHTS, domains=["com.microsoft"], infer=False)


CASES = {
    "if": if_capture(),
    "nested if": nested_capture(),
    "loop": loop_capture(),
    "sequence": sequence(False),
    "sequence output": sequence(True),
    "optional": optional(),
    "no types": without_types(),
}


@pytest.mark.parametrize("keep_io", [True, False])
@pytest.mark.parametrize("name", list(CASES))
def test_converted_or_left_right(name: str, keep_io: bool) -> None:
    before, data = CASES[name], images(4)
    after, context, count = applied(Half(activations=True, keep_io=keep_io), before, data)
    assert count >= 2, reasons(context)
    kinds = {v.dtype for node in after.graph for v in node.outputs if node.op_type == "Conv"}
    assert ir.DataType.FLOAT16 in kinds
    for feeds in data:
        given = feeds if keep_io else {"x": feeds["x"].astype(np.float16)}
        for y, z in zip(run(before, feeds), run(after, given), strict=True):
            for a, b in zip(*((y, z) if isinstance(y, list) else ([y], [z])), strict=True):
                assert np.abs(a - b.astype(np.float32)).max() < 0.02 * np.abs(a).max()


@pytest.mark.parametrize(
    "name, reason",
    [
        ("if", "if: its subgraphs are float32"),
        ("sequence output", "construct: 'q' is no tensor"),
        ("optional", "optional: 'o' is no tensor"),
        ("no types", "product: the type of 't' is not known"),
    ],
)
def test_what_stays_says_why(name: str, reason: str) -> None:
    _, context, _ = applied(Half(activations=True), CASES[name])
    assert reason in reasons(context)


def test_weights_alone() -> None:
    for name, before in CASES.items():
        if name != "sequence output":
            after, _, count = applied(Half(minimum=1), before)
            assert count >= 2 and sqnr(before, after, images(2)) > 40


@pytest.mark.parametrize("opset", [17, 18])
def test_a_softplus_of_large_values_stays_finite(opset: int) -> None:
    """From opset 18 on ONNX Runtime expands it into Exp and Log, in float16, too."""
    nodes = [conv("x", "w1", "a"), helper.make_node("Softplus", ["a"], ["s"]), conv("s", "w2", "y")]
    before = model(nodes, {"w1": 100 * WEIGHTS["w1"], "w2": WEIGHTS["w2"]}, opset=opset)
    after, _, count = applied(Half(activations=True), before, images(4))
    assert count and sqnr(before, after, images(2)) > 40
