"""How the time that is left is shared out among stages."""

from __future__ import annotations

import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from lwgraph.optimizer import improve
from lwgraph.optimizer.data_pass import Cost, DataPass
from lwgraph.optimizer.improve import hopeless, search_until, share_of
from lwgraph.optimizer.request import Request
from lwgraph.optimizer.stages import PlanSearch
from lwgraph.optimizer.stages.forms import Forms
from lwgraph.optimizer.stages.structure import Structures


def work_with(left: float, distill: bool = False) -> Any:
    setting = SimpleNamespace(
        clock=SimpleNamespace(left=left),
        data_pass=DataPass(0.0, 1, 10.0),
        request=SimpleNamespace(distill=distill),
        failures=SimpleNamespace(guard=lambda what: nullcontext()),
    )
    return SimpleNamespace(setting=setting)


@pytest.fixture(autouse=True)
def _forms_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 passes of 10 s, and 120 s besides: at least 100 s, 40 of them for running networks."""
    monkeypatch.setattr(Forms, "cost", lambda self, work, unit: Cost(8.0, 120.0))


@pytest.mark.parametrize(
    ("stage", "left", "distill", "share"),
    [
        (Structures(), 300.0, False, 180.0),
        (Structures(), 200.0, False, 196.0),  # forms could not end in the other 80
        (Structures(), 200.0, True, 120.0),  # which training can
        (PlanSearch(), 200.0, False, 160.0),
    ],
)
def test_what_is_too_little_for_the_next_stage_is_not_kept_for_it(
    stage: Any, left: float, distill: bool, share: float
) -> None:
    assert share_of(stage, work_with(left, distill)) == pytest.approx(share)
    assert set(improve.FOLLOWED) | set(improve.FOLLOWED.values()) <= {each.name for each in improve.STAGES}


def test_a_stage_that_cannot_end_is_not_begun() -> None:
    assert hopeless(Forms(), work_with(39.0)) and not hopeless(Forms(), work_with(41.0))
    assert not hopeless(Forms(), work_with(math.inf)) and not hopeless(Structures(), work_with(1.0))


@pytest.mark.parametrize(
    ("budget", "one", "until"),
    [(None, 10.0, 11 * 10.0 + 15.0), (None, 1.0, 54.0), ("none", 10.0, math.inf), (60.0, 10.0, math.inf)],
)
def test_what_comes_after_the_search_is_kept_of_what_a_run_takes_where_no_budget_is_stated(
    monkeypatch: pytest.MonkeyPatch, budget: float | str | None, one: float, until: float
) -> None:
    monkeypatch.setattr(improve, "SECONDS_BESIDE", 20.0)
    setting: Any = SimpleNamespace(request=Request(budget=budget), data_pass=DataPass(0.0, 1, one))
    assert search_until(setting) == until
    setting.data_pass = None
    assert search_until(setting) == math.inf
