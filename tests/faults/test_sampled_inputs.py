"""Integers that say places and counts vary, indices count from the end, and commands try what passes are tried on."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from lwgraph import ir, registry
from lwgraph.calibrate import generate
from lwgraph.cli import main
from lwgraph.contract import Contract
from lwgraph.measure import compare_runs
from lwgraph.measure.variants import variants

EXECUTOR = registry.executor("ort")
TABLE = "float[4] t = {1, 2, 3, 4}"


def model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 19, "ai.onnx.ml" : 3]> g {text}')


def differ(right: str, wrong: str) -> set[str]:
    """On what the second model gives something else than the first: kinds of variants, or "generated"."""
    first, second = ir.load(model(right)), ir.load(model(wrong))
    given, run = generate(first, 8, executor=EXECUTOR), EXECUTOR.prepare(first)
    feeds = [(each, "generated") for each in given]
    feeds += [(each.feeds, each.what) for each in variants(first, given, run) if each.counts(Contract.ROUNDING)]
    other = EXECUTOR.prepare(second)
    return {what for each, what in feeds if not compare_runs(run, other, [each], Contract.ROUNDING).ok}


END = "places from the end"


@pytest.mark.parametrize(
    ("face", "right", "wrong", "on"),
    [
        (f"(int64[3] i) => (float[3] y) <{TABLE}>", "y = Gather(t, i)", "a = Abs(i) y = Gather(t, a)", END),
        (
            "(int64[3] i) => (float[3, 4] y) <int64 d = {4}, float[2] v = {0, 1}>",
            "y = OneHot(i, d, v)",
            "a = Abs(i) y = OneHot(a, d, v)",
            END,
        ),
        (
            "(float[4] x, int64[2] i, float[2] u) => (float[4] y)",
            "y = ScatterElements(x, i, u)",
            "a = Abs(i) y = ScatterElements(x, a, u)",
            END,
        ),
        ("(float[2, 3, 2] x, int64 a) => (float[2, 3, 2] y)", "y = CumSum(x, a)", "b = Abs(a) y = CumSum(x, b)", END),
        ("(float[2, 2] x, int64[4] p) => (float[n, m] y)", "y = Pad(x, p)", "q = Abs(p) y = Pad(x, q)", END),
        (
            "(float[6] x, int64[1] k) => (float[n] y) <int64[1] one = {1}>",
            "y, i = TopK(x, k)",
            "y, i = TopK(x, one)",
            "generated",
        ),
        (
            "(int64 a, int64 b) => (int64[n] y) <int64 one = {1}, int64 two = {2}>",
            "y = Range(a, b, one)",
            "y = Range(a, b, two)",
            "generated",
        ),
        (
            "(float[3, 2, 2] x, int64[2] s) => (float[3, 2, 2] y)",
            "y = ReverseSequence(x, s)",
            "o = Div(s, s) y = ReverseSequence(x, o)",
            "generated",
        ),
        (
            "(int32[3] x, int32[3] k) => (int32[3] y)",
            "y = Mod(x, k)",
            "a = Div(x, k) b = Mul(a, k) y = Sub(x, b)",
            "generated",
        ),
        (
            "(int64 n, float[2] x) => (float[2] y)",
            "y = Loop(n,, x) <body = b (int64 i, bool c, float[2] s) => (bool d, float[2] t) "
            "{ d = Identity(c) t = Add(s, s) }>",
            "f = Cast <to = 1> (n) o = Div(f, f) u = Mul(x, o) y = Add(u, u)",
            "generated",
        ),
        ("(double[3] x) => (double[3] y)", "y = Identity(x)", "y = Abs(x)", "values of both signs"),
        ("(float16[3] x) => (float16[3] y)", "y = Identity(x)", "y = Abs(x)", "values of both signs"),
    ],
)
def test_what_is_wrong_for_other_integers_is_seen(face: str, right: str, wrong: str, on: str) -> None:
    assert not differ(f"{face} {{ {right} }}", f"{face} {{ {right} }}")
    assert on in differ(f"{face} {{ {right} }}", f"{face} {{ {wrong} }}")


def test_indices_of_unsigned_types_stay_inside() -> None:
    first = ir.load(
        model("(uint8[3] i) => (float[3] y) <float[4] t = {1, 2, 3, 4}> { j = Cast <to = 7> (i) y = Gather(t, j) }")
    )
    given = generate(first, 2, executor=EXECUTOR)
    assert all(each.feeds["i"].max() < 4 for each in variants(first, given, EXECUTOR.prepare(first)))


def lwgraph(*arguments: object) -> tuple[int, str]:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(io.StringIO()):
        patch.setattr(sys, "argv", ["lwgraph", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
    return int(end.value.code or 0), " ".join(out.getvalue().split())


WRONG_PASS = """
from lwgraph.rewrite import Contract, RewritePass

