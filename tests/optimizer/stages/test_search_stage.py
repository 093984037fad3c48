"""The stage of the search leaves time for looks at what it finds."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from lwgraph.alarm import OutOfTime
from lwgraph.cache import Rows
from lwgraph.optimizer.data_pass import DataPass
from lwgraph.optimizer.stages import PlanSearch, search
from lwgraph.optimizer.stages.forms import trial_seconds


class Trials:
    """A search that spends all that it is given, or a second."""

    def __init__(self, needed: float) -> None:
        self.needed, self.seconds, self.spent = needed, 60.0, 0.0

    def go_on(self, most: float) -> str:
        """Tries."""
        self.spent = min(self.needed, self.seconds)
        return "front"


@pytest.mark.parametrize(
    ("needed", "left", "spent", "ends"),
    [(90.0, math.inf, 60.0, False), (90.0, 20.0, 10.0, True), (1.0, 20.0, 1.0, False), (90.0, 200.0, 60.0, False)],
)
def test_under_a_budget_half_of_the_time_is_for_looks(
    monkeypatch: pytest.MonkeyPatch, needed: float, left: float, spent: float, ends: bool
) -> None:
    looked: list[Any] = []
    monkeypatch.setattr(search, "back_off", lambda front, candidates, make: looked.append(front))
    trials = Trials(needed)
    work: Any = SimpleNamespace(
        search=trials,
        clock=SimpleNamespace(left=left),
        candidates=SimpleNamespace(most=1.0),
        making=SimpleNamespace(searched=print),
    )
    if ends:  # the outcome tells that a second run may go on
        with pytest.raises(OutOfTime):
            PlanSearch().run(work)
    else:
        assert PlanSearch().run(work) is work
    assert trials.spent == spent and looked == ["front"]


@pytest.mark.parametrize(
    ("asked", "seconds", "spent"), [(60.0, 20.0, 60.0), (60.0, 6.0, 24.0), (180.0, 6.0, 72.0), (60.0, 0.1, 10.0)]
)
def test_trials_of_a_fast_network_take_four_passes(asked: float, seconds: float, spent: float) -> None:
    unit, memory = DataPass(0.0, 1, seconds), Rows(None, "the search is")
    assert trial_seconds(asked, unit, memory) == pytest.approx(spent)
    slower = DataPass(0.0, 1, 1.2 * seconds)  # a second run, on a busy machine
    assert trial_seconds(asked, slower, memory) == pytest.approx(spent)
    assert trial_seconds(asked, None, memory) == asked and trial_seconds(0.0, unit, memory) == 0.0
