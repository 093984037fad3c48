"""Generated inputs."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from lwgraph import ir, registry
from lwgraph.calibrate.fills import picture
from lwgraph.calibrate.generate import generate
from lwgraph.calibrate.input_use import index_bound
from lwgraph.calibrate.signature import signature
from lwgraph.errors import DataError, UsageError


def model(nodes, inputs, outputs, initializers=()):
    infos = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs]
    outs = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs]
    graph = helper.make_graph(
        nodes, "g", infos, outs, [numpy_helper.from_array(np.asarray(a), n) for n, a in initializers]
    )
    return ir.load(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]))


def embedding(op_between=None):
    ids = "ids" if op_between is None else "cast"
    nodes = [] if op_between is None else [helper.make_node("Cast", ["ids"], ["cast"], to=TensorProto.INT64)]
    nodes.append(helper.make_node("Gather", ["table", ids], ["y"], axis=0))
    kind = TensorProto.INT64 if op_between is None else TensorProto.INT32
    return model(
        nodes, [("ids", kind, ["n", "t"])], [("y", TensorProto.FLOAT)], [("table", np.zeros((5, 2), np.float32))]
    )


def test_images_have_the_models_shape_and_are_smooth():
    m = model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [("y", TensorProto.FLOAT)],
    )
    feeds = generate(m, 3, seed=4)
    assert [f["x"].shape for f in feeds] == [(1, 3, 32, 32)] * 3
    assert all(f["x"].dtype == np.float32 for f in feeds)
    assert feeds[0]["x"].min() >= 0
    assert feeds[0]["x"].max() <= 1
    assert feeds[1]["x"].min() < -0.5  # normalised
    assert not np.array_equal(feeds[0]["x"], feeds[2]["x"])
    again = generate(m, 3, seed=4)
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(feeds, again, strict=True))


def test_a_picture_is_correlated_between_neighbours_and_white_noise_is_not():
    image = picture(np.random.default_rng(0), (1, 3, 64, 64))[0, 0]
    assert np.corrcoef(image[:, 1:].ravel(), image[:, :-1].ravel())[0, 1] > 0.7
    assert picture(np.random.default_rng(0), (2, 5, 7, 3)).shape == (2, 5, 7, 3)


@pytest.mark.parametrize("between", [None, "Cast"])
def test_token_ids_stay_below_the_table(between):
    m = embedding(between)
    assert index_bound(m, "ids") == 5
    values = np.concatenate([f["ids"].ravel() for f in generate(m, 4)])
    assert values.max() == 4
    assert values.min() == 0


def test_dynamic_sizes_are_found_by_trying():
    # The Reshape accepts 128x128 only; the channel is dynamic, too, and must be 1.
    m = model(
        [helper.make_node("Reshape", ["x", "s"], ["y"])],
        [("x", TensorProto.FLOAT, ["n", "c", "h", "w"])],
        [("y", TensorProto.FLOAT)],
        [("s", np.array([1, 1, 128 * 128]))],
    )
    assert generate(m, 1)[0]["x"].shape == (1, 1, 128, 128)


def test_a_fixed_height_gives_a_longer_width():
    m = model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, [1, 3, 48, "w"])],
        [("y", TensorProto.FLOAT)],
    )
    assert generate(m, 1)[0]["x"].shape == (1, 3, 48, 224)


def test_one_symbol_has_one_size_over_the_inputs():
    m = model(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        [("a", TensorProto.FLOAT, ["n", "t"]), ("b", TensorProto.FLOAT, ["n", "t"])],
        [("y", TensorProto.FLOAT)],
    )
    feeds = generate(m, 1)[0]
    assert feeds["a"].shape == feeds["b"].shape


def test_stated_shapes_are_used_and_checked():
    m = model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [("y", TensorProto.FLOAT)],
    )
    assert generate(m, 1, shapes={"x": (2, 3, 5, 7)})[0]["x"].shape == (2, 3, 5, 7)
    with pytest.raises(UsageError, match="contradicts"):
        generate(m, 1, shapes={"x": (2, 4, 5, 7)})
    with pytest.raises(UsageError, match="no input 'z'"):
        generate(m, 1, shapes={"z": (1,)})


def test_other_dtypes():
    m = model(
        [
            helper.make_node("Where", ["b", "s", "s"], ["y"]),
            helper.make_node("Identity", ["u"], ["v"]),
            helper.make_node("Identity", ["k"], ["l"]),
        ],
        [
            ("b", TensorProto.BOOL, [2]),
            ("s", TensorProto.STRING, [2]),
            ("u", TensorProto.UINT8, [1, 8, 8, 3]),
            ("k", TensorProto.INT64, []),
        ],
        [("y", TensorProto.STRING), ("v", TensorProto.UINT8), ("l", TensorProto.INT64)],
    )
    feeds = generate(m, 1)[0]
    assert feeds["u"].dtype == np.uint8
    assert feeds["u"].max() > 200
    assert feeds["k"].shape == ()
    assert feeds["s"].dtype == object


def test_a_model_that_accepts_nothing_says_what_to_give():
    m = model(
        [helper.make_node("Reshape", ["x", "s"], ["y"])],
        [("x", TensorProto.FLOAT, ["n", "k"])],
        [("y", TensorProto.FLOAT)],
        [("s", np.array([7, 11, 13]))],
    )
    with pytest.raises(DataError, match=r"--input-shape x:\?,\?"):
        generate(m, 1)


def test_a_negative_size_is_open():
    relu = model(
        [helper.make_node("Relu", ["x"], ["y"])], [("x", TensorProto.FLOAT, [-1, 3, -1, 8])], [("y", TensorProto.FLOAT)]
    )
    assert signature(relu)["x"].shape == (None, 3, None, 8)
    (feeds,) = generate(relu, 1)
    assert feeds["x"].shape[1::2] == (3, 8)


def test_the_open_axis_of_a_recurrent_state_is_the_batch():
    nodes = [helper.make_node("GRU", ["x", "w", "r", "", "", "h"], ["", "y"], hidden_size=4, direction="bidirectional")]
    inputs = [("x", TensorProto.FLOAT, [None, 1, 5]), ("h", TensorProto.FLOAT, [2, None, 4])]
    weights = [("w", np.ones((2, 12, 5), np.float32)), ("r", np.ones((2, 12, 4), np.float32))]
    gru = model(nodes, inputs, [("y", TensorProto.FLOAT)], weights)
    (feeds,) = generate(gru, 1)
    assert feeds["h"].shape == (2, 1, 4)


MEAN = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,T] x, int64[N,T] %s) => (float[N,1] y) <int64[1] last = {1}, float one = {1}, float far = {-3e38}>
{ m = Cast <to: int = 1> (%s)
  n = ReduceSum (m, last)
  hidden = Sub (one, m)
  z = Mul (hidden, far)
  w = Add (x, z)
  s = Softmax <axis: int = 1> (w)
  t = ReduceSum (s, last)
  y = Div (t, n) }
"""


