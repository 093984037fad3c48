"""The text of a model: what it says, and that it is stable."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from lwgraph import ir
from lwgraph.text import node_text, to_text, type_text


def parse(text: str) -> ir.Model:
    return ir.load(onnx.parser.parse_model(text))


MODEL = """<ir_version: 8, opset_import: ["" : 17, "local" : 1], producer_name: "maker", metadata_props: ["k": "v"]>
    g (float[N,3,8,8] x, bool c) => (float[N,2,8,8] y, float z)
    <float[2,3,1,1] w = {1,2,3,4,5,6}, float[9] long = {1,2,3,4,5,6,7,8,9}, float s = {0.1}>
    {
      [first] h = Conv <dilations = [1,1], auto_pad = "SAME_UPPER"> (x, w)
      [choice] b = If (c) <
        then_branch = yes () => (float t) { t = ReduceSum (long) },
        else_branch = no () => (float e) { e = Identity (s) }>
      [last] y = local.leak <slope = 0.1> (h)
      z = Identity (b)
    }
    <domain: "local", opset_import: ["" : 16]>
    leak <slope> (a) => (r) { r = LeakyRelu <alpha: float = @slope> (a) }"""

TEXT = """\
model ir_version=8 opset={ai.onnx: 17, local: 1}
  producer_name: 'maker'
  k = 'v'
graph g (x: float[N,3,8,8], c: bool[]) -> (y: float[N,2,8,8], z: float[]) {
  w := float[2,3,1,1] [[[[1.0]], [[2.0]], [[3.0]]], [[[4.0]], [[5.0]], [[6.0]]]]
  long := float[9] #2bd8adac
  s := float[] 0.1
  h = Conv(x, w) {auto_pad='SAME_UPPER', dilations=[1,1]}  # first
  b = If(c) {else_branch=<graph no>, then_branch=<graph yes>}  # choice
    graph yes () -> (t: float[]) {
      t: float[] = ReduceSum(long)
    }
    graph no () -> (e: float[]) {
      e: float[] = Identity(s)
    }
  y: float[N,2,8,8] = local::leak(h) {slope=0.1}  # last
  z: float[] = Identity(b)
}
function local::leak <slope> opset={ai.onnx: 16} (a) -> (r) {
  r = LeakyRelu(a) {alpha=@slope}
}
"""


def test_the_whole_text():
    assert to_text(parse(MODEL)) == TEXT


def test_text_is_stable_through_a_file(tmp_path):
    model = parse(MODEL)
    ir.save(model, tmp_path / "m.onnx", external=True)
    assert to_text(ir.load(tmp_path / "m.onnx")) == to_text(ir.clone(model)) == TEXT


def test_types_and_constants_of_every_kind():
    kinds = [
        helper.make_tensor_type_proto(TensorProto.FLOAT16, None),
        helper.make_tensor_type_proto(TensorProto.INT64, [2, "n", None]),
    ]
    kinds += [
        helper.make_sequence_type_proto(kinds[0]),
        helper.make_optional_type_proto(kinds[1]),
        helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [3]),
    ]
    nodes = [
        helper.make_node("Constant", [], ["a"], value_strings=["p", "q"]),
        helper.make_node("Optional", [], ["b"], type=kinds[1]),
        helper.make_node(
            "Constant", [], ["odd name"], value=helper.make_tensor("", TensorProto.BFLOAT16, [2], [1.0, 2.0])
        ),
        helper.make_node("Custom", ["", "a"], ["", "d"], domain="com.microsoft", many=[1.5, float("inf")]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_value_info(f"i{k}", kind) for k, kind in enumerate(kinds)],
        [helper.make_value_info("d", kinds[0])],
    )
    model = ir.load(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)])
    )
    assert [type_text(value) for value in model.graph.inputs] == [
        "float16",
        "int64[2,n,?]",
        "seq(float16)",
        "optional(int64[2,n,?])",
        "sparse_float[3]",
    ]
    assert [node_text(node) for node in model.graph] == [
        "a = Constant() {value_strings=['p','q']}",
        "b = Optional() {type=int64[2,n,?]}",
        "'odd name' = Constant() {value=bfloat16[2] [1, 2]}",
        "_, d: float16 = com.microsoft::Custom(_, a) {many=[1.5,inf]}",
    ]


def test_an_untyped_value_shows_its_name_only():
    assert node_text(ir.Node("", "Relu", [ir.Value(name="x")], outputs=[ir.Value(name="y")])) == "y = Relu(x)"
    assert type_text(ir.Value(name="x", shape=ir.Shape([1, None]))) == "[1,?]"
    assert np.float32(0.1) == np.float32(str(np.float32(0.1)))
