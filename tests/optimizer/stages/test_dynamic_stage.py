"""Layers that lose most by grids taken as the model runs stay in floats where all of them lose too much."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.failures import Failures
from lwgraph.optimizer.stages import integers
from lwgraph.optimizer.stages.base import IntegerFindings
from lwgraph.optimizer.stages.dynamic import gentler, remaining
from lwgraph.optimizer.stages.integers import Integers
from lwgraph.plan.carry_out import Samples
from lwgraph.plan.choices import Precision
from lwgraph.plan.plan import Plan
from lwgraph.plan.roles import Survey
from lwgraph.plan.search.front import Candidate
from lwgraph.rewrite import Context
from tests.passes.quantize.quantize_models import Net

DYNAMIC = Precision(('quantize{activations=dynamic,keep="none"}',))


def outlier() -> ir.Model:
    """Three products; what the second reads has one channel a thousand times as large, which its weight takes back."""
    net, rows = Net(), np.ones((64, 1), np.float32)
    rows[5] = 1e-3
    x = net.input("x", [4, 64])
    for index in range(3):
        weight = net.rng.normal(size=(64, 64)).astype("float32") / 8
        if index == 1:
            x, weight = net.op("Mul", x, net.constant(1 / rows[:, 0])), weight * rows
        x = net.op("MatMul", x, net.constant(weight), name=f"p{index}")
    return net.model(x)


def work_on(model: ir.Model, look: Any = None) -> Any:
    random = np.random.default_rng(0)
    feeds = [{"x": random.normal(size=(4, 64)).astype(np.float32)} for _ in range(4)]
    base = Candidate((), 1.0, 1, 1, 0.0, stated=True)
    return SimpleNamespace(
        integers=IntegerFindings(),
        setting=SimpleNamespace(data_pass=None),
        clean=model,
        shapes={},
        float_ms=0.1,
        making=SimpleNamespace(samples=Samples.in_earnest(0.1)),
        samples=lambda *words: feeds,
        executor=registry.executor("ort"),
        context=Context(executor=registry.executor("ort"), failures=Failures(), data=feeds),
        oracle=SimpleNamespace(measures=True, target="ort-cpu"),
        candidates=SimpleNamespace(
            base=base,
            look=look,
            floor=0.99,
            judge=SimpleNamespace(base=SimpleNamespace(value=1.0)),
            known=lambda candidate: SimpleNamespace(judged=0.96),
        ),
        clock=integers_clock(),
    )


def integers_clock() -> Any:
    from lwgraph.optimizer.clock import Clock

    return Clock()


def test_the_layer_that_reads_an_outlier_stays_in_floats():
    found = gentler(work_on(outlier()), DYNAMIC, 0.5)
    assert found is not None and found.keep_float == ("p1",) and found.passes == DYNAMIC.passes
    assert gentler(work_on(outlier()), DYNAMIC, 1.0) is None
    assert gentler(work_on(outlier()), DYNAMIC, 0.0) is None


@pytest.mark.parametrize(
    ("good", "times", "dropped"),
    [((False, True), (2.0, 1.0), True), ((False, True), (1.0, 2.0), False), ((True, True), (2.0, 1.0), False)],
)
def test_static_ones_that_lose_too_much_and_are_slower_are_given_up(
    good: tuple[bool, bool], times: tuple[float, float], dropped: bool, monkeypatch: pytest.MonkeyPatch
):
    seen: list[str] = []

    def kind(candidate: Candidate) -> int:
        assert candidate.plan is not None
        return int("dynamic" in candidate.plan.precision.passes[0])

    def look(candidate: Candidate, make: Any = None) -> bool:
        seen.append(["static", "dynamic"][kind(candidate)])
        return good[kind(candidate)]

    monkeypatch.setattr("lwgraph.passes.quantize.placing.dynamic_times.EVEN", 1e9)
    monkeypatch.setattr(integers, "survey", lambda *words, **more: Survey(kept=("p0",)))
    work = work_on(outlier(), look)
    work.candidates.known = lambda candidate: SimpleNamespace(judged=0.96, measured_ms=times[kind(candidate)])
    Integers().run(work)
    assert work.integers.static is not dropped
    assert seen == ["static", "dynamic"] + ["static"] * (not dropped and not good[0])


def test_the_share_that_may_remain_follows_from_the_scores():
    assert remaining(1.0, 0.96, 0.99) == pytest.approx(0.8 * 0.25)
    assert remaining(1.0, None, 0.99) is None and remaining(1.0, 0.96, None) is None
    assert remaining(1.0, 1.0, 0.99) is None


def test_the_stage_looks_at_the_gentler_plan_where_all_lose_too_much(monkeypatch: pytest.MonkeyPatch):
    plans: list[Plan] = []

    def look(candidate: Candidate, make: Any = None) -> bool:
        assert candidate.plan is not None
        plans.append(candidate.plan)
        return bool(candidate.plan.precision.keep_float) or len(plans) == 1  # static ones are good

    monkeypatch.setattr("lwgraph.passes.quantize.placing.dynamic_times.EVEN", 1e9)  # times of so small layers are noise
    work = work_on(outlier(), look)
    Integers().run(work)
    assert [plan.precision.keep_float for plan in plans] == [(), (), ("p1",)]
    assert integers.dynamic_precision(work) == plans[-1].precision
