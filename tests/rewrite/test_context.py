"""The context that passes run in: complete when it is made, and only its log changes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest

from lwgraph import ir
from lwgraph.rewrite import Context, Contract, Gain, Pass, Pipeline, RewritePass
from lwgraph.rewrite.base import Log
from lwgraph.rewrite.instruments import BisectLimit
from tests.rewrite.rewrite_models import DropAbs, parse

CHAIN = "g (float[2] x) => (float[2] y) { a = Abs(x) b = Abs(a) c = Neg(b) d = Neg(c) y = Exp(d) }"


@dataclass(frozen=True)
class DropNeg(RewritePass):
    """Neg(x) -> x."""

    name = "drop-neg"
    contract = Contract.APPROXIMATE

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Neg(x)

    def replace(self, op: Any, x: Any) -> Any:
        return x


@dataclass(frozen=True)
class Taught(Pass):
    """Notes the teacher that it is given."""

    name = "taught"
    contract = Contract.APPROXIMATE

    def run(self, model: ir.Model, context: Context) -> int:
        context.memory["teacher"] = context.teacher
        return 0


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Context)] + ["feeds", "skipped", "new"])
def test_nothing_is_assigned_to(name: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(Context(), name, None)


def test_a_context_beside_another_shares_the_log() -> None:
    context = Context(details={}, seed=1)
    other = context.beside(data=[], details=None)
    other.skip("pass", "place", "reason")
    other.warn("careful")
    other.gains.append(Gain("pass", "error", 1.0, 0.5))
    other.memory["key"] = 3
    assert other.seed == 1 and other.data == [] and other.details is None
    assert context.data is None and context.details == {}
    assert [skipped.place for skipped in context.skipped] == ["place"] and context.warnings == ["careful"]
    assert context.gains == other.gains and len(context.gains) == 1 and context.memory == {"key": 3}


def test_a_log_of_its_own_is_not_shared() -> None:
    context = Context()
    context.beside(log=Log()).warn("careful")
    assert not context.warnings


@pytest.mark.parametrize(
    ("limit", "left", "last"), [(0, 5, ""), (1, 4, "drop-abs"), (3, 2, "drop-neg"), (4, 1, "drop-neg")]
)
def test_the_limit_of_a_bisection_counts_over_passes_and_contexts(limit: int, left: int, last: str) -> None:
    context, model = Context(log=Log(limit=limit)), parse(CHAIN)
    DropAbs().run(model, context.beside(seed=1))
    DropNeg().run(model, context.beside(seed=2))
    assert len(model.graph) == left and context.log.rewrites == limit
    assert (context.log.last or [""])[0] == last


def test_the_limit_counts_over_a_pipeline_that_finds_its_teacher() -> None:
    context, model = Context(), parse(CHAIN)
    Pipeline([DropAbs(), DropNeg()]).run(model, context, [BisectLimit(3)])
    assert len(model.graph) == 2 and context.log.rewrites == 3


def test_the_teacher_is_the_model_before_the_first_approximate_pass_of_the_run() -> None:
    context, model = Context(), parse(CHAIN)
    Pipeline([DropAbs(), Taught()]).run(model, context)
    teacher = context.memory["teacher"]
    assert isinstance(teacher, ir.Model) and len(teacher.graph) == 5 and len(model.graph) == 3
    assert context.teacher is None
    stated = parse(CHAIN)
    Pipeline([DropNeg(), Taught()]).run(model, context.beside(teacher=stated))
    assert context.memory["teacher"] is stated


def test_an_executor_is_found_and_not_kept() -> None:
    context = Context()
    assert context.evaluator().name == "reference" and context.reference is None
    target, independent = context.evaluator(), context.evaluator()
    assert Context(executor=target).evaluator() is target
    assert Context(executor=target, reference=independent).evaluator() is independent
