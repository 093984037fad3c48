"""How alike detections and sequences of symbols are, and what is left of the variance."""

from __future__ import annotations

import numpy as np
import pytest

from lwgraph.calibrate import open_data
from lwgraph.calibrate.signature import Input
from lwgraph.flat import flat
from lwgraph.measure import open_metric
from lwgraph.measure.detections import Found, decode, likeness, overlap
from lwgraph.measure.kinds import OutputKind
from lwgraph.measure.layout import Layout
from lwgraph.measure.symbols import decode as decode_symbols
from lwgraph.measure.symbols import find_blank
from lwgraph.measure.symbols import likeness as alike

BOX = [10.0, 10.0, 20.0, 20.0]


def found(*rows):
    """Detections of (x, score, class): boxes of ten by ten, x to the right."""
    boxes = np.array([[x, 0, x + 10, 10] for x, _, _ in rows], np.float64).reshape(-1, 4)
    return Found(boxes, np.array([s for _, s, _ in rows]), np.array([c for _, _, c in rows], np.int64))


@pytest.mark.parametrize(
    ("a", "b", "share"),
    [
        ([], [], 1.0),
        ([(0, 0.9, 0)], [(0, 0.9, 0)], 1.0),
        ([(0, 0.9, 0)], [], 0.0),
        ([(0, 0.9, 0)], [(0, 0.9, 1)], 0.0),  # another class
        ([(0, 0.9, 0)], [(2, 0.9, 0)], 1.0),  # overlaps by 8 / 12
        ([(0, 0.9, 0)], [(5, 0.9, 0)], 0.0),  # by a third
        ([(0, 0.26, 0)], [(0, 0.24, 0)], 1.0),  # crosses the threshold by a hair
        ([(0, 0.9, 0)], [(0, 0.1, 0)], 0.0),
        ([(0, 0.9, 0), (50, 0.8, 0)], [(0, 0.9, 0)], 2 / 3),
        ([(0, 0.9, 0), (1, 0.8, 0)], [(0, 0.9, 0)], 2 / 3),  # each is taken once
    ],
)
def test_detections_in_common(a, b, share):
    assert likeness(found(*a), found(*b)) == pytest.approx(share)
    assert likeness(found(*b), found(*a)) == pytest.approx(share)


def test_overlap():
    shared = overlap(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 3, 2], [5, 5, 6, 6], [0, 0, 2, 2]]))
    assert shared[0] == pytest.approx([1 / 3, 0, 1])


def test_overlapping_boxes_of_a_class_are_one_detection():
    layout = Layout("pair", ("b", "s"))
    boxes = np.array([[BOX, [11, 10, 21, 20], [40, 40, 50, 50]]], np.float32)
    scores = np.array([[[0.9, 0.0], [0.8, 0.0], [0.0, 0.7]]], np.float32)
    (seen,) = decode({"b": boxes, "s": scores}, layout, None, 1, 0.1)
    assert seen.classes.tolist() == [0, 1] and seen.scores == pytest.approx([0.9, 0.7])


def test_cells_of_yolox_are_decoded():
    layout = Layout("rows", ("y",), objectness=True, corners=False, strides=(8,))
    rows = np.zeros((1, 4, 6), np.float32)  # two by two cells; e ** 0 is a box of one cell
    rows[0, 3, :2], rows[0, 3, 4:] = 0.5, 1.0
    (seen,) = decode({"y": rows}, layout, (16, 16), 1, 0.1)
    assert seen.boxes[0] == pytest.approx([8, 8, 16, 16])


def test_rows_after_suppression_by_sample():
    rows = np.array([[0, *BOX, 1, 0.9], [2, *BOX, 3, 0.8]], np.float32)[:, [0, 1, 2, 3, 4, 6, 5]]
    seen = decode({"y": rows}, Layout("final", ("y",), offset=1), None, 3, 0.1)
    assert [each.classes.tolist() for each in seen] == [[1], [], [3]]


def test_text():
    assert decode_symbols(np.array([0, 3, 3, 0, 3, 5, 0]), 0).tolist() == [3, 3, 5]
    assert decode_symbols(np.array([3, 3, 5]), None).tolist() == [3, 3, 5]
    assert find_blank(np.array([9, 9, 9, 1, 2]), 10) == 9 and find_blank(np.array([1, 2, 3, 4, 5]), 10) is None


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("kitten", "sitting", 3), ("", "ab", 2), ("", "", 0), ("abc", "abc", 0), ("flaw", "lawn", 2)],
)
def test_edit_distance(a, b, distance):
    x, y = (np.array([ord(c) for c in text]) for text in (a, b))
    assert alike(x, y) == pytest.approx(1 - distance / max(len(a), len(b), 1))
    assert alike(y, x) == pytest.approx(alike(x, y))


INPUTS = {"x": Input("x", np.dtype(np.float32), ("n", 4))}
X = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32) + 5
DATA = open_data({"x": X}, INPUTS)


def original(feeds):
    return {"y": feeds["x"]}


def test_variance_kept_counts_from_the_mean():
    noisy = open_metric("variance", DATA, original)(lambda f: {"y": f["x"] + np.float32(0.1)})
    assert noisy.value == pytest.approx(1 - 0.01 / X.var(axis=0).mean(), rel=1e-4)
    constant = open_metric("variance", DATA, original)(lambda f: {"y": np.broadcast_to(X.mean(0), f["x"].shape)})
    assert constant.value == pytest.approx(0, abs=1e-6)
    assert open_metric("variance", DATA, original)(original).value == 1 and noisy.subset is not None
    still = open_metric("variance", DATA, lambda f: {"y": np.ones_like(f["x"])})
    assert still(lambda f: {"y": np.ones_like(f["x"])}).value == 1
    assert still(lambda f: {"y": 1.1 * np.ones_like(f["x"])}).value == -1


def test_what_embeddings_may_lose_follows_how_far_apart_they_are():
    apart = open_metric("cosine", open_data({"x": X - 5}, INPUTS), original)
    cone = open_metric("cosine", open_data({"x": X + 100}, INPUTS), original)
    assert apart.allowed(apart(original)) == pytest.approx(0.02, rel=0.1)
    assert cone.allowed(cone(original)) < 1e-5


def test_a_sample_agrees_where_each_head_does():
    kind = OutputKind("classes", ("a", "b"), "", width=4)
    metric = open_metric("agreement", DATA, lambda f: {"a": f["x"], "b": f["x"]}, kind=kind)
    half = np.arange(4)[::-1]
    assert metric(lambda f: {"a": f["x"], "b": f["x"][:, half]}).value < 1
    assert metric(lambda f: {"a": f["x"], "b": f["x"]}).value == 1


def test_sequences_maps_and_optionals_are_arrays():
    maps = [{"b": 0.25, "a": 0.75}, {"a": 1.0}]
    assert flat({"p": maps})["p"].tolist() == [[0.75, 0.25], [1.0, 0.0]]
    assert list(flat({"s": [np.ones(2), np.zeros(3)], "none": None, "m": {1: 2.0}})) == ["s[0]", "s[1]", "m"]
    assert flat({"e": []}) == {}
