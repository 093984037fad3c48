"""How the time that is left is shared out among stages."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from lwgraph.optimizer import improve
from lwgraph.optimizer.data_pass import Cost, DataPass
from lwgraph.optimizer.improve import share_of
from lwgraph.optimizer.stages import PlanSearch
from lwgraph.optimizer.stages.forms import Forms
from lwgraph.optimizer.stages.structure import Structures


@pytest.mark.parametrize(
    ("stage", "left", "distill", "share"),
    [
        (Structures(), 300.0, False, 180.0),  # forms are predicted to take 200 s, so 100 at least
        (Structures(), 200.0, False, 200.0),  # they could not end in the other 80
        (Structures(), 200.0, True, 120.0),  # which training can
        (PlanSearch(), 200.0, False, 160.0),
    ],
)
def test_what_is_too_little_for_the_next_stage_is_not_kept_for_it(
    monkeypatch: pytest.MonkeyPatch, stage: Any, left: float, distill: bool, share: float
) -> None:
    monkeypatch.setattr(Forms, "cost", lambda self, work, unit: Cost(4.0, 160.0))
    setting = SimpleNamespace(
        clock=SimpleNamespace(left=left),
        data_pass=DataPass(0.0, 1, 10.0),
        request=SimpleNamespace(distill=distill),
        failures=SimpleNamespace(guard=lambda what: nullcontext()),
    )
    assert share_of(stage, SimpleNamespace(setting=setting)) == pytest.approx(share)  # type: ignore[arg-type]
    assert set(improve.FOLLOWED) | set(improve.FOLLOWED.values()) <= {each.name for each in improve.STAGES}
