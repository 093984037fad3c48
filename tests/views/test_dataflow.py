"""The dataflow views on a residual block, a branch and odd graphs."""

from __future__ import annotations

import networkx as nx
import onnx

from lwgraph import ir
from lwgraph.views import SINK, SOURCE, dataflow, dominators, generations, post_dominators

HEADER = '<ir_version: 8, opset_import: ["" : 17]> '


def graph(text: str) -> ir.Graph:
    return ir.load(onnx.parser.parse_model(HEADER + text)).graph


RESIDUAL = """g (float[2] x) => (float[2] y) <float[2] w = {1,2}> {
    [stem] a = Relu (x)
    [left] b = Mul (a, w)
    [right1] c = Neg (a)
    [right2] d = Abs (c)
    [join] e = Add (b, d)
    [head] y = Exp (e) }"""


def names(found) -> dict[str, str]:
    return {getattr(k, "name", k): getattr(v, "name", v) for k, v in found.items()}


def test_dataflow_of_a_residual_block():
    view = dataflow(graph(RESIDUAL))
    assert sorted((a.name, b.name) for a, b in view.edges) == [
        ("join", "head"),
        ("left", "join"),
        ("right1", "right2"),
        ("right2", "join"),
        ("stem", "left"),
        ("stem", "right1"),
    ]
    assert [v.name for v in next(d for a, b, d in view.edges(data="values") if b.name == "head")] == ["e"]
    assert nx.is_directed_acyclic_graph(view)


def test_dominators_of_a_residual_block():
    assert names(dominators(graph(RESIDUAL))) == {
        "stem": SOURCE,
        "left": "stem",
        "right1": "stem",
        "right2": "right1",
        "join": "stem",
        "head": "join",
        SINK: "head",
    }
    assert names(post_dominators(graph(RESIDUAL))) == {
        SOURCE: "stem",
        "stem": "join",
        "left": "join",
        "right1": "right2",
        "right2": "join",
        "join": "head",
        "head": SINK,
    }


def test_generations():
    assert [[node.name for node in layer] for layer in generations(graph(RESIDUAL))] == [
        ["stem"],
        ["left", "right1"],
        ["right2"],
        ["join"],
        ["head"],
    ]


def test_a_second_output_and_a_second_input_leave_no_common_node():
    found = graph("""g (float[2] x, float[2] z) => (float[2] y, float[2] a) {
        [one] a = Relu (x) [two] y = Add (a, z) }""")
    assert names(dominators(found)) == {"one": SOURCE, "two": SOURCE, SINK: SOURCE}
    assert names(post_dominators(found)) == {SOURCE: SINK, "one": SINK, "two": SINK}


def test_a_subgraph_uses_what_is_around_it():
    found = graph("""g (bool c, float[2] x) => (float[2] y) {
        [h] h = Relu (x)
        [pick] y = If (c) <then_branch = t () => (float[2] p) { [p] p = Neg (h) },
                           else_branch = e () => (float[2] q) { [q] q = Abs (h) }> }""")
    view = dataflow(found)
    assert [(a.name, b.name, len(d["values"])) for a, b, d in view.edges(data=True)] == [("h", "pick", 2)]
    assert [node.name for node in dataflow(ir.subgraphs_of(found[1])[0])] == ["p"]


def test_a_value_used_twice_is_one_edge():
    view = dataflow(graph("g (float[2] x) => (float[2] y) { h = Relu (x) y = Mul (h, h) }"))
    assert [len(values) for _, _, values in view.edges(data="values")] == [2]


def test_an_empty_graph():
    proto = onnx.parser.parse_model(HEADER + "g (float[2] x) => (float[2] y) { y = Relu (x) }")
    del proto.graph.node[:]
    proto.graph.output[0].name = "x"
    empty = ir.load(proto).graph
    assert generations(empty) == [] and names(dominators(empty)) == {SINK: SOURCE}
