"""Weights in few bits, where bytes are what is asked for: which widths are tried, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
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
from lwgraph.passes.quantize.share_weights import ShareWeights
from lwgraph.plan.plan import Plan
from lwgraph.plan.search.code_widths import Mixtures, Widths
from lwgraph.plan.search.front import Candidate
from lwgraph.report import Check
from lwgraph.rewrite import Context, Pass
from lwgraph.testing import check_role
from tests.passes.quantize.quantize_models import Net


def network() -> ir.Model:
    n = Net(17)
    h = n.input("x", ["batch", 8, 8, 8])
    for index in range(3):
        h = n.op("Relu", n.conv(h, 8 if index == 0 else 32, 32, name=f"conv{index}"))
    return n.model(n.gemm(n.op("Flatten", n.op("GlobalAveragePool", h)), 32, 64, name="head"))


MIXTURES = Mixtures(
    Widths(4, 0.0, 0.1),
    [Widths(2 + at // 40, 70.0 - at, 10.0 ** (-at / 40), {"conv1": 2 + at % 7}) for at in range(0, 101, 4)],
)


def looked_at(
    allowed: float,
    monkeypatch: pytest.MonkeyPatch,
    *,
    found: Mixtures | None = MIXTURES,
    coder: object | None = None,
    bases: Sequence[Candidate] = (Candidate((), 1.0, 0.0, plan=Plan(), bytes=100, stated=True),),
    objective: str = "bytes",
    limit: int | None = None,
    floor: float | None = 0.9,
    left: float = math.inf,
) -> list[Candidate]:
    """The candidates that the stage looks at, with their predicted bytes and losses; the metric loses the square root
    of the predicted loss, of which `allowed` is promised."""
    looked: list[Candidate] = []

    class Few(Candidates):
        def __init__(self) -> None:
            self.request, self.floor = Request(objective=objective, max_bytes=limit), floor
            self.base, self._made, self.incumbent = bases[-1], {}, Incumbent(network())

        @property
        def allowed(self) -> float:
            return allowed

        def made(self, candidate: Candidate, make: Any = None) -> Made | None:
            loss = MIXTURES.reference.loss if not candidate.predicted_loss else candidate.predicted_loss
            looked.append(candidate)
            good = loss**0.5 <= allowed
            size = 100 if not candidate.predicted_loss else candidate.bytes
            known = replace(candidate, accepted=good, judged=1.0 - loss**0.5, bytes=size)
            self._made[candidate.key] = made = Made(known, None)
            if good and self._better(known):
                self.incumbent = Incumbent(network(), candidate=known)
            return made

        def lost(self, candidate: Candidate) -> float | None:
            made = self._made[candidate.key]
            return None if made is None else 1.0 - (made.candidate.judged or 0.0)

    monkeypatch.setattr(codes, "mixtures", lambda *words: found)
    monkeypatch.setattr(Codes, "_bases", lambda stage, work: list(bases))
    if coder is not None:
        monkeypatch.setattr(registry, "role", lambda name, protocol: coder)
    model, context = network(), Context(executor=registry.executor("ort"), failures=Failures())
    candidates = Few()
    work = SimpleNamespace(
        candidates=candidates, context=context, clean=model, float_ms=1.0, layers=4, request=candidates.request,
        clock=SimpleNamespace(spent=0.0, left=left), samples=lambda *words: [],
        making=SimpleNamespace(trunk=lambda plan: SimpleNamespace(model=model)),
    )  # fmt: skip
    Codes().run(work)  # type: ignore[arg-type]
    assert not context.failures.rows
    return looked


@pytest.mark.parametrize("allowed", [0.08, 0.2, 0.5, 1.5])
def test_few_looks_find_the_fewest_bytes_of_the_mixtures(allowed: float, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = looked_at(allowed, monkeypatch)
    first, *others = looked
    assert first.plan is not None and first.plan.precision.passes == ("share-weights",) and len(looked) <= codes.LOOKS
    able = [100 - each.saved for each in MIXTURES.front if each.loss**0.5 <= allowed]
    best = min(each.bytes for each in others if each.predicted_loss**0.5 <= allowed)
    assert best <= 1.09 * min(able)  # neighbours on the ladder differ by so much
    beyond = MIXTURES.reference.loss**0.5 <= allowed
    assert all(each.bytes < 100 if beyond else each.predicted_loss < 0.1 for each in others)


def test_nothing_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = looked_at(0.0001, monkeypatch)
    assert len(looked) <= codes.LOOKS and max(each.bytes for each in looked) == 130


def test_another_base_is_looked_at_where_it_could_be_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the same mixtures; the one just below the best bytes so far loses too much, and that is all."""
    bases = [Candidate((), 1.0, 0.0, name, plan=Plan(target=name), bytes=100, stated=True) for name in ("a", "b")]
    one = looked_at(0.2, monkeypatch, bases=bases[:1])
    looked = looked_at(0.2, monkeypatch, bases=bases)
    assert [each.key for each in looked[: len(one)]] == [each.key for each in one] and len(looked) <= len(one) + 2


@pytest.mark.parametrize(("limit", "sizes"), [(110, [100]), (89, [100, 86])])
def test_a_limit_of_bytes_on_the_way_to_speed(limit: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Four bits where they keep it, else the mixture of least loss that does; fewer bytes are worth nothing."""
    looked = looked_at(0.9, monkeypatch, objective="latency", limit=limit)
    assert [100 if not each.predicted_loss else each.bytes for each in looked] == sizes


def test_where_accuracy_is_not_promised_the_least_loss_within_the_limit_is_sought(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = looked_at(0.0, monkeypatch, limit=120, floor=None)
    assert [each.bytes for each in looked[1:]] == [118]


class Uniform:
    """A plugin whose layers all have the same bits."""

    bits = (8, 6, 4, 2)

    def coded(self, bits: int, spared: Sequence[str] = ()) -> Pass:
        return ShareWeights(bits=bits, ignored_scope=tuple(spared))


@pytest.mark.parametrize(
    "known", [{"coder": Uniform()}, {"found": None}, {"left": 20.0}], ids=["plugin", "nothing measured", "no time"]
)
def test_one_width_for_all_where_nothing_else_is_known(known: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    looked = looked_at(0.2, monkeypatch, **known)
    assert looked and not any("layer_bits" in str(each.plan) for each in looked)


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
