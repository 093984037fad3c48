"""Variants of the given inputs: what differs, what is left out, and for which contract they count."""

from __future__ import annotations

import numpy as np
from onnx import parser

from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.measure.variants import Variant, variants


def made(text: str, feeds: dict[str, Array]) -> dict[str, Variant]:
    model = ir.load(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}'))
    return {each.what: each for each in variants(model, [feeds], registry.executor("ort").prepare(model))}


def test_batch_sizes_sign_and_scale() -> None:
    found = made("g (float[N,T] x) => (float[N,T] y) { y = Relu (x) }", {"x": np.full((1, 16), 0.5, np.float32)})
    assert found["a batch of 3"].feeds["x"].shape == (3, 16)
    assert found["other sizes"].feeds["x"].shape == (1, 17)
    assert found["values of both signs"].feeds["x"].min() < 0
    assert np.abs(found["large values"].feeds["x"]).max() > 10
    assert np.abs(found["small values"].feeds["x"]).max() < 0.01
    assert 0 in found["halves and zeros"].feeds["x"]
    assert found["small sizes"].feeds["x"].shape == (1, 2) and found["a batch of 24"].feeds["x"].shape == (24, 16)
    assert len(np.unique(found["a batch of 24"].feeds["x"], axis=0)) == 24
    assert {what for what, each in found.items() if each.natural} == {"a batch of 3", "other sizes", "small sizes"}
    assert all(each.steady for each in found.values())


def test_rows_of_a_batch_differ() -> None:
    rows = made("g (float[N,2] x) => (float[N,2] y) { y = Relu (x) }", {"x": np.float32([[1, 2]])})["a batch of 3"]
    assert len(np.unique(rows.feeds["x"], axis=0)) == 3


def test_many_rows_of_integers_are_no_copies_of_one() -> None:
    """Pictures of bytes, tokens, and other integers: what only few of them show is seen in one of many."""
    text = """g (uint8[N,3,8,8] p, int64[N,6] t, int32[N,4] i) => (float[N,3,8,8] a, float[N,6,2] b, int32[N,4] c)
    <float[9,2] table = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9}>
    { a = Cast <to: int = 1> (p)  b = Gather (table, t)  c = Add (i, i) }"""
    base = {"p": np.full((1, 3, 8, 8), 9, np.uint8), "t": np.ones((1, 6), np.int64), "i": np.ones((1, 4), np.int32)}
    many = made(text, base)["a batch of 24"].feeds
    for name, least in {"p": 24, "t": 20, "i": 20}.items():
        assert many[name].dtype == base[name].dtype and len(np.unique(many[name], axis=0)) >= least, name
    assert np.ptp(many["p"].astype(int)) > 200 and many["t"].min() >= 0 and many["t"].max() < 9


def test_what_is_fixed_stays() -> None:
    found = made("g (float[2,4] x) => (float[2,4] y) { y = Relu (x) }", {"x": np.ones((2, 4), np.float32)})
    assert {each.feeds["x"].shape for each in found.values()} == {(2, 4)} and "a batch of 3" not in found


def test_sizes_are_tried_until_the_model_takes_them() -> None:
    """Pairs of elements: no odd size."""
    text = "g (float[1,T] x) => (float[A,B] y) <int64[2] t = {-1, 2}> { y = Reshape (x, t) }"
    assert made(text, {"x": np.ones((1, 8), np.float32)})["other sizes"].feeds["x"].shape == (1, 4)


def test_what_gives_no_numbers_is_left_out() -> None:
    found = made("g (float[4] x) => (float[4] y) { y = Log (x) }", {"x": np.ones(4, np.float32)})
    assert found == {}


def test_what_turns_over_by_rounding_is_for_exact_passes_only() -> None:
    text = "g (float[8] x) => (bool[8] y) <float[1] c = {0}> { y = Greater (x, c) }"
    found = made(text, {"x": np.ones(8, np.float32)})
    assert not found["halves and zeros"].steady and found["values of both signs"].steady


def test_integers_and_booleans() -> None:
    text = "g (int64[4] x, bool[4] b) => (int64[4] y) { n = Neg (x)\n y = Where (b, x, n) }"
    found = made(text, {"x": np.ones(4, np.int64), "b": np.ones(4, bool)})
    assert found["integers of both signs"].feeds["x"].min() == -128
    assert found["large integers"].feeds["x"].min() == -(2**63)
    assert not found["other booleans"].feeds["b"].all()


def test_pictures_of_integers_get_noise() -> None:
    found = made(
        "g (uint8[1,3,8,8] x) => (float[1,3,8,8] y) { y = Cast <to = 1> (x) }", {"x": np.zeros((1, 3, 8, 8), np.uint8)}
    )
    assert found["noise in place of pictures"].feeds["x"].max() > 200


def test_few_values_are_large_on_both_sides() -> None:
    large = made("g (float[2] x) => (float[2] y) { y = Relu (x) }", {"x": np.ones(2, np.float32)})["large values"]
    assert large.feeds["x"].tolist() == [300, -300]