@pytest.mark.parametrize("name", ["attention_mask", "given"])
def test_a_mask_whose_sum_divides_is_one(name: str) -> None:
    model = ir.load(parser.parse_model(MEAN % (name, name)))
    feeds = generate(model, 4)
    assert (feeds[0][name] == 1).all()
    assert all(set(np.unique(each[name])) <= {0, 1} and (each[name][:, 0] == 1).all() for each in feeds)
    run = registry.executor("ort").prepare(model)
    assert all(np.isfinite(run(each)["y"]).all() for each in feeds)


def test_sizes_and_fills_that_give_nan_are_not_taken_where_others_do_not() -> None:
    """Counts are no mask to anyone who reads the graph; with a zero among them, 0 / 0 comes out."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[4] x, int64[4] count) => (float[4] y) <float[4] z = {0, 0, 0, 0}>
    { c = Cast <to: int = 1> (count)
      e = Mul (x, z)
      y = Div (e, c) }
    """
    model = ir.load(parser.parse_model(text))
    run = registry.executor("ort").prepare(model)
    for seed in range(6):
        assert all(np.isfinite(run(each)["y"]).all() for each in generate(model, 3, seed=seed))


@pytest.mark.parametrize("operator", ["Log", "Sqrt", "Acosh", "Asin", "Atanh"])
@pytest.mark.parametrize("shape", ["8", "1,3,8,8"])
def test_floats_are_from_where_a_function_is_defined(operator: str, shape: str) -> None:
    text = (
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[{shape}] x) => (float[{shape}] y) {{ y = {operator} (x) }}'
    )
    model = ir.load(parser.parse_model(text))
    run = registry.executor("ort").prepare(model)
    for feed in generate(model, 3):
        assert np.isfinite(run(feed)["y"]).all() and np.ptp(feed["x"]) > 0.3


def test_a_model_that_always_gives_nan_is_fed_all_the_same() -> None:
    head = '<ir_version: 8, opset_import: ["" : 17]> g (float[8] x) => (float[8] y)'
    text = head + "{ n = Abs (x)  m = Neg (n)  y = Log (m) }"
    assert len(generate(ir.load(parser.parse_model(text)), 2)) == 2


def test_sentences_differ_in_length_and_masks_are_ones_before_zeros() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (int64[N,T] input_ids, int64[N,T] attention_mask, int64[N,T] token_type_ids) => (float[N,T,2] y)
    <float[30,2] words = {LIST}, float[2,2] types = {1, 2, 3, 4}, int64[1] last = {2}>
    { w = Gather (words, input_ids)  t = Gather (types, token_type_ids)  s = Add (w, t)
      m = Cast <to: int = 1> (attention_mask)  u = Unsqueeze (m, last)  y = Mul (s, u) }
    """.replace("LIST", ", ".join(map(str, range(60))))
    feeds = generate(ir.load(parser.parse_model(text)), 8)
    assert {each["input_ids"].shape[1] for each in feeds} == {8, 16, 32, 64}
    for each in feeds:
        assert len({array.shape for array in each.values()}) == 1
        assert each["input_ids"].min() >= 0 and each["input_ids"].max() < 30
        for name, ascending in (("attention_mask", -1), ("token_type_ids", 1)):
            assert (ascending * np.diff(each[name], axis=1) >= 0).all() and each[name].max() <= 1
        assert (each["attention_mask"][:, 0] == 1).all()
    assert any(each["attention_mask"].min() == 0 for each in feeds)


@pytest.mark.parametrize("threshold", ["1e9", "0.3"])
def test_a_detector_may_find_nothing_in_generated_pictures(threshold: str) -> None:
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 3, h, w] x) => (float[1, 3, 1, 1] features, int64[4, n] found) <float t = {{{threshold}}}>
    {{ features = GlobalAveragePool (x)
       above = Greater (features, t)
       found = NonZero (above) }}
    """
    model = ir.load(parser.parse_model(text))
    feeds = generate(model, 2)
    found = registry.executor("ort").prepare(model)(feeds[0])["found"].shape[1]
    assert feeds[0]["x"].shape[:2] == (1, 3) and (found > 0) is (threshold == "0.3")


def test_outputs_that_are_all_empty_say_nothing() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[n] x) => (int64[1, m] found) <float t = {1e9}> { above = Greater (x, t)  found = NonZero (above) }
    """
    with pytest.raises(DataError, match="its outputs are empty"):
        generate(ir.load(parser.parse_model(text)), 1)
