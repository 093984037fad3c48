"""Names, edits and constants."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir
from lwgraph.errors import CheckError, ModelError


def parse(text: str) -> ir.Model:
    return ir.load(onnx.parser.parse_model(text))


HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


@pytest.fixture
def two_convs() -> ir.Model:
    return parse(
        HEADER
        + """
    g (float[1,2,4,4] x) => (float[1,2,4,4] y)
    <float[2,2,1,1] w = {1,2,3,4}, float[2] b = {1,1}>
    {
      h = Conv(x, w, b)
      y = Conv(h, w, b)
    }"""
    )


@pytest.fixture
def branches() -> ir.Model:
    return parse(
        HEADER
        + """
    g (bool c, float[2] x) => (float[2] y)
    {
      h = Relu(x)
      y = If(c) <
        then_branch = a () => (float[2] t) { inner = Neg(h) t = Abs(inner) },
        else_branch = b () => (float[2] e) { e = Identity(h) }
      >
    }"""
    )


def branch(model: ir.Model, name: str) -> ir.Graph:
    return model.graph[1].attributes[name].as_graph()


def test_fresh_names_are_never_taken(branches):
    graph = branches.graph
    assert ir.fresh_name(graph, "new") == "new"
    assert ir.fresh_name(graph, "new") == "new_1"
    assert ir.fresh_name(graph, "x") == "x_1"
    assert ir.fresh_name(graph, "inner") == "inner_1"  # a subgraph's value
    assert ir.fresh_name(branch(branches, "then_branch"), "h") == "h_1"  # an outer value
    assert ir.fresh_name(branch(branches, "then_branch"), "e") == "e_1"  # the other branch's value
    assert ir.fresh_name(branch(branches, "else_branch"), "new") == "new_2"
    assert ir.fresh_name(graph, "") == "_1"


@pytest.mark.parametrize("fresh", [ir.fresh_name, lambda graph, stem: ir.fresh_names(graph, [stem])[0]])
def test_fresh_names_see_what_was_inserted_later(two_convs, fresh):
    graph = two_convs.graph
    fresh(graph, "start")
    node = ir.Node("", "Relu", [graph.inputs[0]], name="relu")
    graph.append(node)  # onnx_ir names the output itself
    assert fresh(graph, "relu") == "relu_1"
    assert fresh(graph, node.outputs[0].name) != node.outputs[0].name
    graph.initializers.add(ir.Value(name="late", const_value=ir.Tensor(np.zeros(1))))
    assert fresh(graph, "late") == "late_1"
    graph.inputs.append(ir.Value(name="extra"))
    assert fresh(graph, "extra") == "extra_1"


def test_many_fresh_names_differ(two_convs):
    assert ir.fresh_names(two_convs.graph, ["new", "new", "x", ""]) == ["new", "new_1", "x_1", "_1"]
    assert ir.fresh_name(two_convs.graph, "new") == "new_2"


def test_what_moves_out_of_a_branch_is_named_at_once(branches, monkeypatch):
    """Asking all graphs for every name took minutes of a network with hundreds of branches."""
    node = next(node for node in branches.graph if node.op_type == "If")
    inner = branch(branches, "then_branch")
    inner.outputs.clear()
    monkeypatch.setattr("lwgraph.ir.edit._Names.inserted", lambda self, name: pytest.fail(f"asked for {name}"))
    moved = ir.move_contents(inner, node)
    names = [value.name for graph in (branches.graph, *branches.graph.subgraphs()) for value in ir.values(graph)]
    assert moved and all(each.graph is branches.graph for each in moved) and len(names) == len(set(names))


def test_fresh_name_in_a_graph_attached_after_loading(two_convs):
    outer = two_convs.graph
    inner = ir.Graph([], [], nodes=[ir.Node("", "Neg", [outer[0].outputs[0]])], name="later")
    assert ir.parent(inner) is outer
    assert ir.fresh_name(inner, "x") == "x_1"


def test_fresh_names_cost_the_same_each(two_convs):
    names = [ir.fresh_name(two_convs.graph, "n") for _ in range(5000)]
    assert len(set(names)) == 5000


def test_add_initializer(two_convs):
    value = ir.add_initializer(two_convs.graph, np.ones((2, 3), np.float16), "w")
    assert value.name == "w_1" and value.const_value.name == "w_1"
    assert two_convs.graph.initializers["w_1"] is value
    assert value.dtype == ir.DataType.FLOAT16 and list(value.shape) == [2, 3]
    packed = ir.add_initializer(two_convs.graph, np.array([1, 15], np.uint8), "q", dtype=ir.DataType.UINT4)
    assert packed.const_value.nbytes == 1


def test_add_initializer_from_a_tensor_leaves_its_name(two_convs):
    tensor = ir.Tensor(np.zeros(3), name="mine")
    value = ir.add_initializer(two_convs.graph, tensor, "w")
    assert tensor.name == "mine" and value.const_value.name == "w_1"


def test_copy_on_write_copies_only_shared_initializers(two_convs):
    first, second = two_convs.graph
    own = ir.copy_on_write(first.inputs[2], first)
    assert own.name == "b_1" and first.inputs[2] is own and second.inputs[2].name == "b"
    ir.set_constant(own, np.zeros(3, np.float64))
    assert own.dtype == ir.DataType.DOUBLE and list(own.shape) == [3]
    np.testing.assert_array_equal(ir.constant(second.inputs[2]), [1, 1])
    assert ir.copy_on_write(second.inputs[2], second).name == "b"  # now its own


def test_copy_on_write_refuses_what_is_not_constant(two_convs):
    with pytest.raises(CheckError, match="'x' of node"):
        ir.copy_on_write(two_convs.graph.inputs[0], two_convs.graph[0])
    with pytest.raises(CheckError, match="'x' is not an initializer"):
        ir.set_constant(two_convs.graph.inputs[0], np.zeros(1))


def test_remove_refuses_what_is_used(two_convs):
    first, second = two_convs.graph
    with pytest.raises(CheckError, match="output 'h' is used by node"):
        ir.remove(first)
    with pytest.raises(CheckError, match="'y' is an output of the graph"):
        ir.remove(second)
    spare = ir.Node("", "Relu", [first.outputs[0]], name="spare")
    two_convs.graph.append(spare)
    ir.remove(spare)
    assert len(two_convs.graph) == 2 and len(first.outputs[0].uses()) == 1
    with pytest.raises(CheckError, match="in no graph"):
        ir.remove(spare)


def test_replace_uses_keeps_the_output_name(two_convs):
    first, second = two_convs.graph
    ir.replace_uses(second.outputs[0], first.outputs[0])
    assert [v.name for v in two_convs.graph.outputs] == ["y"] and two_convs.graph.outputs[0] is first.outputs[0]
    ir.remove(second)
    onnx.checker.check_model(ir.to_proto(two_convs), full_check=True)


@pytest.mark.parametrize("new", ["input", "initializer", "output"])
def test_replace_uses_puts_an_identity_where_renaming_is_impossible(two_convs, new):
    graph = two_convs.graph
    first, second = graph
    if new == "output":
        graph.outputs.append(first.outputs[0])
    value = {"input": graph.inputs[0], "initializer": graph.initializers["b"], "output": first.outputs[0]}[new]
    name = value.name
    ir.replace_uses(second.outputs[0], value)
    ir.remove(second)
    assert graph.outputs[0].name == "y" and graph.outputs[0].producer().op_type == "Identity"
    assert value.name == name
    if new == "input":
        onnx.checker.check_model(ir.to_proto(two_convs))


def test_replace_uses_inside_a_subgraph(branches):
    inner = branch(branches, "then_branch")
    last = inner[1]
    ir.replace_uses(last.outputs[0], branches.graph[0].outputs[0])
    ir.remove(last)
    assert [node.op_type for node in inner] == ["Neg", "Identity"]
    assert inner.outputs[0].name == "t"


FORMS = [
    ("value", np.array([[1.5]], np.float32)),
    ("value_float", np.float32(2.5)),
    ("value_floats", np.array([1, 2], np.float32)),
    ("value_int", np.int64(3)),
    ("value_ints", np.array([3, 4], np.int64)),
    ("value_string", np.array(b"a")),
    ("value_strings", np.array([b"a", b"bc"])),
]


@pytest.mark.parametrize(("form", "expected"), FORMS, ids=[form for form, _ in FORMS])
def test_constant_nodes_of_every_form(form, expected):
    value = numpy_helper.from_array(expected) if form == "value" else np.asarray(expected).tolist()
    dtype = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "S": TensorProto.STRING}[np.asarray(expected).dtype.kind]
    graph = helper.make_graph(
        [helper.make_node("Constant", [], ["y"], **{form: value})],
        "g",
        [],
        [helper.make_tensor_value_info("y", dtype, np.shape(expected))],
    )
    model = ir.load(helper.make_model(graph))
    output = model.graph.outputs[0]
    np.testing.assert_array_equal(ir.constant(output), expected)
    assert ir.constant_shape(output) == np.shape(expected)
    assert ir.constant_dtype(output) == ir.DataType(dtype)


def test_an_initializer_that_is_an_input_is_not_constant():
    model = parse(HEADER + "g (float[2] x, float[2] w = {1,2}) => (float[2] y) { y = Add(x, w) }")
    assert model.graph.initializers["w"].const_value is not None
    for read in (ir.constant, ir.constant_tensor, ir.constant_shape, ir.constant_dtype):
        assert read(model.graph[0].inputs[1]) is None
    assert ir.constant(None) is None
    assert ir.constant(model.graph.outputs[0]) is None


def test_attribute_is_typed():
    model = parse(
        HEADER
        + """
    g (float[1,2,4,4] x) => (float[1,2,2,2] y) { y = MaxPool<kernel_shape=[2,2], auto_pad="VALID", ceil_mode=0>(x) }"""
    )
    node = model.graph[0]
    assert ir.attribute(node, "kernel_shape", ()) == (2, 2)
    assert ir.attribute(node, "auto_pad", "NOTSET") == "VALID"
    assert ir.attribute(node, "storage_order", 7) == 7
    assert ir.attribute(node, "pads") is None
    with pytest.raises(ModelError, match=r"'ceil_mode' .*is 0; a value of type str"):
        ir.attribute(node, "ceil_mode", "x")


FUNCTION = (
    '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>\n'
    + """
    g (float[2] x) => (float[2] y) { y = local.leaky <slope = 0.5> (x) }
    <domain: "local", opset_import: ["" : 16]>
    leaky <slope> (a) => (b) { b = LeakyRelu<alpha: float = @slope>(a) }"""
)


def test_reference_attributes_are_not_guessed():
    model = parse(FUNCTION)
    (function,) = model.functions.values()
    with pytest.raises(ir.ReferenceAttributeError, match="function's parameter 'slope'"):
        ir.attribute(function[0], "alpha", 0.01)


def test_opset_of_a_node(branches):
    assert ir.opset(branch(branches, "then_branch")[0]) == 17
    model = parse(FUNCTION)
    assert ir.opset(model.graph[0]) == 1
    assert ir.opset(next(iter(model.functions.values()))[0]) == 16
    with pytest.raises(ModelError, match="does not import"):
        ir.opset(ir.Node("nowhere", "Op", [], graph=model.graph))
    with pytest.raises(ModelError, match="in no graph"):
        ir.opset(ir.Node("", "Relu", []))


def test_scopes_and_values(branches):
    assert [ir.graph_of(scope).name for scope in ir.scopes(branches)] == ["g", "a", "b"]
    assert ir.root(branch(branches, "else_branch")) is branches.graph
    assert [value.name for value in ir.values(branches.graph)] == ["c", "x", "h", "y"]


def test_clone_shares_only_the_data(branches):
    other = ir.clone(branches)
    assert ir.fingerprint(other) == ir.fingerprint(branches)
    other.graph[0].outputs[0].dtype = ir.DataType.DOUBLE
    other.graph.inputs[1].dtype = ir.DataType.DOUBLE
    other.metadata_props["k"] = "v"
    assert branches.graph.inputs[1].dtype == ir.DataType.FLOAT and not branches.metadata_props
    assert ir.root(branch(other, "else_branch")) is other.graph


def test_load_leaves_the_callers_model_alone(two_convs):
    loaded = ir.load(two_convs)
    loaded.graph.initializers["w"].name = "renamed"
    assert "w" in two_convs.graph.initializers


def test_what_an_initializer_holds_cannot_be_written_to(two_convs: ir.Model) -> None:
    given = np.ones(3, np.float32)
    new = ir.add_initializer(two_convs.graph, given, "new")
    for _ in range(2):
        held = ir.constant(new)
        assert held is not None and np.shares_memory(held, given)
        with pytest.raises(ValueError, match="read-only"):
            held += 1
        ir.set_constant(new, given)
    ir.set_constant(new, np.float32(2))
    assert ir.constant(new) == 2 and new.shape is not None and len(new.shape) == 0
