import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir, registry
from lwgraph.layers.site import find_sites
from lwgraph.measure.work import count
from lwgraph.testing.layers import layers, make_layer, patches

LAYERS = {layer.name: layer for layer in layers()}


@pytest.mark.parametrize("name", LAYERS)
def test_canonical_weight_and_patches_give_the_layers_output(name):
    layer = LAYERS[name]
    site, x = layer.site, layer.samples()
    found = patches(site, x)
    weight = site.weight.reshape(site.group, -1, site.fan_in)
    y = np.concatenate([p @ w.T for p, w in zip(found, weight, strict=True)], 1)
    y = y if site.bias is None else y + site.bias
    # onnx's reference ConvTranspose cannot do groups
    runner = registry.executor("ort" if name.startswith("transposed") else "reference")
    expected = runner.prepare(layer.model)({"x": x})["y"]
    expected = np.moveaxis(expected, 1, -1) if site.kernel else expected
    assert np.allclose(y, expected.reshape(y.shape), rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_names_kinds_and_costs():
    site = LAYERS["strided"].site
    assert (site.name, site.kind, site.shape, site.outputs, site.inputs) == ("layer", "conv", (20, 18, 3, 3), 20, 18)
    fixed = find_sites(LAYERS["strided"].model, {"x": (2, 18, 15, 17), "y": (2, 20, 7, 9)})[0]
    assert fixed.positions() == 2 * 7 * 9 and fixed.positions([0]) == 2 * 7 * 17
    assert fixed.macs() == 2 * 7 * 9 * 20 * 18 * 9
    assert site.macs() % (20 * 18 * 9) == 0  # sizes unknown: in proportion
    assert fixed.key() != site.key()
    grouped = find_sites(LAYERS["grouped"].model, {"x": (1, 36, 11, 13), "y": (1, 40, 11, 13)})[0]
    assert grouped.macs() == 11 * 13 * 40 * 18 * 9
    up = find_sites(LAYERS["transposed"].model, {"x": (1, 20, 9, 11), "y": (1, 18, 18, 22)})[0]
    assert up.macs() == 9 * 11 * 20 * 18 * 9  # each input pixel is spread once


def test_the_first_layer_is_the_one_that_no_other_comes_before():
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["s"]), helper.make_node("Conv", ["s", "w"], ["a"], "a"),
        helper.make_node("Add", ["a", "x"], ["m"]), helper.make_node("Conv", ["m", "w"], ["y"], "b"),
    ]  # fmt: skip
    made = model(nodes, {"w": np.ones((16, 16, 1, 1), np.float32)})
    assert [(site.name, site.first) for site in find_sites(made)] == [("a", True), ("b", False)]


def test_matmul_takes_the_bias_that_follows():
    site = LAYERS["matmul"].site
    assert [node.op_type for node in site.nodes] == ["MatMul", "Add"] and site.bias is not None
    assert site.output.name == "y"


def model(nodes, initializers, *, inputs=(("x", ["n", 16, "h", "w"]),), outputs=("y",), functions=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(a, n) for n, a in initializers.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return ir.load(helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions)))


W = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32)


def test_weights_that_are_shared():
    m = model(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], name="c1"),
            helper.make_node("Conv", ["a", "w"], ["b"], name="c2"),
            helper.make_node("Conv", ["b", "v"], ["y"], name="c2"),
        ],
        {"w": W, "v": W},
    )
    first, second, third = find_sites(m)
    assert first.shared == (second.name,) and second.shared == (first.name,) and third.shared == ()
    assert third.name != second.name  # node names may repeat, site names may not


def test_sites_in_subgraphs_and_functions():
    body = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["z"], name="inner")],
        "b",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z2"])],
        "b2",
        [],
        [helper.make_tensor_value_info("z2", TensorProto.FLOAT, None)],
    )
    function = helper.make_function(
        "local",
        "Block",
        ["x"],
        ["y"],
        [
            helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(W)),
            helper.make_node("Conv", ["x", "k"], ["y"], name="deep", pads=[1, 1, 1, 1]),
        ],
        [helper.make_opsetid("", 17)],
    )
    m = model(
        [
            helper.make_node("If", ["c"], ["i"], then_branch=body, else_branch=other),
            helper.make_node("Block", ["i"], ["y"], domain="local"),
        ],
        {"w": W, "c": np.array(True)},
        functions=[function],
    )
    assert [site.name for site in find_sites(m)] == ["inner", "Block::deep"]


@pytest.mark.parametrize(
    ("node", "initializers", "reason"),
    [
        (helper.make_node("Conv", ["x", "x"], ["y"]), {}, "weight is not constant"),
        (helper.make_node("Conv", ["x", "w", "x"], ["y"]), {"w": W}, "bias is not constant"),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transA=1), {"w": W[0, 0]}, "transA"),
        (helper.make_node("Gemm", ["x", "w", "b"], ["y"]), {"w": W[0, 0], "b": W[0, 0]}, "row to row"),
        (helper.make_node("Gemm", ["x", "w", "x"], ["y"]), {"w": W[0, 0]}, "bias is not constant"),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), {"w": W}, "4 axes"),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"], output_shape=[9, 9]), {"w": W}, "output_shape"),
        (helper.make_node("Conv", ["x", "w"], ["y"]), {"w": np.zeros((0, 16, 3, 3), np.float32)}, "empty"),
        (helper.make_node("Conv", ["x", "w"], ["y"]), {"w": W.astype("int8")}, "INT8"),
    ],
)
def test_what_is_no_site_is_refused_with_a_reason(node, initializers, reason):
    reasons = []
    assert not find_sites(model([node], initializers), refused=lambda place, why: reasons.append(why))
    assert len(reasons) == 1 and reason in reasons[0]


def test_a_weight_that_the_caller_may_override_is_not_constant():
    m = model([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": W}, inputs=(("x", None), ("w", [16, 16, 3, 3])))
    assert not find_sites(m)


def test_products_of_activations_are_passed_over_in_silence():
    reasons = []
    m = model([helper.make_node("MatMul", ["x", "x"], ["y"])], {})
    assert not find_sites(m, refused=lambda place, why: reasons.append(why)) and not reasons


def test_activation_behind_a_site():
    chain = [helper.make_node("Conv", ["x", "w"], ["a"])]
    assert find_sites(model([*chain, helper.make_node("Relu", ["a"], ["y"])], {"w": W}))[0].activation == "Relu"
    silu = [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["y"])]
    assert find_sites(model([*chain, *silu], {"w": W}))[0].activation == "Silu"
    assert find_sites(model([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": W}))[0].activation == ""


def test_counts():
    m = make_layer("Conv", (1, 16, 9, 9), (32, 16, 3, 3), pads=(1, 1, 1, 1), dynamic=False)
    assert count(m).macs is None and count(m).unknown == ("layer",)
    counts = count(m, {"y": (1, 32, 9, 9)})
    assert counts.macs == 81 * 32 * 16 * 9
    assert counts.parameters == 32 * 16 * 9 + 32 and counts.bytes == 4 * counts.parameters and counts.nodes == 1
    gemm = make_layer("Gemm", (5, 48), (48, 64), dynamic=False)
    assert count(gemm, {"y": (5, 64)}).macs == 5 * 48 * 64
    lstm = model(
        [helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=4)],
        {"w": np.zeros((1, 16, 8), np.float32), "r": np.zeros((1, 16, 4), np.float32)},
        inputs=(("x", [10, 2, 8]),),
    )
    assert count(lstm).macs == 10 * 2 * (16 * 8 + 16 * 4)
