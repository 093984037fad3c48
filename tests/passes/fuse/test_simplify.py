"""onnxsim as a guarded pass."""

from __future__ import annotations

from typing import Any

import onnx
import onnxsim
import pytest

from lwgraph import ir
from lwgraph.passes.fuse.simplify import Simplify
from lwgraph.rewrite import Context, Pipeline
from tests.rewrite.rewrite_models import lines, parse

BODY = "g (float[N,2] x) => (float[N,2] y) <float[2] a = {1, 2}> { t = Identity(x) u = Identity(t) y = Mul(u, a) }"


def run(model: ir.Model) -> tuple[int, str, list[str]]:
    context = Context()
    (step,) = Pipeline([Simplify()]).rewrite(model, context)
    return step.count, step.dropped, context.warnings


def test_it_simplifies() -> None:
    model = parse(BODY)
    assert run(model) == (2, "", [])
    assert lines(model) == ["Mul(x, a) -> y"]
    assert ir.to_proto(model).ir_version == 10


def test_nothing_to_do_leaves_the_model() -> None:
    model = parse("g (float[N,2] x) => (float[N,2] y) <float[2] a = {1, 2}> { y = Mul(x, a) }")
    before = ir.fingerprint(model)
    assert run(model)[0] == 0
    assert ir.fingerprint(model) == before


def scaled(model: onnx.ModelProto) -> None:
    a = model.graph.initializer[0]
    a.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(a) * 1.001, a.name))


def renamed(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = model.graph.output[0].name = "other"


def fixed(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1


def broken(model: onnx.ModelProto) -> None:
    model.graph.node[-1].input[0] = "nowhere"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (scaled, "broke its contract"),
        (renamed, "changed the interface"),
        (fixed, "had shape"),
        (broken, "'nowhere'"),
    ],
)
def test_a_wrong_result_is_dropped_with_a_warning(damage: Any, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = onnxsim.simplify

    def simplify(model: onnx.ModelProto, **options: Any) -> tuple[onnx.ModelProto, bool]:
        made, ok = honest(model, **options)
        damage(made)
        return made, ok

    monkeypatch.setattr(onnxsim, "simplify", simplify)
    model = parse(BODY)
    before = ir.fingerprint(model)
    count, dropped, warnings = run(model)
    assert count == 0
    assert reason in dropped
    assert "simplify" in warnings[0] and "undone" in warnings[0]
    assert ir.fingerprint(model) == before


def test_a_release_without_the_option_is_not_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = onnxsim.simplify

    def simplify(model: onnx.ModelProto, check_n: int = 0) -> tuple[onnx.ModelProto, bool]:
        return honest(model, check_n=check_n)

    monkeypatch.setattr(onnxsim, "simplify", simplify)
    assert run(parse(BODY)) == (2, "", [])


def test_a_crash_is_dropped_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def simplify(model: onnx.ModelProto, **options: Any) -> None:
        raise RuntimeError("assertion\nfailed")

    monkeypatch.setattr(onnxsim, "simplify", simplify)
    model = parse(BODY)
    before = ir.fingerprint(model)
    count, dropped, _ = run(model)
    assert (count, dropped) == (0, "pass 'simplify': onnxsim failed: assertion failed")
    assert ir.fingerprint(model) == before
