"""Recurrent layers: in integers with the rest, in floats beside it, or alone in integers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.failures import Failures
from lwgraph.optimizer.clock import Clock
from lwgraph.optimizer.stages.base import IntegerFindings
from lwgraph.optimizer.stages.integers import Integers
from lwgraph.plan.carry_out import carry_out
from lwgraph.plan.choices import Precision
from lwgraph.plan.plan import Plan
from lwgraph.plan.precision import INT8, spelling
from lwgraph.plan.search.front import Candidate
from lwgraph.plan.search.planner import open_planner
from lwgraph.rewrite import Context
from tests.passes.quantize.quantize_models import Net
from tests.plan.search.by_work import ByWork

ORT = registry.executor("ort")
FEEDS = [{"x": np.random.default_rng(i).normal(size=(3, 1, 8)).astype(np.float32)} for i in range(2)]


def network() -> ir.Model:
    """A product and a GRU of four states behind it."""
    net = Net()
    x = net.op("MatMul", net.input("x", [3, 1, 8]), net.constant(net.rng.normal(size=(8, 8)).astype("f")), name="p")
    w, r = (net.constant(net.rng.normal(size=(1, 12, n)).astype("f") / 3) for n in (8, 4))
    y = net.op("GRU", x, w, r, name="gru", hidden_size=4)
    return net.model(y)


def ran(keeps: set[str], times: dict[str, float]) -> tuple[list[Precision], Any]:
    """The plans that the stage looks at, where those named keep the promise and take these milliseconds."""
    plans: list[Precision] = []

    def kind(p: Precision) -> str:
        alone = "dynamic" in p.passes[0]
        return "alone" if alone else "without" if p.keep_float == ("gru",) else "all" if not p.keep_float else "other"

    def look(candidate: Candidate, make: Any = None) -> bool:
        assert candidate.plan is not None
        plans.append(candidate.plan.precision)
        return kind(candidate.plan.precision) in keeps

    def known(candidate: Candidate) -> Any:
        assert candidate.plan is not None
        return SimpleNamespace(measured_ms=times.get(kind(candidate.plan.precision)), judged=None)

    model = network()
    work: Any = SimpleNamespace(
        integers=IntegerFindings(spelling()),
        clean=model,
        shapes={},
        float_ms=0.1,
        context=Context(executor=ORT, failures=Failures(), data=FEEDS),
        oracle=SimpleNamespace(measures=False, target="ort-cpu"),
        candidates=SimpleNamespace(base=Candidate((), 1.0, 1, 1, 0.0, stated=True), look=look, known=known),
        clock=Clock(),
    )
    Integers()._looked(work, lambda *p: look(made(*p)), made)
    assert not work.context.failures.rows
    return plans, work


def made(*precision: Any) -> Candidate:
    return Candidate((), 1.0, 1, 1, 0.0, plan=Plan(precision=Precision(*precision)), stated=True)


@pytest.mark.parametrize(
    ("keeps", "times", "looked", "left"),
    [
        ({"all", "without"}, {"all": 1.0, "without": 2.0}, 2, ()),
        ({"all", "without"}, {"all": 2.0, "without": 1.0}, 2, ("gru",)),  # the loop is slower
        ({"without"}, {"all": 1.0, "without": 2.0}, 2, ("gru",)),  # the loop loses too much
        ({"all"}, {"all": 2.0, "without": 1.0}, 2, ()),
        ({"alone"}, {}, 3, ()),
    ],
)
def test_they_are_in_integers_where_that_is_better(
    keeps: set[str], times: dict[str, float], looked: int, left: tuple[str, ...]
) -> None:
    plans, work = ran(keeps, times)
    assert len(plans) == looked and work.integers.spared == left
    assert plans[:2] == [Precision((spelling(),)), Precision((spelling(),), ("gru",))]


def test_alone_means_that_the_others_stay_in_floats() -> None:
    plans, _ = ran({"alone"}, {})
    model = carry_out(network(), Plan(precision=plans[-1]), Context(executor=ORT, data=FEEDS)).model
    kinds = [node.op_type for node in model.graph]
    assert (
        "Scan" in kinds
        and "GRU" not in kinds
        and "MatMul" in kinds
        and "MatMulInteger" not in kinds[: kinds.index("MatMul")]
    )


def test_plans_of_the_search_leave_what_is_spared_in_floats(tmp_path: Any) -> None:
    context = Context(executor=ORT, data=FEEDS)
    planner = open_planner(
        network(), context, ByWork(tmp_path), forms=[], precisions=("float", INT8), spared=("gru", "gone")
    )
    plan = planner.plan(planner.chosen(planner.uniform(INT8)))
    assert plan.precision.keep_float == ("gru",)
