"""Which of the models of a run is kept, with times that are made up."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from lwgraph import ir
from lwgraph.measure.latency import Speedup
from lwgraph.optimizer import timing
from lwgraph.optimizer.timing import Timed, compare_untimed, time_models
from tests.layers.chain import FEEDS, ORT, chain


def timed(
    monkeypatch: pytest.MonkeyPatch,
    ms: Sequence[float],
    sizes: Sequence[int] = (3, 2, 1),
    *,
    stated: bool = False,
    target: str = "ort-cpu",
    spread: float = 0.0,
) -> Timed:
    """What is found of an input, a cleaned model and a result of such times and sizes."""
    models = {name: chain() for name in ("input", "cleaned", "result")}
    known = dict(zip(models, ms, strict=True))

    def paired(runs: Any, *args: Any, **kwargs: Any) -> Any:
        def speedup(name: str) -> Any:
            speed = known["input"] / known[name]
            interval = (speed * (1 - spread), speed * (1 + spread))
            return Speedup(name, speed, interval, speed, *interval, 0.0)

        def fastest(name: str) -> Any:
            return SimpleNamespace(minimum=known[name] / 1e3)

        return SimpleNamespace(speedup=speedup, timing=fastest, apart=False)

    by_model = {id(model): size for model, size in zip(models.values(), sizes, strict=True)}
    facts = timing.facts_of

    def sized(model: ir.Model, *args: Any) -> Any:
        found = facts(model, *args)
        return SimpleNamespace(bytes=by_model[id(model)], macs=found.macs)

    monkeypatch.setattr(timing, "paired_latency", paired)
    monkeypatch.setattr(timing, "facts_of", sized)
    return time_models(models, ORT, [FEEDS], target, 1, lambda *told: None, stated=stated)


def test_what_is_faster_and_smaller_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    found = timed(monkeypatch, (10.0, 9.0, 5.0))
    assert found.kept == "result" and [stage.name for stage in found.stages] == ["input", "cleaned", "result"]
    assert [stage.milliseconds for stage in found.stages] == pytest.approx([10.0, 9.0, 5.0])
    assert found.stages[-1].ratio == pytest.approx(0.5) and found.notes == ()


@pytest.mark.parametrize(
    ("ms", "sizes", "kept", "reasons"),
    [
        ((10.0, 5.0, 6.0), (3, 2, 1), "cleaned", ["the result model is slower than the cleaned model"]),
        ((10.0, 5.0, 5.05), (3, 2, 1), "result", []),  # no more than noise
        ((10.0, 5.0, 4.0), (3, 2, 3), "cleaned", ["the result model is larger than the cleaned model"]),
        (
            (10.0, 12.0, 14.0),
            (3, 2, 1),
            "input",
            ["the result model is slower than the cleaned model", "the cleaned model is slower than the input model"],
        ),
        ((10.0, 12.0, 5.0), (3, 2, 1), "result", []),
    ],
)
def test_what_did_not_help_is_left(
    monkeypatch: pytest.MonkeyPatch, ms: Any, sizes: Any, kept: str, reasons: list[str]
) -> None:
    found = timed(monkeypatch, ms, sizes)
    assert found.kept == kept
    assert list(found.notes) == [f"{reason}, which is kept instead" for reason in reasons]


@pytest.mark.parametrize(("macs", "bytes_", "reason"), [(50, 1009, ""), (50, 1011, "larger"), (100, 1001, "larger")])
def test_what_does_less_work_may_be_a_little_larger(macs: int, bytes_: int, reason: str) -> None:
    """A node that shrinks the image in front of a network is no reason to drop it."""
    old, new = (
        timing.Stage(name, timing.Facts(1, 1, *told)) for name, told in (("a", (1000, 100)), ("b", (bytes_, macs)))
    )
    assert timing._larger(new, old) == reason


def test_what_is_slower_by_less_than_the_spread_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert timed(monkeypatch, (10.0, 5.0, 5.3), spread=0.07).kept == "result"


@pytest.mark.parametrize(("ms", "kept"), [(6.0, "cleaned"), (4.0, "result")])
def test_where_no_speed_is_settled_the_ratio_decides(monkeypatch: pytest.MonkeyPatch, ms: float, kept: str) -> None:
    assert timed(monkeypatch, (10.0, 5.0, ms), spread=0.3).kept == kept


def test_what_was_stated_is_kept_and_its_cost_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = timed(monkeypatch, (10.0, 5.0, 6.0), stated=True)
    assert found.kept == "result"
    assert found.notes == ("the result model is slower than the cleaned model; it is kept, since it was asked for",)


def test_where_work_counts_time_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert timed(monkeypatch, (10.0, 5.0, 60.0), target="macs").kept == "result"


@pytest.mark.parametrize(
    ("predicted", "kept", "words"),
    [
        ((4.0, 2.0), "result", "4.000 ms before, 2.000 ms after"),
        ((2.0, 4.0), "input", "2.000 ms before"),
        ((0.0, 0.0), "result", "prices that were measured there"),
    ],
)
def test_elsewhere_predictions_decide(predicted: tuple[float, float], kept: str, words: str) -> None:
    models = {"input": chain(), "result": chain()}
    found = compare_untimed(models, ORT, [FEEDS], "far", predicted, stated=False)
    assert found.kept == kept and words in found.notes[-1] and "speed on far was not measured here" in found.notes[-1]
    assert all(stage.milliseconds is None for stage in found.stages)
