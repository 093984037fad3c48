"""Where all in integers loses too much: which mixes of integers and floats the stage looks at."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from lwgraph import registry
from lwgraph.failures import Failures
from lwgraph.optimizer.clock import Clock
from lwgraph.optimizer.data_pass import Cost, DataPass
from lwgraph.optimizer.stages import base, integers
from lwgraph.optimizer.stages.base import IntegerFindings
from lwgraph.optimizer.stages.integers import Integers
from lwgraph.plan.carry_out import Samples
from lwgraph.plan.roles import Mix, Survey
from lwgraph.plan.search.front import Candidate
from lwgraph.rewrite import Context
from tests.passes.quantize.quantize_models import residual

PLAIN = integers.spelling()
JUDGED = str(integers.quantizer().judged())


def ladder(*shares: float) -> tuple[Mix, ...]:
    """Each takes longer than the one before."""
    return tuple(Mix((f"c{index}",), share, 0.2 + 0.1 * index) for index, share in enumerate(shares))


MIXES = ladder(1.0, 0.6, 0.3, 0.1, 0.02)


def looked_at(
    monkeypatch: pytest.MonkeyPatch,
    scores: dict[str, float | None],
    found: Survey,
    budget: float | None = None,
    clock: Clock | None = None,
) -> list[tuple[str, tuple[str, ...]]]:
    """The plans that are looked at: the pass, and what stays in floats.

    Args:
        scores: of the plan that leaves a node in floats, by its name; "": of all in integers. None: it was dropped
            before that was known. At least 0.99 is good, and 1 the score of the original.
        found: what the quantizer measured.
        budget: of the run, in seconds.
        clock: of the run, in place of one with the budget.
    """
    plans: list[tuple[str, tuple[str, ...]]] = []

    def score(candidate: Candidate) -> float | None:
        assert candidate.plan is not None
        return scores.get(next(iter(candidate.plan.precision.keep_float), ""))

    def look(candidate: Candidate, make: Any = None) -> bool:
        assert candidate.plan is not None
        plans.append((candidate.plan.precision.passes[-1], candidate.plan.precision.keep_float))
        return (score(candidate) or 0.0) >= 0.99

    monkeypatch.setattr(integers, "survey", lambda *words, **more: found)
    work: Any = SimpleNamespace(
        clean=residual(),
        shapes={},
        context=Context(executor=registry.executor("ort"), failures=Failures()),
        oracle=SimpleNamespace(measures=True, target="ort-cpu"),
        candidates=SimpleNamespace(
            base=Candidate((), 1.0, 1, 1, 0.0, stated=True),
            look=look,
            floor=0.99,
            judge=SimpleNamespace(base=SimpleNamespace(value=1.0)),
            known=lambda candidate: SimpleNamespace(judged=score(candidate), measured_ms=1.0),
        ),
        clock=clock or Clock(budget),
        float_ms=1.0,
        making=SimpleNamespace(stated=lambda candidate, ranged: None, samples=Samples.in_earnest(1.0)),
        integers=IntegerFindings(),
        setting=SimpleNamespace(data_pass=None),
    )
    Integers().run(work)
    return plans


def test_the_fastest_mix_that_may_lose_so_little_is_looked_at_with_ranges_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 0.02, a half may remain, and for safety 0.8 of that: 0.4."""
    found = Survey(kept=("c9",), even=False, method="mse", mixes=MIXES)
    known = str(integers.quantizer().exactly("mse", False))
    plans = looked_at(monkeypatch, {"": 0.98, "c2": 0.995}, found)
    assert plans == [(PLAIN, ()), (known, ("c2",))]


def test_what_a_mix_was_judged_to_lose_corrects_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.3 of all lost as much as all: of that, 0.4 may remain, which is 0.12 of all."""
    found = Survey(mixes=MIXES)
    plans = looked_at(monkeypatch, {"": 0.98, "c2": 0.98, "c3": 0.995}, found)
    assert plans == [(PLAIN, ()), (PLAIN, ("c2",)), (PLAIN, ("c3",))]
    plans = looked_at(monkeypatch, {"": 0.98, "c2": None, "c3": 0.995}, found)  # dropped early: half of it, 0.15
    assert plans[-1] == (PLAIN, ("c3",))


def test_the_next_mix_does_half_at_most_and_a_few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """That 0.55 of all lose 0.0101 in place of 0.01 says: 0.79 of that may remain. It may be noise."""
    found = Survey(mixes=ladder(0.55, 0.4, 0.25, 0.1, 0.05))
    scores = {"": 0.987, "c0": 0.9899, "c2": 0.9899, "c3": 0.9899}
    assert [keep for _, keep in looked_at(monkeypatch, scores, found)] == [(), ("c0",), ("c2",), ("c3",)]


def test_where_no_mix_loses_so_little_none_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    assert looked_at(monkeypatch, {"": 0.1}, Survey(kept=("c9",), mixes=MIXES)) == [(PLAIN, ())]


@pytest.mark.parametrize(("score", "asked"), [(0.985, True), (0.98, False), (None, True)])
def test_the_pass_judges_for_itself_only_where_that_may_be_enough(
    score: float | None, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its care takes longest; it is not asked where less than half of what is lost may remain."""
    plans = looked_at(monkeypatch, {"": score}, Survey(kept=("c9",)))
    assert plans == [(PLAIN, ()), (PLAIN, ("c9",)), *([(JUDGED, ())] if asked else [])]


def test_in_haste_mixes_have_the_first_ranges_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """All in integers with the simplest ranges stands before any mix is thought of."""
    quick, found = integers.spelling(quick=True), Survey(method="mse", mixes=MIXES)
    assert looked_at(monkeypatch, {"": 0.995}, found, budget=1000.0) == [(quick, ()), (PLAIN, ())]
    plans = looked_at(monkeypatch, {"": 0.98, "c2": 0.995}, found, budget=1000.0)
    assert plans[0] == (quick, ()) and plans[-1][1] == ("c2",)


def test_where_little_time_is_left_the_simplest_ranges_come_first_also_without_a_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Integers, "cost", lambda self, work, unit: Cost(3.0, 10.0))
    setting = SimpleNamespace(data_pass=DataPass(0.0, 1, 10.0))
    for left, short in ((40.0 / integers.SHORT - 1, True), (40.0 / integers.SHORT + 1, False), (math.inf, False)):
        work: Any = SimpleNamespace(setting=setting, clock=SimpleNamespace(left=left))
        assert base.short(Integers(), work, integers.SHORT) is short
    clock = Clock()
    clock.horizon = 20.0
    monkeypatch.setattr(integers, "short", lambda *words: True)
    plans = looked_at(monkeypatch, {"": 0.995}, Survey(), clock=clock)
    assert plans[0] == (integers.spelling(quick=True), ())
