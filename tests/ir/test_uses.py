"""Walking a graph: what a node uses."""

import onnx

from lwgraph import ir


def test_a_node_uses_what_its_subgraphs_use():
    text = """<ir_version: 8, opset_import: ["" : 17]> g (bool c, float[2] x) => (float[2] y) {
        h = Relu (x)
        y = If (c) <then_branch = t () => (float[2] p) { p = Mul (h, h) },
                    else_branch = e () => (float[2] q) { q = Abs (x) }> }"""
    relu, pick = ir.load(onnx.parser.parse_model(text)).graph
    assert [value.name for value in ir.uses(relu)] == ["x"]
    assert [value.name for value in ir.uses(pick)] == ["c", "h", "h", "x"]
