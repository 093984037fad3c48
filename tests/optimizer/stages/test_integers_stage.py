"""The stage of the whole network in integers: which plans it looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from lwgraph import ir, registry
from lwgraph.failures import Failures
from lwgraph.optimizer.clock import Clock, OutOfTime
from lwgraph.optimizer.stages import integers
from lwgraph.optimizer.stages.base import IntegerFindings
from lwgraph.optimizer.stages.integers import Integers
from lwgraph.plan import precision
from lwgraph.plan.plan import Plan
from lwgraph.plan.search.front import Candidate
from lwgraph.rewrite import Context
from tests.optimizer.products import encoder
from tests.passes.quantize.quantize_models import residual

DYNAMIC = 'quantize{activations=dynamic,keep="none"}'


class Quantizer:
    """Says what gains; plays the role as `quantize` does."""

    ranges: Sequence[str] = ("minmax",)

    def __init__(self, gaining: Any) -> None:
        self.played, self.found = integers.quantizer(), gaining

    def __getattr__(self, name: str) -> Any:
        return getattr(self.played, name)

    def dynamic(self) -> Any:
        return self.played.dynamic()  # type: ignore[attr-defined]

    def running(self, static: Any, nodes: Sequence[str]) -> Any:
        return self.played.running(static, nodes)  # type: ignore[attr-defined]

    def gaining(self, model: ir.Model, context: Context) -> Any:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def looked_at(
    model: ir.Model,
    gaining: Any,
    monkeypatch: pytest.MonkeyPatch,
    measures: bool = True,
    clock: Clock | None = None,
    looked: Callable[[Any], None] = lambda make: None,
    found: IntegerFindings | None = None,
    good: bool = True,
) -> Any:
    """The plans that the stage proposes, and what failed on the way."""
    plans: list[Plan] = []
    clock = clock or Clock()

    def look(candidate: Candidate, make: Any = None) -> bool:
        assert candidate.plan is not None
        plans.append(candidate.plan)
        looked(make)
        clock.check()
        return good

    made = Quantizer(gaining)
    monkeypatch.setattr(integers, "quantizer", lambda: made)
    monkeypatch.setattr(precision, "quantizer", lambda: made)
    monkeypatch.setattr(integers, "layer_times", lambda *words: {})
    context = Context(executor=registry.executor("ort"), failures=Failures())
    base = Candidate((), 1.0, 1, 1, 0.0, stated=True)
    work: Any = SimpleNamespace(
        clean=model,
        shapes={},
        context=context,
        oracle=SimpleNamespace(measures=measures, target="ort-cpu"),
        candidates=SimpleNamespace(base=base, look=look),
        clock=clock,
        float_ms=1.0,
        making=SimpleNamespace(stated=lambda candidate, ranged: ranged),
        integers=found or IntegerFindings(),
        setting=SimpleNamespace(data_pass=None),
    )
    with suppress(OutOfTime), clock.limit(Integers.share * clock.left):
        Integers().run(work)
    return [(plan.precision.passes[-1], plan.precision.keep_float) for plan in plans], context.failures


def test_products_are_tried_with_dynamic_grids_beside_static_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    plans, _ = looked_at(encoder(), ["p1"], monkeypatch)
    assert [text for text, _ in plans] == [str(integers.quantizer().played.exactly()), DYNAMIC]  # type: ignore[attr-defined]
    assert plans[-1][1] == ("p1",)


@pytest.mark.parametrize(("gaining", "tried"), [(["p1"], True), (None, False), (ValueError("no time"), False)])
def test_in_a_budget_a_plan_that_needs_no_ranges_comes_first(
    gaining: Any, tried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans, failures = looked_at(encoder(), gaining, monkeypatch, clock=Clock(1000.0))
    ways = [text for text, _ in plans]
    assert ways[:2] == [DYNAMIC, integers.spelling(quick=True)] if tried else DYNAMIC not in ways
    assert len(failures.rows) == isinstance(gaining, Exception)  # told once


def test_in_a_budget_convolutions_are_not_tried_so(monkeypatch: pytest.MonkeyPatch) -> None:
    plans, _ = looked_at(residual(), [], monkeypatch, clock=Clock(1000.0))
    assert DYNAMIC not in [text for text, _ in plans]


@pytest.mark.parametrize("case", ["nothing gains", "convolutions", "elsewhere"])
def test_where_they_cannot_win_they_are_not_looked_at(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = residual() if case == "convolutions" else encoder()
    gaining = None if case == "nothing gains" else []
    plans, _ = looked_at(model, gaining, monkeypatch, measures=case != "elsewhere")
    assert len(plans) == 1 and DYNAMIC not in plans[0]


def test_what_fails_there_costs_no_other_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    plans, failures = looked_at(encoder(), ValueError("no time"), monkeypatch)
    assert len(plans) == 1
    assert any("dynamic grids" in str(each) and "no time" in str(each) for each in failures.rows)


@pytest.mark.parametrize(
    ("first", "good", "over"),
    [(1.0, True, []), (2.0, True, [2]), (9.0, True, [2]), (2.0, False, []), (4.5, False, []), (5.5, False, [2])],
)
def test_the_first_plan_may_take_all_time_and_what_follows_half_of_what_is_left(
    first: float, good: bool, over: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 10 s; the second plan takes 4.3 s. Where the first is not good, more than half: nothing stands yet."""
    now, ranged, late = [0.0], list[Any](), list[int]()

    def looked(make: Any) -> None:
        now[0] += 4.3 if ranged else first
        ranged.append(make and make(None))
        try:
            clock.check()
        except OutOfTime:
            late.append(len(ranged))
            raise

    clock = Clock(10.0, now=lambda: now[0])
    monkeypatch.setattr(Integers, "_mixed", lambda self, *words: None)
    plans, _ = looked_at(residual(), None, monkeypatch, clock=clock, looked=looked, good=good)
    assert plans[0][0] == integers.spelling(quick=True)
    assert ranged == [500, None]  # samples of 1 ms that the ranges of the first plan are taken from: a twentieth
    assert late == over


@pytest.mark.parametrize(("first", "again"), [(0.4, True), (1.0, False)])
def test_in_haste_the_ranges_of_a_good_first_plan_will_do(
    first: float, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 10 s; another look takes about twice as long as the first, and may take a tenth of what is left."""
    now = [0.0]

    def looked(make: Any) -> None:
        now[0] += first if make else 0.0

    plans, _ = looked_at(residual(), None, monkeypatch, clock=Clock(10.0, now=lambda: now[0]), looked=looked)
    quick, ways = integers.spelling(quick=True), [text for text, _ in plans]
    assert ways == [quick, integers.spelling() if again else quick]  # which was looked at already


def test_what_was_found_out_before_the_time_was_over_stays_known(monkeypatch: pytest.MonkeyPatch) -> None:
    now, found = [0.0], IntegerFindings()

    def looked(make: Any) -> None:
        now[0] += 4.0 if make else 20.0

    looked_at(residual(), None, monkeypatch, clock=Clock(10.0, now=lambda: now[0]), looked=looked, found=found)
    assert now[0] == 24.0 and found.hasty


def test_the_first_plan_has_a_few_samples_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    ranged: list[Any] = []
    looked_at(residual(), None, monkeypatch, clock=Clock(1e-3), looked=lambda make: ranged.append(make and make(None)))
    assert ranged[0] == integers.FEWEST
