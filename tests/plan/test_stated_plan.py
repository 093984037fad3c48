"""A stated plan through `optimize` is carried out as the search carried it out: layers fitted anew to what they see."""

import pytest

import lwgraph
from lwgraph.calibrate import Statistics
from lwgraph.errors import CheckError
from lwgraph.plan import carry_out as carrying
from lwgraph.plan.carry_out import carry_out
from lwgraph.plan.plan import Choice, Plan
from lwgraph.rewrite import Context
from tests.plan.refit.residual import FORMS, ORT, distance, inputs, network


def test_layers_are_fitted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    original, data = network(2), inputs(48)
    plan = Plan({f"conv{b}{k}": Choice(FORMS["low-rank"]) for b in range(2) for k in "ab"})
    context = Context(executor=ORT, data=data, statistics=Statistics(original, data, ORT))
    alone = carry_out(original, plan, context).model

    again = lwgraph.optimize(original, data=data, plan=plan)
    assert len(again.plan.sites) == 4
    assert distance(original, again.model) < 0.8 * distance(original, alone)

    monkeypatch.setattr(carrying, "refit", lambda *_, **__: pytest.fail("fitted to generated inputs"))
    with pytest.raises(CheckError, match="outputs equal the input model's"):
        lwgraph.optimize(original, plan=plan)