class NoAbs(RewritePass):
    '''Takes every value for positive.'''
    name = "no-abs"
    contract = Contract.{contract}

    def pattern(self, op, x):
        return op.Abs(x)

    def replace(self, op, x):
        return op.Identity(x)
"""


class TestCommands:
    """Generated values of a small input are those of a strength or a scale, between 0 and 1; others are tried, too."""

    def saved(self, folder: Path, name: str, text: str) -> Path:
        onnx.save(model(text), folder / name)
        return folder / name

    def test_verify(self, tmp_path: Path) -> None:
        a = self.saved(tmp_path, "a.onnx", "(float[4] x) => (float[4] y) { y = Abs(x) }")
        b = self.saved(tmp_path, "b.onnx", "(float[4] x) => (float[4] y) { y = Identity(x) }")
        code, out = lwgraph("verify", a, b)
        assert code == 1 and "DIFFERENT" in out and "'x' float32 -300..300" in out
        assert lwgraph("verify", a, a)[0] == 0
        np.savez(tmp_path / "d.npz", x=np.ones((2, 4), np.float32))
        fixed = [
            self.saved(tmp_path, f"{n}.onnx", f"(float[{n}] x) => (float[{n}] y) {{ y = Relu(x) }}") for n in ("n", 4)
        ]
        code, out = lwgraph("verify", *fixed, "--input-shape", "x:4")
        assert code == 0, out  # sizes that one of them does not take are not tried

    @pytest.mark.parametrize(("contract", "code"), [("EXACT", 1), ("APPROXIMATE", 0)])
    def test_bisect(self, contract: str, code: int, tmp_path: Path) -> None:
        (tmp_path / "wrong.py").write_text(WRONG_PASS.format(contract=contract))
        path = self.saved(tmp_path, "a.onnx", "(float[4] x) => (float[4] y) { a = Abs(x) y = Neg(a) }")
        found, out = lwgraph("bisect", path, "-p", f"{tmp_path / 'wrong.py'}:NoAbs")
        assert found == code, out
        assert ("no-abs" in out) == bool(code)


ENCODER = 'y = ai.onnx.ml.OneHotEncoder <cats_strings = ["red", "green"], zeros = {}> (x)'
KEYS = 'y = ai.onnx.ml.LabelEncoder <keys_strings = ["a", "z"], values_int64s = [4, {}]> (x)'
TEXTS = "(string[n, 1] x) =>"


@pytest.mark.parametrize(
    ("face", "right", "wrong"),
    [
        (
            f"{TEXTS} (float[n, 1, 2] y)",
            ENCODER.format(0),
            "s = Shape(x) t = ConstantOfShape(s) y = Concat <axis = 1> (t, t)",
        ),
        (f"{TEXTS} (float[n, 1, 2] y)", ENCODER.format(1), ENCODER.format(1).replace("green", "blue")),
        (f"{TEXTS} (int64[n, 1] y)", KEYS.format(5), KEYS.format(6)),
        (f"{TEXTS} (float[n, 1] y)", "y = Cast <to = 1> (x)", "z = Cast <to = 1> (x) y = Abs(z)"),
        (
            f'{TEXTS} (bool[n, 1] y) <string[1] c = {{"yes"}}>',
            "y = Equal(x, c)",
            "s = Shape(x) t = ConstantOfShape(s) y = Cast <to = 9> (t)",
        ),
        (f'{TEXTS} (string[n, 1] y) <string[1] c = {{"a"}}>', "y = Identity(x)", "e = Equal(x, c) y = Where(e, c, c)"),
    ],
)
def test_texts_are_those_that_the_graph_looks_for(face: str, right: str, wrong: str) -> None:
    assert not differ(f"{face} {{ {right} }}", f"{face} {{ {right} }}")
    assert "generated" in differ(f"{face} {{ {right} }}", f"{face} {{ {wrong} }}")
