"""The stage of the search leaves time for looks at what it finds."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from lwgraph.alarm import OutOfTime
from lwgraph.optimizer.stages import PlanSearch, search


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
