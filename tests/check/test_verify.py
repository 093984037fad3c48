"""Every invariant: a model broken in that one way is caught by that check, with the place in the message."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
import pytest

from lwgraph import ir
from lwgraph.check import InvariantError, verify
from lwgraph.errors import CheckError

MODEL = """<ir_version: 8, opset_import: ["" : 17, "local" : 1, "com.microsoft" : 1]>
    g (float[N,2] x, bool c) => (float[N,2] y, float[N,2] z) <float[2] w = {1,2}, float[N,2] a>
    {
      [add] a = Add (x, w)
      [act] b = LeakyRelu <alpha = 0.1> (a)
      [mul] m = Mul (b, w)
      [pick] y = If (c) <
        then_branch = yes () => (float[N,2] t) { [neg] t = Neg (m) },
        else_branch = no () => (float[N,2] e) { [abs] f = Abs (m) [exp] e = Exp (f) }>
      [call] z = local.f <slope = 0.5> (m)
    }
    <domain: "local", opset_import: ["" : 17]>
    f <slope> (p) => (q) { [inner] r = LeakyRelu <alpha: float = @slope> (p) [twice] q = Add (r, r) }"""


@pytest.fixture
def model() -> ir.Model:
    return ir.load(onnx.parser.parse_model(MODEL))


def branch(model: ir.Model, name: str = "else_branch") -> ir.Graph:
    return model.graph.node("pick").attributes[name].as_graph()


def function(model: ir.Model) -> ir.Function:
    return next(iter(model.functions.values()))


def caught(model: ir.Model, shapes: bool = True) -> InvariantError:
    with pytest.raises(InvariantError) as found:
        verify(model, shapes=shapes)
    assert "\n" not in str(found.value)
    return found.value


def test_the_model_is_sound(model):
    verify(model)


def foreign_output(m):
    m.graph.node("act").outputs[0]._producer = m.graph.node("add")


def foreign_node(m):
    m.graph.node("act").graph = branch(m)


def flagless_output(m):
    m.graph.outputs[0]._is_graph_output = False


def flagless_input(m):
    m.graph.inputs[0]._is_graph_input = False


def flagless_initializer(m):
    m.graph.initializers["w"]._is_initializer = False


def graph_of_two_nodes(m):
    m.graph.node("pick").attributes.add(ir.Attr("then_branch", ir.AttributeType.GRAPH, branch(m)))


def initializer_in_function(m):
    function(m).graph.initializers.add(ir.Value(name="w0", const_value=ir.Tensor(np.zeros(1), name="w0")))


def dangling_input(m):
    m.graph.node("act").replace_input_with(0, ir.Value(name="nobody"))


def used_too_early(m):
    m.graph.node("add").replace_input_with(1, m.graph.node("mul").outputs[0])


def used_after_removal(m):
    m.graph.remove(m.graph.node("act"))


def branch_value_outside(m):
    m.graph.node("call").replace_input_with(0, branch(m)[0].outputs[0])


def value_of_another_function(m):
    m.graph.node("act").replace_input_with(0, function(m)[0].outputs[0])


def unsafely_removed_user(m):
    spare = ir.Node("", "Relu", [m.graph.node("add").outputs[0]], name="spare", graph=m.graph)
    m.graph.remove(spare)


def believed_use(m):
    m.graph.node("add").outputs[0]._add_usage(m.graph.node("mul"), 0)


def unknown_use(m):
    m.graph.node("add").outputs[0]._remove_usage(m.graph.node("act"), 0)


def same_value_name(m):
    m.graph.node("act").outputs[0].name = "a"


def name_of_an_input(m):
    m.graph.node("act").outputs[0].name = "x"


def same_node_name(m):
    m.graph.node("act").name = "mul"


def nameless_value(m):
    m.graph.node("act").outputs[0].name = ""


def hidden_outer_value(m):
    branch(m)[0].outputs[0].name = "m"
    branch(m)[1].replace_input_with(0, m.graph.node("mul").outputs[0])


def initializer_by_another_name(m):
    m.graph.initializers["w"]._name = "u"


def undefined_output(m):
    m.graph.outputs.append(ir.Value(name="nowhere"))


def outer_value_as_branch_output(m):
    branch(m).outputs.data[0] = m.graph.node("mul").outputs[0]
    m.graph.node("mul").outputs[0]._is_graph_output = True


def unknown_operator(m):
    m.graph.node("act").op_type = "LeakyReluu"


def operator_of_a_later_opset(m):
    m.graph.node("act").op_type = "Gelu"


def deprecated_operator(m):
    m.graph.node("act").op_type = "Upsample"


def domain_not_imported(m):
    m.graph.node("act").domain = "ai.onnx.ml"


def too_many_inputs(m):
    m.graph.node("act").resize_inputs(2)
    m.graph.node("act").replace_input_with(1, m.graph.initializers["w"])


def too_few_inputs(m):
    m.graph.node("mul").resize_inputs(1)


def left_out_input(m):
    m.graph.node("mul").replace_input_with(0, None)


def too_many_outputs(m):
    m.graph.node("act").resize_outputs(2)
    m.graph.node("act").outputs[1].name = "more"


def too_many_inputs_of_a_function(m):
    m.graph.node("call").resize_inputs(2)
    m.graph.node("call").replace_input_with(1, m.graph.initializers["w"])


def unknown_attribute(m):
    m.graph.node("act").attributes.add(ir.Attr("alphas", ir.AttributeType.FLOAT, 1.0))


def attribute_type(m):
    m.graph.node("act").attributes.add(ir.Attr("alpha", ir.AttributeType.INT, 1))


def missing_attribute(m):
    m.graph.node("act").op_type = "Cast"
    del m.graph.node("act").attributes["alpha"]


def unknown_function_attribute(m):
    m.graph.node("call").attributes.add(ir.Attr("slop", ir.AttributeType.FLOAT, 1.0))


def reference_outside_a_function(m):
    m.graph.node("act").attributes.add(ir.RefAttr("alpha", "slope", ir.AttributeType.FLOAT))


def reference_to_no_parameter(m):
    function(m)[0].attributes.add(ir.RefAttr("alpha", "slop", ir.AttributeType.FLOAT))


def disallowed_type(m):
    m.graph.inputs[0].type = ir.TensorType(ir.DataType.BOOL)


def unequal_types(m):
    ir.set_constant(m.graph.initializers["w"], np.ones(2))


def wrong_output_type(m):
    m.graph.node("add").outputs[0].type = ir.TensorType(ir.DataType.INT32)


def no_data(m):
    m.graph.initializers["w"].const_value = None


def recorded_type(m):
    m.graph.initializers["w"].const_value = ir.Tensor(np.ones(2))


def recorded_shape(m):
    m.graph.initializers["w"].const_value = ir.Tensor(np.ones(3, np.float32))


def fewer_elements_than_declared(m):
    m.graph.initializers["w"].const_value = ir.Tensor(np.ones(1, np.float32), shape=ir.Shape([2]))


def recorded_value_shape(m):
    m.graph.node("add").outputs[0].shape = ir.Shape(["N", 3])


def recorded_output_shape(m):
    m.graph.outputs[0].shape = ir.Shape([2])


def contradiction(m):
    ir.set_constant(m.graph.initializers["w"], np.ones(3, np.float32))


def contradiction_inside(m):
    branch(m)[1].outputs[0].shape = ir.Shape(["N", 5])


BROKEN = [
    (foreign_output, "ownership", "output 0 of node 'act' (LeakyRelu), 'b', does not know it as its maker"),
    (foreign_node, "ownership", "node 'act' (LeakyRelu) does not know the graph that it is in"),
    (flagless_output, "ownership", "output 'y' does not know that it is one"),
    (flagless_input, "ownership", "input 'x' does not know that it is one"),
    (flagless_initializer, "ownership", "initializer 'w' does not know that it is one"),
    (graph_of_two_nodes, "ownership", "the graph belongs to two nodes"),
    (initializer_in_function, "ownership", "function 'local::f' has initializers"),
    (dangling_input, "definition", "node 'act' (LeakyRelu) uses 'nobody', which nothing defines"),
    (used_too_early, "definition", "node 'add' (Add) uses 'm' before node 'mul' (Mul) makes it"),
    (used_after_removal, "definition", "uses 'b', whose maker node 'act' (LeakyRelu) is no longer in a graph"),
    (branch_value_outside, "definition", "uses 'f', which graph 'no' defines and cannot be seen from here"),
    (value_of_another_function, "definition", "node 'act' (LeakyRelu) uses 'r', which graph"),
    (unsafely_removed_user, "uses", "'a' is still used by node 'spare' (Relu), which is no longer in the model"),
    (believed_use, "uses", "'a' believes to be input 0 of node 'mul' (Mul), and is not"),
    (unknown_use, "uses", "'a' does not know that it is input 0 of node 'act' (LeakyRelu)"),
    (same_value_name, "names", "two values are named 'a'"),
    (name_of_an_input, "names", "two values are named 'x'"),
    (same_node_name, "names", "two nodes are named 'mul': Mul and LeakyRelu"),
    (nameless_value, "names", "a value that is used has no name"),
    (hidden_outer_value, "names", "node 'exp' (Exp) uses 'm' of graph 'g', which another value of that name hides"),
    (initializer_by_another_name, "names", "initializer 'w' calls itself 'u'"),
    (undefined_output, "outputs", "output 'nowhere' is not defined in its graph"),
    (outer_value_as_branch_output, "outputs", "output 'm' is not defined in its graph (graph 'no')"),
    (unknown_operator, "operator", "has no operator 'LeakyReluu'; did you mean 'LeakyRelu'?"),
    (operator_of_a_later_opset, "operator", "domain 'ai.onnx' has no operator 'Gelu'; it came with opset 20"),
    (deprecated_operator, "operator", "has 'Upsample' no more (deprecated)"),
    (domain_not_imported, "operator", "is in domain 'ai.onnx.ml', which the model does not import"),
    (too_many_inputs, "arity", "node 'act' (LeakyRelu) has 2 inputs; it takes 1"),
    (too_few_inputs, "arity", "node 'mul' (Mul) has 1 inputs; it takes 2"),
    (left_out_input, "arity", "node 'mul' (Mul) lacks its input 0 ('A')"),
    (too_many_outputs, "arity", "node 'act' (LeakyRelu) has 2 outputs; it takes 1"),
    (too_many_inputs_of_a_function, "arity", "node 'call' (f) has 2 inputs; the function has 1"),
    (unknown_attribute, "attributes", "has no attribute 'alphas'; did you mean 'alpha'?"),
    (attribute_type, "attributes", "attribute 'alpha' of node 'act' (LeakyRelu) has type INT; it takes FLOAT"),
    (missing_attribute, "attributes", "node 'act' (Cast) lacks its attribute 'to'"),
    (unknown_function_attribute, "attributes", "gives attribute 'slop', which the function does not have"),
    (reference_outside_a_function, "attributes", "refers to parameter 'slope', outside a function"),
    (reference_to_no_parameter, "attributes", "refers to parameter 'slop', which the function does not have"),
    (disallowed_type, "types", "'x' is tensor(bool), which node 'add' (Add) does not take as 'A'; allowed: "),
    (unequal_types, "types", "'x' is tensor(float) and 'w' is tensor(double); node 'add' (Add) wants them equal"),
    (wrong_output_type, "types", "'x' is tensor(float) and 'a' is tensor(int32)"),
    (no_data, "data", "initializer 'w' has no data"),
    (recorded_type, "data", "initializer 'w' is recorded as FLOAT and holds DOUBLE"),
    (recorded_shape, "data", "initializer 'w' is recorded with shape [2] and holds [3]"),
    (fewer_elements_than_declared, "data", "declares shape [2], 2 elements, and holds 1"),
    (recorded_value_shape, "shapes", "(Add): inferred shape and existing shape differ in dimension 1: (2) vs (3)"),
    (recorded_output_shape, "shapes", "node 'pick' (If): "),
    (contradiction, "shapes", "node 'add' (Add): incompatible dimensions"),
    (contradiction_inside, "shapes", "node 'exp' (Exp): inferred shape and existing shape differ"),
]


@pytest.mark.parametrize(("breaks", "invariant", "message"), BROKEN, ids=[b[0].__name__ for b in BROKEN])
def test_broken(model, breaks, invariant, message):
    breaks(model)
    error = caught(model)
    assert message in str(error)
    assert error.invariant == invariant
    assert isinstance(error, CheckError) and error.detail.startswith(f"{invariant}: ")


@pytest.mark.parametrize("breaks", [b[0] for b in BROKEN if b[1] == "shapes"])
def test_only_the_dear_check_sees_shapes(model, breaks):
    breaks(model)
    verify(model, shapes=False)
    caught(model)


def test_detail_shows_the_neighbours(model):
    too_few_inputs(model)
    assert caught(model).detail.splitlines() == [
        "arity: node 'mul' (Mul) has 1 inputs; it takes 2 (graph 'g')",
        "   b = LeakyRelu(a) {alpha=0.1}  # act",
        ">> m = Mul(b)  # mul",
        "-> t: float[N,2] = Neg(m)  # neg",
        "-> f = Abs(m)  # abs",
        "-> z: float[N,2] = local::f(m) {slope=0.5}  # call",
    ]


def test_detail_of_a_value_without_a_maker(model):
    no_data(model)
    assert caught(model).detail.splitlines()[1:] == [
        "   w: float[2]",
        "-> a: float[N,2] = Add(x, w)  # add",
        "-> m = Mul(b, w)  # mul",
    ]


def test_operators_of_runtimes_are_left_to_them(model):
    act = model.graph.node("act")
    act.domain, act.op_type = "com.microsoft", "Anything"
    verify(model)


def test_a_name_may_hide_an_outer_one_that_is_not_meant(model):
    branch(model)[0].outputs[0].name = "b"  # 'b' of the main graph is not used in the branch
    verify(model)


def test_functions_are_checked(model):
    function(model)[1].op_type = "Addd"
    assert "node 'twice' (Addd)" in str(caught(model))


def test_external_data_that_shrank(tmp_path, model):
    ir.set_constant(model.graph.initializers["w"], np.ones((600, 2), np.float32))
    ir.save(model, tmp_path / "m.onnx", external=True)
    loaded = ir.load(tmp_path / "m.onnx")
    verify(loaded)
    tensor = loaded.graph.initializers["w"].const_value
    tensor.file.size -= 4
    assert "declares shape [600, 2], 1200 elements, and holds 1199 in " in str(caught(loaded))


def test_packed_tensors(model):
    tensor = onnx_ir.PackedTensor(np.zeros(2, np.uint8), ir.DataType.UINT4, shape=ir.Shape([3]))
    model.graph.initializers.add(ir.Value(name="q", const_value=tensor))
    verify(model)
    tensor._raw = np.zeros(1, np.uint8)
    assert "3 elements, and holds 2" in str(caught(model))


def test_the_model_is_not_changed(model):
    before = ir.fingerprint(model)
    verify(model)
    assert ir.fingerprint(model) == before


def test_inference_in_onnx_own_function_bodies_is_not_the_models_fault():
    """MeanVarianceNormalization of opset 13: onnx's own body of it fails onnx's own inference."""
    verify(
        ir.load(
            onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 13]>
        g (float[3,3,3,1] x) => (float[3,3,3,1] y) { y = MeanVarianceNormalization (x) }""")
        )
    )
