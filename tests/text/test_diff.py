"""Each way in which two models can differ is named once, and equal models have no differences."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from lwgraph import ir
from lwgraph.text import diff


def parse(text: str) -> ir.Model:
    return ir.load(onnx.parser.parse_model(text))


BASE = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
    g (float[N,2] x, bool c) => (float[N,2] y, float[N,2] z) <float[2] w = {1,2}, float[2] v = {3,4}>
    {
      [add] a = Add (x, w)
      [act] b = LeakyRelu <alpha = 0.1> (a)
      [mul] m = Mul (b, v)
      [pick] y = If (c) <
        then_branch = yes () => (float[N,2] t) { t = Neg (m) },
        else_branch = no () => (float[N,2] e) { e = Abs (m) }>
      [call] z = local.f (m)
    }
    <domain: "local", opset_import: ["" : 17]> f (p) => (q) { q = Relu (p) }"""


def brief(a: ir.Model, b: ir.Model) -> list[str]:
    return [f"{c.kind} {c.what} {c.name}{f' in {c.scope}' if c.scope else ''}" for c in diff(a, b).changes]


def change(what) -> list[str]:
    """The brief differences from BASE to BASE changed by `what`, a function or a pair of texts."""
    if isinstance(what, tuple):
        assert BASE.count(what[0]) >= 1
        other = parse(BASE.replace(*what))
    else:
        other = parse(BASE)
        what(other)
    return brief(parse(BASE), other)


def test_equal_models():
    found = diff(parse(BASE), parse(BASE))
    assert found.empty and str(found) == "no differences" and found.to_dict()["equal"] is True


def drop_mul(model):
    mul = model.graph.node("mul")
    ir.replace_uses(mul.outputs[0], mul.inputs[0])
    ir.remove(mul)


def insert_relu(model):
    a = model.graph.node("add").outputs[0]
    relu = ir.Node("", "Relu", [a], name="new", outputs=[ir.Value(name="r")])
    model.graph.insert_after(model.graph.node("add"), relu)
    model.graph.node("act").replace_input_with(0, relu.outputs[0])


def rename_value(model):
    model.graph.node("act").outputs[0].name = "other"


def lose_a_name(model):
    model.graph.node("act").name = "other"


def swap_inputs(model):
    model.graph.node("add").replace_input_with(0, model.graph.node("add").inputs[1])
    model.graph.node("add").replace_input_with(1, model.graph.inputs[0])


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (("alpha = 0.1", "alpha = 0.2"), ["changed node act"]),
        (("LeakyRelu <alpha = 0.1>", "Relu"), ["changed node act"]),
        (("w = {1,2}", "w = {1,3}"), ["changed initializer w"]),
        (("float[2] v = {3,4}", "float[2] u = {3,4}, float[2] v = {3,4}"), ["added initializer u"]),
        (("t = Neg (m)", "t = Sqrt (m)"), ["changed node t in pick.then_branch"]),
        (("q = Relu (p)", "q = Neg (p)"), ["changed node q in local::f"]),
        (("f (p)", "f <s> (p)"), ["changed function local::f"]),
        (("ir_version: 8", "ir_version: 9"), ["changed model model"]),
        (('["" : 17, "local" : 1]>', '["" : 18, "local" : 1], metadata_props: ["k": "v"]>'), ["changed model model"]),
        (("float[N,2] x, bool c", "bool c, float[N,2] x"), ["changed graph order of inputs"]),
        (("float[N,2] y, float[N,2] z", "float[1,2] y, float[N,2] z"), ["changed output y"]),
        (("float[N,2] x", "float[3,2] x"), ["changed input x"]),
        (
            drop_mul,
            [
                "removed node mul",
                "changed node t in pick.then_branch",
                "changed node e in pick.else_branch",
                "changed node call",
            ],
        ),
        (insert_relu, ["changed node act", "added node new"]),
        (rename_value, ["renamed value b"]),
        (lose_a_name, ["renamed node act"]),
        (swap_inputs, ["changed node add"]),
        (lambda m: m.graph.outputs.pop(), ["removed output z"]),
        (lambda m: m.graph.inputs.append(ir.Value(name="more")), ["added input more"]),
        (lambda m: setattr(m.graph.initializers["w"], "name", "u"), ["renamed initializer w"]),
        (lambda m: m.functions.clear(), ["removed function local::f"]),
        (lambda m: setattr(m.graph, "doc_string", "text"), ["changed graph g"]),
        (lambda m: m.graph.node("add").metadata_props.update(k="v"), ["changed node add"]),
    ],
)
def test_each_kind_of_change(what, expected):
    assert change(what) == expected


def test_the_reverse_of_removing_is_adding():
    other = parse(BASE)
    drop_mul(other)
    assert brief(other, parse(BASE))[-1] == "added node mul"


def test_recorded_types_count_where_both_have_one():
    a, b = parse(BASE), parse(BASE)
    a.graph[0].outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    assert diff(a, b).empty
    b.graph[0].outputs[0].type = ir.TensorType(ir.DataType.DOUBLE)
    assert str(diff(a, b)).splitlines()[1:] == ["~ value: a", "    type: float -> double"]


def test_text_and_json():
    other = parse(BASE)
    drop_mul(other)
    ir.set_constant(other.graph.initializers["w"], np.array([5, 6], np.float32))
    found = diff(parse(BASE), other)
    assert str(found).splitlines()[:5] == [
        "initializers: 1 changed; nodes: 3 changed, 1 removed",
        "~ initializer: w",
        "    data: float[2] [1.0, 2.0] -> float[2] [5.0, 6.0]",
        "- node: m = Mul(b, v)  # mul",
        "~ node in pick.then_branch: t",
    ]
    data = json.loads(json.dumps(found.to_dict()))
    assert data["counts"] == {"initializer": {"changed": 1}, "node": {"changed": 3, "removed": 1}}
    assert data["changes"][1]["before"] == "m = Mul(b, v)  # mul"


def test_a_large_constant_inside_an_attribute():
    def constant(value: float) -> ir.Model:
        node = onnx.helper.make_node(
            "Constant", [], ["y"], name="c", value=onnx.numpy_helper.from_array(np.full(1000, value, np.float32))
        )
        output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1000])
        return ir.load(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [output])))

    assert diff(constant(1), constant(1)).empty
    assert brief(constant(1), constant(2)) == ["changed node c"]


def test_values_of_other_names_are_matched_by_what_they_compute():
    steps = "".join(f"v{i + 1} = Relu (v{i}) " for i in range(300))
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] v0) => (float[2] v300) {' + steps + "}"
    a, b = parse(text), parse(text)
    for node in list(b.graph)[:-1]:
        node.outputs[0].name = f"w{node.outputs[0].name}"
    assert diff(a, b).counts == {"value": {"renamed": 299}}
