"""Wrong rewrites: a sample of the benchmark is caught, what changes nothing does not count, and misses are listed."""

from __future__ import annotations

import random

import onnx
import pytest

from benchmarks.generated.draft import Input
from benchmarks.generated.grow import Network
from benchmarks.mutations.edits import EDITS, Place
from benchmarks.mutations.run import Row, check, differs, mutate, summary
from lwgraph.contract import Contract

SEEDS = (0, 6, 10, 13, 58, 171)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_wrong_rewrite_is_caught(seed: int) -> None:
    row = mutate(seed)
    assert row is not None and row.caught, row


def net(text: str, *inputs: Input) -> Network:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    return Network(0, proto, list(inputs), "written")


ROWS = net("g (float[N,4] x) => (float[N,4] y) { r = Relu (x)\n y = Neg (r) }", Input("x", ("N", 4)))
TURNED = net("g (float[N,4] x) => (float[N,4] y) { y = Neg (x) }", Input("x", ("N", 4)))
NUMBERS = net("g (int64[N,4] x) => (int64[N,4] y) { y = Neg (x) }", Input("x", ("N", 4), "int64"))


@pytest.mark.parametrize(
    ("of", "kind"),
    [
        (ROWS, "only for a batch over 1"),
        (TURNED, "only for negative values inside"),
        (ROWS, "only for large inputs"),
        (ROWS, "only for inputs near zero"),
        (ROWS, "an activation left out"),
        (NUMBERS, "only for some integer inputs"),
    ],
)
def test_what_is_wrong_for_some_inputs_only(of: Network, kind: str) -> None:
    for seed in range(4):
        wrong = onnx.ModelProto()
        wrong.CopyFrom(of.proto)
        assert EDITS[kind](Place(wrong, of.inputs, random.Random(seed)))
        assert differs(of, wrong, Contract.EXACT) and "broke its contract" in check(of.proto, wrong, Contract.EXACT)


def test_an_edit_that_changes_nothing_does_not_count() -> None:
    same = net("g (float[N,4] x) => (float[N,4] y) { r = Relu (x)\n s = Relu (r)\n y = Neg (s) }", Input("x", ("N", 4)))
    assert not differs(ROWS, same.proto, Contract.EXACT)
    assert check(ROWS.proto, same.proto, Contract.EXACT) == ""


def test_every_kind_of_edit_says_what_it_did_or_nothing() -> None:
    empty = net("g (float[2] x) => (float[2] y) { y = Identity (x) }")
    for edit in EDITS.values():
        proto = onnx.ModelProto()
        proto.CopyFrom(empty.proto)
        assert isinstance(edit(Place(proto, (), random.Random(0))), str)
    assert EDITS["a bias dropped"](Place(onnx.ModelProto(), (), random.Random(0))) == ""


def test_misses_are_listed() -> None:
    rows = [
        Row(0, "ties", "table 1", "Less 'a' is LessOrEqual", "exact", "", 0),
        Row(
            1, "ties", "table 2", "Less 'b' is LessOrEqual", "exact", "pass 'wrong' broke its contract (x); on ties", 0
        ),
    ]
    rows[0].contract = rows[1].contract = Contract.EXACT.value
    text = summary(rows)
    assert "| ties | 2 | 1 | 0 | 0 |" in text and "| outputs on ties | 1 |" in text
    assert f"- seed 0, {Contract.EXACT.value}: ties: Less 'a' is LessOrEqual (table 1)" in text
