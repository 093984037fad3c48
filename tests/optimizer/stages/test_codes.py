"""Weights in few bits, where bytes are what is asked for: which widths are tried, and what comes of it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lwgraph
from lwgraph import ir, registry
from lwgraph.failures import Failures
from lwgraph.layers.coded_weights import find_coded
from lwgraph.measure import Score
from lwgraph.optimizer import candidates as optimizer_candidates
from lwgraph.optimizer import improve
from lwgraph.optimizer.candidates import Candidates, Incumbent, Made
from lwgraph.optimizer.racing import Raced
from lwgraph.optimizer.request import Request
from lwgraph.optimizer.stages import codes
from lwgraph.optimizer.stages.codes import Codes
from lwgraph.plan.plan import Plan
from lwgraph.plan.roles import Survey
from lwgraph.plan.search.front import Candidate
from lwgraph.report import Check
from lwgraph.rewrite import Context
from lwgraph.testing import check_role
from tests.passes.quantize.quantize_models import Net


def network() -> ir.Model:
    n = Net(17)
    h = n.input("x", ["batch", 8, 8, 8])
    for index in range(3):
        h = n.op("Relu", n.conv(h, 8 if index == 0 else 32, 32, name=f"conv{index}"))
    return n.model(n.gemm(n.op("Flatten", n.op("GlobalAveragePool", h)), 32, 64, name="head"))


def widths_looked_at(good: Callable[[list[int]], bool], monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, int]]]:
    """For each plan that the stage looks at, the bits of each of its passes and how many layers that spares."""
    looked = []

    def look(candidate: Candidate) -> bool:
        assert candidate.plan is not None and candidate.stated
        steps = []
        for text in candidate.plan.precision.passes:
            bits = re.search(r"bits=(\d)", text)
            steps.append((int(bits[1]) if bits else 4, text.count("conv") + text.count("head")))
        looked.append(steps)
        return good([bits for bits, _ in steps])

    monkeypatch.setattr(codes, "survey", lambda *words, **options: Survey({"conv0": 1.0, "conv1": 0.1, "conv2": 0.2}))
    base = Candidate((), 1.0, 0.0, plan=Plan(), stated=True)
    candidates = SimpleNamespace(look=look, base=base, good=list, amount=lambda each: each.bytes)
    context = Context(executor=registry.executor("ort"), failures=Failures())
    work = SimpleNamespace(candidates=candidates, context=context, clean=network(), shapes={}, float_ms=1.0)
    Codes().run(work)  # type: ignore[arg-type]
    assert not context.failures.rows
    return looked


def test_fewer_bits_until_the_promise_breaks_then_mixtures(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = widths_looked_at(lambda bits: min(bits) >= 3, monkeypatch)
    assert [steps[0][0] for steps in looked[:3]] == [4, 3, 2]
    assert all(len(steps) == 2 and steps[0][0] == 2 and steps[1] == (3, 0) for steps in looked[3:]) and looked[3:]
    assert [steps[0][1] for steps in looked[3:]] == [2, 3]  # of four layers: half of them in two bits, then one


def test_more_bits_until_the_promise_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = widths_looked_at(lambda bits: min(bits) >= 6, monkeypatch)
    assert [steps[0][0] for steps in looked[:3]] == [4, 5, 6]
    assert {tuple(bits for bits, _ in steps) for steps in looked[3:]} == {(5, 6)}


def test_nothing_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [s[0][0] for s in widths_looked_at(lambda bits: False, monkeypatch)] == [4, 5, 6, 8]


def working(objective: str, limit: int | None, met: bool, left: float, *known: Candidate) -> Any:
    """What a stage has to work with, where these candidates were found good; the cleaned model has 100 bytes."""
    candidates = SimpleNamespace(
        good=lambda: [Made(each, None) for each in known],
        base=Candidate((), 9.0, 0.0, "cleaned", plan=Plan(), bytes=100, stated=True),
        meets=lambda candidate: met,
        amount=lambda candidate: candidate.amount(objective),
    )
    request = SimpleNamespace(objective=objective, max_bytes=limit)
    return SimpleNamespace(request=request, candidates=candidates, clock=SimpleNamespace(left=left))


@pytest.mark.parametrize(
    ("objective", "limit", "met", "reason"),
    [
        ("latency", None, True, "bytes are not asked for"),
        ("latency", 10, True, "the limits are kept without them"),
        ("latency", 10, False, ""),
        ("bytes", None, True, ""),
    ],
)
def test_idle(objective: str, limit: int | None, met: bool, reason: str) -> None:
    assert Codes().idle(working(objective, limit, met, math.inf)) == reason
    assert Codes(early=True).idle(working(objective, limit, met, 10.0)) == reason


def test_where_nothing_limits_the_time_there_is_no_haste() -> None:
    assert "when all plans are found" in Codes(early=True).idle(working("bytes", None, True, math.inf))


def test_the_plans_that_get_codes() -> None:
    """The best and the smallest of those that have none yet, and the cleaned model; in haste the best alone."""
    fast = Candidate((1,), 1.0, 0.0, bytes=60)
    small = Candidate((2,), 2.0, 0.0, bytes=50)
    other = Candidate((3,), 3.0, 0.0, bytes=70)
    coded = Candidate((4,), 1.0, 0.0, bytes=10, coded=True)
    latency = working("latency", 20, False, 10.0, coded, other, small, fast)
    assert Codes()._bases(latency)[:2] == [fast, small] and len(Codes()._bases(latency)) == 3
    assert Codes(early=True)._bases(latency) == [fast]
    assert Codes()._bases(working("bytes", None, True, math.inf, coded, fast, small))[0] == small
    assert [each.origin for each in Codes()._bases(working("bytes", None, True, math.inf, coded))] == ["cleaned"]


def test_bytes_of_codes_rule_out_no_plan_without() -> None:
    """Plans that are found after the first codes are looked at although they have more bytes: they get codes, too."""
    candidates = Candidates.__new__(Candidates)
    candidates.request, candidates.floor = Request(objective="bytes"), 0.9
    candidates.base = Candidate((), 1.0, 0.0, "cleaned", plan=Plan(), bytes=100, stated=True)
    plain = Made(Candidate((1,), 1.0, 0.0, bytes=40, accepted=True), None)
    coded = Made(Candidate((2,), 1.0, 0.0, bytes=10, accepted=True, coded=True), None)
    candidates._made = {plain.candidate.key: plain, coded.candidate.key: coded}
    assert candidates.most == optimizer_candidates.DOUBT * 40


def test_fewer_bytes_are_worth_no_time() -> None:
    """Of two plans of few bytes the one that is slower than the cleaned model never stands."""
    model, looked = network(), []

    def made(candidate: Candidate) -> Made:
        looked.append(candidate)
        return Made(candidate, ir.clone(model))

    judge = SimpleNamespace(
        base=Score("top1", 1.0), stated=True, floor=0.9, looks=0, raced=lambda model: Raced(Score("top1", 1.0)),
        expected=lambda score: 1.0, max_drop=0.1,
    )  # fmt: skip
    times, races = iter([1.5, 1.5, 1.05]), iter([(1.0, 1.4), (1.0, 1.0)])
    candidates = Candidates(
        Request(objective="bytes"),
        judge,  # type: ignore[arg-type]
        Incumbent(model),
        make=made,
        prove=lambda made: [Check("all", "none", "exact", True, "")],
        milliseconds=lambda made: next(times),
        race=lambda models: next(races),
        base=Candidate((), 1.0, 0.0, "cleaned", plan=Plan(), bytes=10 * ir.size(model), stated=True),
        context=Context(),
    )
    assert not candidates.look(Candidate((1,), 1.0, 0.0, plan=Plan(target="slow"), bytes=1))
    assert candidates.look(Candidate((2,), 1.0, 0.0, plan=Plan(target="timed badly"), bytes=1))
    assert candidates.look(Candidate((3,), 1.0, 0.0, plan=Plan(target="even"), bytes=0))
    assert candidates.incumbent.plan.target == "even"


def test_the_role() -> None:
    check_role("codes-weights")


def test_few_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """--preset small stores weights as codes; the result is at most a fifth of the file, in haste, too."""
    monkeypatch.setattr(improve, "STAGES", (Codes(early=True),))
    monkeypatch.setattr(optimizer_candidates, "SLOWER", np.inf)  # a network of microseconds cannot be timed here
    rng = np.random.default_rng(0)
    data = [
        {"x": (rng.standard_normal((1, 8, 8, 8)) + 3 * rng.standard_normal((1, 8, 1, 1))).astype(np.float32)}
        for _ in range(64)
    ]
    result = lwgraph.optimize(network(), data=data, preset="small", metric="variance", max_drop=0.1, budget=60.0)
    assert list(find_coded(result.model.graph))
    assert ir.size(result.model) < 0.2 * ir.size(network())
