"""A run keeps to its time before its first stage, and what it makes keeps to its memory."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lwgraph
from lwgraph import heap, ir
from lwgraph.layers.form import find_form
from lwgraph.measure import Score
from lwgraph.optimizer.candidates import Candidates, Incumbent, Made
from lwgraph.optimizer.last_look import LOOK_RUNS
from lwgraph.optimizer.memory import Garbage
from lwgraph.optimizer.racing import Raced
from lwgraph.optimizer.request import Request
from lwgraph.optimizer.setting import LEAST_LAST, open_run
from lwgraph.optimizer.steps import Steps
from lwgraph.plan.plan import Plan
from lwgraph.plan.refit.sequential import refit
from lwgraph.plan.search.front import Candidate
from lwgraph.plan.search.items import find_items
from lwgraph.report import Check
from lwgraph.rewrite import Context, Pass
from tests.layers.chain import FEEDS, ORT, chain
from tests.plan.refit.residual import inputs, network
from tests.plan.search.by_work import ByWork

SLOW = 0.3  # seconds of one run on a sample, as the metric below takes them


def slow(run: Any) -> float:
    """A metric of many samples, each of which takes long."""
    for _ in range(100):
        time.sleep(SLOW)
        run(FEEDS)
    return 1.0


def test_a_metric_that_takes_longer_than_the_budget_costs_the_search_and_no_more() -> None:
    data = {name: np.concatenate([value] * 4) for name, value in FEEDS.items()}
    start = time.monotonic()
    result = lwgraph.optimize(chain(), data=data, metric=slow, budget=4.0)
    assert time.monotonic() - start < 100 * SLOW / 2
    assert result.kept and result.plan.empty and result.report.score is None
    assert any("no approximation was tried, as judging" in note for note in result.report.notes)


@pytest.mark.parametrize("budget", [None, 600.0])
def test_a_short_budget_is_judged_on_the_samples_that_it_has_time_for(monkeypatch: Any, budget: Any) -> None:
    """Judging them all would take the whole budget; a search without one has all of them."""
    monkeypatch.setattr("lwgraph.optimizer.setting.JUDGED_SHARE", 1e-9)
    data = {name: np.concatenate([value] * 4) for name, value in FEEDS.items()}
    judging = {name: np.concatenate([value] * 25) for name, value in FEEDS.items()}
    result = lwgraph.optimize(chain(), data=data, eval_data=judging, budget=budget, preset="lossless")
    told = [note for note in result.report.notes if "samples for judging were used" in note]
    if budget is None:
        assert not told
    else:
        assert told == [
            "30 of 100 samples for judging were used: all of them would take too much of the budget of 600 s"
        ]


@pytest.mark.parametrize(("share", "samples"), [(1 / 8, 67), (1e-12, LEAST_LAST)])
def test_the_last_look_is_had_at_the_samples_that_there_is_time_for_and_its_time_is_kept(
    monkeypatch: Any, share: float, samples: int
) -> None:
    """Other work on the machine may have made the input slower than it seemed when samples were counted."""
    monkeypatch.setattr("lwgraph.optimizer.setting.LAST_SHARE", share)
    data = {name: np.concatenate([value] * 25) for name, value in FEEDS.items()}
    setting = open_run(chain(), Request(data=data, eval_data=data, budget=600.0), Steps(), None)
    judge, last = setting.judge, setting.last
    assert judge is not None and last is not None and last.samples == samples
    one = judge.seconds / judge.base.count
    assert setting.clock.reserve == pytest.approx(LOOK_RUNS * samples * one)
    told = [note for note in setting.told.notes if "samples for judging were used" in note]
    assert len(told) == (samples < 67) and all(note.startswith("53 of 100 ") for note in told)


def allowing(model: ir.Model, memory: int | None, **more: Any) -> Context:
    context = Context(executor=ORT, reference=ORT, memory_bytes=memory, **more)
    return context.beside(statistics=context.statistics_of(model))


def test_statistics_take_half_of_the_allowance_and_what_a_step_takes_is_a_share_of_it() -> None:
    model = chain()
    free, bound = (allowing(model, memory, data=[FEEDS]) for memory in (None, 1 << 20))
    assert free.statistics is not None and bound.statistics is not None
    assert free.statistics._allowance is None and bound.statistics._allowance == 1 << 19
    assert bound.statistics._activation_bytes == 1 << 17 and free.statistics._activation_bytes > 1 << 20
    assert free.bytes_of(1000) == 1000 and bound.bytes_of(1 << 30, 0.5) == 1 << 19 and bound.bytes_of(10) == 10


@pytest.mark.parametrize(("memory", "same"), [(None, True), (1 << 20, False)])
def test_items_keep_their_moments_only_where_the_allowance_has_room(tmp_path: Any, memory: Any, same: bool) -> None:
    model = chain()
    context = allowing(model, memory, data=[FEEDS])
    items = find_items(model, context, ByWork(tmp_path), [find_form("low-rank")])
    assert items
    for item in items:
        assert item.moments is not None
        assert (item.moments() is item.moments()) is same


@pytest.mark.parametrize(("memory", "exact"), [(None, True), (1 << 20, False)])
def test_a_refit_forms_moments_only_where_the_allowance_has_room(memory: Any, exact: bool) -> None:
    original = network(2)
    data = inputs(48)
    context = allowing(original, memory, data=data)
    model = ir.clone(original)
    assert Pass.parse("low-rank{ratio=0.4}").run(model, allowing(original, None, data=data))
    report = refit(original, model, context)
    assert any(layer.how == "form" for layer in report.layers) is exact


def test_models_that_are_farthest_from_winning_are_let_go_under_an_allowance() -> None:
    """Of four models of which two have room beside the one that stands; all stay in the table."""
    model = chain()
    size = ir.size(model)
    times = iter([10.0, 8.0, 6.0, 7.0])
    judge = SimpleNamespace(base=SimpleNamespace(value=1.0), floor=0.5, stated=True, looks=0)
    judge.raced = lambda model: Raced(Score(0.9))
    judge.expected = lambda score: score.value
    raced: list[int] = []

    def race(models: Sequence[ir.Model]) -> list[float]:
        raced.append(len(models))
        return [1.0 * index for index in range(len(models))]

    candidates = Candidates(
        Request(),
        judge,  # type: ignore[arg-type]
        Incumbent(model),
        make=lambda candidate: Made(candidate, ir.clone(model)),
        prove=lambda made: [Check("all", "none", "exact", True, "")],
        milliseconds=lambda made: next(times),
        race=race,
        base=Candidate((), 100.0, 0.0, "cleaned", plan=Plan(), stated=True),
        context=Context(memory_bytes=8 * (2 * size + size // 2)),
    )
    for number in range(4):
        assert candidates.look(Candidate((number,), 10.0, 0.0, plan=Plan(target=str(number))))
    known = {made.candidate.measured_ms: made for made in candidates.all()}
    assert [ms for ms, made in known.items() if made.model is None] == [10.0]
    assert candidates.incumbent.model is known[6.0].model
    assert all(made.bytes == size for made in known.values())
    candidates.settle()
    assert raced == [2]  # 6 and 7 ms; 8 ms is more than CLOSE to the fastest


def test_models_that_were_let_go_are_freed_once_they_hold_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph is a cycle, so that reference counts alone never free it; the collector is asked when it has grown."""
    gone: list[weakref.ref[ir.Value]] = []
    size = 16 << 20
    # What the process holds is counted, for the allocator may answer from memory that it has kept.
    monkeypatch.setattr(heap, "resident", lambda: sum(size for each in gone if each() is not None))
    garbage = Garbage(2 * size)
    gc.collect()
    gc.disable()
    try:
        for _ in range(6):
            model = chain()
            weight = next(iter(model.graph.initializers.values()))
            gone.append(weakref.ref(weight))
            del weight, model
            garbage.check()
        assert sum(each() is not None for each in gone) <= 2
    finally:
        gc.enable()
