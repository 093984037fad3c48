"""What a model puts out is recognized by what it is, and judged by what its users would choose."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lwgraph import ir, registry
from lwgraph.calibrate import open_data
from lwgraph.errors import UsageError
from lwgraph.measure.kinds import METRIC_OF, find_kind, stands_out
from lwgraph.measure.metrics import open_metric
from lwgraph.optimizer.judge import Judge

RNG = np.random.default_rng(0)
ORT = registry.executor("ort")


def kind(text, feeds, stated=None, labels=None):
    model = ir.load(onnx.parser.parse_model(text).SerializeToString())
    data = dict(feeds) | ({} if labels is None else {"labels": labels})
    return find_kind(model, open_data(data, model), ORT.prepare(model), stated)


def dense(tail="", name="y", width=24, extra=""):
    """x (n, 8) through a dense layer of `width`, then `tail`, which makes `name` of h."""
    weights = ", ".join(f"{v:.4f}" for v in RNG.normal(size=8 * width))
    return f"""
        <ir_version: 10, opset_import: ["" : 18]>
        g (float[n,8] x) => (float[n,{width}] {name}{extra})
        <float[8,{width}] w = {{{weights}}}>
        {{ {"h" if tail else name} = MatMul(x, w) {tail} }}"""


X = {"x": RNG.normal(size=(12, 8)).astype(np.float32)}


@pytest.mark.parametrize(
    ("tail", "name", "found", "why"),
    [
        ("y = Softmax<axis=1>(h)", "y", "classes", "Softmax at the end"),
        ("y = LogSoftmax<axis=-1>(h)", "y", "classes", "LogSoftmax at the end"),
        ("s = Softmax<axis=1>(h) y = Identity(s)", "y", "classes", "Softmax at the end"),
        (
            "e = Exp(h) one = Constant<value_ints=[1]>() s = ReduceSum(e, one) y = Div(e, s)",
            "y",
            "classes",
            "sum to one",
        ),
        ("", "logits", "classes", "by its name"),
        ("", "output_probability", "classes", "by its name"),
        ("one = Constant<value_ints=[1]>() l = ReduceL2(h, one) y = Div(h, l)", "y", "embeddings", "equal length"),
        ("y = LpNormalization<axis=1>(h)", "y", "embeddings", "equal length"),
        ("", "y", "embeddings", "no sign that these are classes"),
        ("", "sentence_embedding", "embeddings", "by its name"),
    ],
)
def test_rows_of_values(tail, name, found, why):
    seen = kind(dense(tail, name), X)
    assert seen.name == found and why in seen.why and seen.outputs == (name,)


def test_an_embedding_of_96_values_is_not_a_classifier():
    seen = kind(dense(width=96), X)
    assert seen.name == "embeddings"
    model = ir.load(onnx.parser.parse_model(dense(width=96)).SerializeToString())
    judge = Judge(model, ORT, open_data(X, model), None, None, 0)
    assert judge.metric.name == "cosine" and 0 < judge.max_drop <= 0.02 and "embeddings" in judge.told


def test_labels_tell_of_classes():
    seen = kind(dense(), X, labels=np.arange(12))
    assert seen.name == "classes" and seen.why == "the data's labels are classes" and seen.width == 24


def test_what_a_classifier_is_trained_for_stands_out():
    independent = RNG.normal(size=(64, 96))
    assert not stands_out(independent) and not stands_out(100 * independent)
    assert stands_out(independent + 6 * np.eye(96)[RNG.integers(0, 96, 64)])
    assert not stands_out(RNG.normal(size=(64, 2)))  # of two values one is always higher


def test_few_values_that_nothing_is_known_of():
    assert kind(dense(width=4), X).name == "other"


def test_an_input_passed_through_is_not_the_main_output():
    text = (
        dense("y = Softmax<axis=1>(h)", "y")
        .replace("=> (", "=> (float[n,8] same, ")
        .replace("{ h", "{ same = Identity(x) h")
    )
    assert kind(text, X).outputs == ("y",)


def test_each_head_of_classes_counts():
    text = dense(
        "y = Softmax<axis=1>(h) z = Neg(h) other_logits = Identity(z)", "y", extra=", float[n,24] other_logits"
    )
    assert kind(text, X).outputs == ("y", "other_logits")


IMAGE = RNG.random((2, 3, 16, 16)).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "body", "found"),
    [
        ("[n,3,16,16]", "y = Relu(x)", "images"),
        (
            "[n,3,32,32]",
            "s = Constant<value_floats=[1.0,1.0,2.0,2.0]>() y = Resize(x, , s)",
            "images",
        ),
        ("[n,3,16,16]", "y = Softmax<axis=1>(x)", "classes"),  # a map of classes
        ("[n,3,8,8]", "y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)", "other"),
    ],
)
def test_planes(shape, body, found):
    text = f'<ir_version: 10, opset_import: ["" : 18]> g (float[n,3,16,16] x) => (float{shape} y) {{ {body} }}'
    assert kind(text, {"x": IMAGE}).name == found


def ctc(steps_first):
    y = "float[t,n,12] y" if steps_first else "float[n,t,12] y"
    body = "y = Transpose<perm=[1,0,2]>(x)" if steps_first else "y = Relu(x)"
    return f'<ir_version: 10, opset_import: ["" : 18]> g (float[n,t,12] x) => ({y}) {{ {body} }}'


@pytest.mark.parametrize("steps_first", [False, True])
def test_symbols_with_a_blank(steps_first):
    x = 0.1 * RNG.random((3, 9, 12)).astype(np.float32)
    x[:, ::2, 11] += 1
    seen = kind(ctc(steps_first), {"x": x})
    assert (seen.name, seen.blank, seen.steps_first) == ("symbols", 11, steps_first)


def test_a_class_for_each_symbol_of_the_input():
    text = """<ir_version: 10, opset_import: ["" : 18]> g (int64[n,t] ids) => (float[n,t,5] logits)
        <float[2,5] table = {9,0,0,0,0, 0,0,9,0,0}> { logits = Gather(table, ids) }"""
    seen = kind(text, {"ids": RNG.integers(0, 2, (4, 6))})
    assert seen.name == "symbols" and seen.blank is None


def test_sequences_of_maps_are_judged_by_their_numbers():
    text = """<ir_version: 10, opset_import: ["" : 18, "ai.onnx.ml" : 3]>
        g (float[n,3] x) => (seq(map(int64, float)) p)
        { s = Softmax<axis=1>(x)  p = ai.onnx.ml.ZipMap<classlabels_int64s=[4,5,6]>(s) }"""
    model = ir.load(onnx.parser.parse_model(text).SerializeToString())
    x = RNG.normal(size=(30, 3)).astype(np.float32)
    judge = Judge(model, ORT, open_data({"x": x}, model), None, None, 0)
    assert judge.kind.name == "classes" and judge.metric.name == "agreement" and judge.base.count == 30


def test_a_sequence_of_tensors_is_no_map():
    text = """<ir_version: 10, opset_import: ["" : 18]> g (float[n,20] x) => (seq(float[n,20]) s)
        { a = Neg(x) s = SequenceConstruct(x, a) }"""
    x = RNG.normal(size=(6, 20)).astype(np.float32)
    seen = kind(text, {"x": x})
    assert seen.outputs == ("s[0]", "s[1]") and seen.name == "embeddings"


def yolo(text_shape):
    return f"""<ir_version: 10, opset_import: ["" : 18]>
        g (float[n,3,64,64] x, float{text_shape} rows) => (float{text_shape} y) {{ y = Relu(rows) }}"""


def rows_of_boxes(objectness):
    cells = [(c, r, s) for s in (8, 16, 32) for r in range(64 // s) for c in range(64 // s)]
    centre = np.array([[(c + 0.5) * s, (r + 0.5) * s] for c, r, s in cells])
    size = np.array([[2.0 * s, 2.0 * s] for _, _, s in cells])
    scores = np.full((len(cells), 3 + objectness), 0.01)
    scores[5] = 0.9
    return np.concatenate([centre, size, scores], axis=1)[None].astype(np.float32)


@pytest.mark.parametrize("first", [False, True])
def test_rows_of_boxes_over_a_grid(first):
    rows = rows_of_boxes(not first)
    rows = np.moveaxis(rows, 1, 2) if first else rows
    seen = kind(yolo(list(rows.shape)), {"x": IMAGE[:1].repeat(4, 2).repeat(4, 3), "rows": rows})
    assert seen.name == "detections" and seen.layout.channels_first == first and not seen.layout.corners


def test_boxes_and_scores():
    boxes = RNG.random((1, 50, 4)).astype(np.float32)
    boxes[..., 2:] += boxes[..., :2]
    scores = np.full((1, 50, 2), [0.95, 0.05], np.float32)
    text = """<ir_version: 10, opset_import: ["" : 18]>
        g (float[1,3,64,64] x, float[1,50,4] b, float[1,50,2] s) => (float[1,50,2] scores, float[1,50,4] boxes)
        { boxes = Relu(b) scores = Relu(s) }"""
    seen = kind(text, {"x": IMAGE[:1].repeat(4, 2).repeat(4, 3), "b": boxes, "s": scores})
    assert seen.name == "detections" and seen.layout.names == ("boxes", "scores")
    assert seen.layout.corners and seen.layout.background == 0


def test_a_kind_may_be_stated():
    assert kind(dense(), X, "classes").name == "classes"
    assert kind(dense("y = Softmax<axis=1>(h)"), X, "other").name == "other"
    with pytest.raises(UsageError, match="--output-kind is 'detections', but no boxes"):
        kind(dense(), X, "detections")
    with pytest.raises(UsageError, match="--output-kind is 'images', which no output can be"):
        kind(dense(), X, "images")


@pytest.mark.parametrize(
    ("body", "kinds"),
    [
        ("y = Identity(x)", ("string[n,2]", "string[n,2]")),
        ("a, s = Split<axis=1, num_outputs=2>(x) y = Concat<axis=1>(s, a)", ("string[n,2]", "string[n,2]")),
        ("y = Not(x)", ("bool[n,2]", "bool[n,2]")),
    ],
)
def test_values_that_are_no_numbers_are_equal_or_not(body, kinds):
    """Nothing else can be said of texts and booleans, so the model is judged by that, and not refused."""
    text = f"""<ir_version: 10, opset_import: ["" : 20]> g ({kinds[0]} x) => ({kinds[1]} y) {{ {body} }}"""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (8, 2)).astype(bool)
    x = np.where(x, "a", "b").astype(object) if kinds[0].startswith("string") else x
    model = ir.load(onnx.parser.parse_model(text).SerializeToString())
    data = open_data({"x": x}, model)
    found = find_kind(model, data, ORT.prepare(model))
    assert found.outputs == ("y",) and found.name == "classes"
    metric = open_metric(METRIC_OF[found.name], data, ORT.prepare(model), kind=found)
    assert metric(ORT.prepare(model)).value == 1
