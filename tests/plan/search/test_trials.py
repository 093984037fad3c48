"""Trials of plans in workers give what the search would measure itself, and so the same plans."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from lwgraph import ir
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.errors import CheckError
from lwgraph.failures import Failures
from lwgraph.measure.distance import Loss
from lwgraph.plan.plan import Choice, Plan
from lwgraph.plan.precision import FLOAT, INT8
from lwgraph.plan.search.front import Front
from lwgraph.plan.search.plan_search import Search
from lwgraph.plan.search.planner import Planner, open_planner
from lwgraph.plan.search.trials import Setting, Trials, run_trial
from lwgraph.rewrite.base import Context
from lwgraph.tasks import Pool, open_pool
from tests.layers.chain import FEEDS, ORT, Measured, chain
from tests.plan.search.by_work import ByWork


def planner(folder: Path, *, shared: bool = False) -> Planner:
    model = chain(shared=shared)
    statistics = Measured(ir.clone(model), FEEDS)
    context = Context(executor=ORT, reference=ORT, statistics=statistics, data=[FEEDS], failures=Failures())
    shapes = layer_shapes(model, FEEDS, ORT)
    made = open_planner(model, context, ByWork(folder), shapes=shapes, forms=["low-rank"], precisions=(FLOAT, INT8))
    return made.anchored(10.0, {INT8: 4.0}, 1000, 2000)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with open_pool(2) as opened:
        assert opened is not None
        yield opened


def searched(folder: Path, pool: Pool | None) -> tuple[Front, Search]:
    made = planner(folder)
    loss = Loss(ORT.prepare(made.model), [FEEDS])
    trials = None if pool is None else Trials(made, loss, ORT, pool)
    search = Search(made, loss, ORT, seconds=math.inf, trials=trials)
    search.first()
    return search.go_on(), search


def test_the_same_front_with_any_number_of_workers(tmp_path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwgraph.plan.search.plan_search.BARREN", 8)
    alone, _ = searched(tmp_path, None)
    taken: list[Any] = []
    take = Trials.take
    monkeypatch.setattr(Trials, "take", lambda self, choice: taken.append(take(self, choice)) or taken[-1])
    together, search = searched(tmp_path, pool)
    assert [(c.choice, c.loss, c.origin) for c in together.candidates] == [
        (c.choice, c.loss, c.origin) for c in alone.candidates
    ]
    assert len(alone.candidates) > 3
    assert sum(result is not None for result in taken) > len(taken) / 2  # most were thought of in time
    assert search.spent > 0


def test_layers_that_share_a_weight_are_tried_here(tmp_path: Path, pool: Pool) -> None:
    made = planner(tmp_path, shared=True)
    trials = Trials(made, Loss(ORT.prepare(made.model), [FEEDS]), ORT, pool)
    (item,) = made.items
    form = next(i for i, option in enumerate(item.options) if option.form is not None)
    trials.start((form,))
    assert trials.take((form,)) is None


def test_a_plan_that_cannot_be_run_is_left_out(tmp_path: Path, pool: Pool) -> None:
    made = planner(tmp_path)
    loss = Loss(ORT.prepare(made.model), [FEEDS])
    model = ir.to_proto(made.model).SerializeToString()
    setting = Setting(model, "ort", 1, [FEEDS], loss, made.shapes, 0)
    found, seconds, reason = run_trial(setting, Plan({"b": Choice("low-rank{rank=4}")}), ())
    assert math.isinf(found) and seconds > 0 and "site 'b'" in reason
    trials = Trials(made, loss, ORT, pool)
    trials._running[(1, 1)] = pool.submit(run_trial, setting, Plan({"b": Choice("low-rank{rank=4}")}), ())
    taken = trials.take((1, 1))
    assert taken is not None and math.isinf(taken[0])
    assert [(row.step, row.reason) for row in made.context.failures.rows] == [("search: a plan", reason)]


def test_a_trial_that_kills_its_workers_is_left_out(tmp_path: Path, pool: Pool) -> None:
    made = planner(tmp_path)
    trials = Trials(made, Loss(ORT.prepare(made.model), [FEEDS]), ORT, pool)
    trials._running[0, 1] = failed = Future()  # type: ignore[var-annotated]
    failed.set_exception(CheckError("worker processes died 3 times on the same task"))
    assert trials.take((0, 1)) == (math.inf, 0.0)
    assert [str(row).split(";")[0] for row in made.context.failures.rows] == [
        "search: a plan: worker processes died 3 times on the same task"
    ]
