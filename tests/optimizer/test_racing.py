"""Candidates that lose are dropped before all samples have judged them; those that may keep the promise never."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lwgraph.executor import Feeds, Run
from lwgraph.measure import Metric, Score
from lwgraph.measure.metrics import FunctionMetric
from lwgraph.measure.score import Values
from lwgraph.optimizer.racing import CALIBRATED, OutputRace, SampleRace, open_race

CALLS, ROWS, CLASSES = 100, 20, 5
BATCHES = [{"x": np.random.default_rng(n).standard_normal((ROWS, CLASSES)).astype(np.float32)} for n in range(CALLS)]


def noisy(sigma: float, seed: int = 0) -> Run:
    """The identity and noise, which exchanges classes."""
    rng = np.random.default_rng(seed)
    return lambda feeds: {"y": feeds["x"] + sigma * rng.standard_normal(feeds["x"].shape).astype(np.float32)}


def right(run: Run) -> float:
    """The share of rows whose class is the input's: one number."""
    return float(np.mean([(run(f)["y"].argmax(1) == f["x"].argmax(1)).mean() for f in BATCHES]))


class PerSample(Metric):
    """The same, row by row."""

    name, unit, span, to_original, per_sample = "rows", "share", 1.0, True, True

    def __call__(self, run: Run) -> Score:
        return Score(1.0, samples=np.ones(CALLS * ROWS))

    def values(self, run: Run) -> Any:
        for feeds in BATCHES:
            yield Values((run(feeds)["y"].argmax(1) == feeds["x"].argmax(1)).astype(float))


def counting(run: Run) -> tuple[Run, list[int]]:
    calls: list[int] = []

    def counted(feeds: Feeds) -> Any:
        calls.append(1)
        return run(feeds)

    return counted, calls


def opened(metric: Metric, drop: float = 0.02) -> SampleRace | OutputRace:
    race = open_race(metric)
    base = metric(race.original(noisy(0.0)))
    race.start(base, base.value - drop)
    return race


def calibrated(metric: Callable[..., Any] = right) -> OutputRace:
    """One plan that keeps the promise of 0.02 (about 0.99), and others that lose more."""
    race = opened(FunctionMetric(metric, "right"))
    assert isinstance(race, OutputRace)
    for number, sigma in enumerate((0.005, 0.01, 0.08)[-CALIBRATED:]):
        raced = race.run(noisy(sigma, number + 1))
        assert not raced.dropped and raced.score is not None
    return race


def test_samples_are_raced_where_each_has_a_value() -> None:
    race = opened(PerSample())
    assert isinstance(race, SampleRace)
    run, calls = counting(noisy(1.0))
    raced = race.run(run)
    assert raced.dropped and len(calls) < CALLS / 10
    assert raced.score is not None and raced.score.value < 0.8 and raced.score.count == len(calls) * ROWS
    run, calls = counting(noisy(0.005))
    raced = race.run(run)
    assert not raced.dropped and len(calls) == CALLS and raced.score is not None and raced.score.value > 0.99
    assert race.told().startswith("1 plan was dropped early: with") and "99 % confidence" in race.told()


def test_a_plan_that_is_only_known_to_lose_at_the_end_is_judged_like_any_other() -> None:
    class Late(PerSample):
        def values(self, run: Run) -> Any:
            yield Values(np.ones(CALLS * ROWS - 200))
            yield Values(np.zeros(200))

    race = opened(Late())
    assert not race.run(noisy(0.0)).dropped and race.told() == ""


def test_outputs_are_raced_once_plans_that_were_judged_in_full_say_how_far_is_too_far() -> None:
    fresh = opened(FunctionMetric(right, "right"))
    run, calls = counting(noisy(1.0))
    assert not fresh.run(run).dropped and len(calls) == CALLS  # nothing to compare with

    race = calibrated()
    run, calls = counting(noisy(0.3))
    raced = race.run(run)
    assert raced.dropped and raced.score is None and len(calls) < CALLS / 4
    assert "distances calibrated on 3 plans" in race.told() and "metric 'right'" in race.told()
    for sigma in (0.005, 0.08, 0.085):  # good; as bad as what was judged, and hardly worse
        run, calls = counting(noisy(sigma, 9))
        assert not race.run(run).dropped and len(calls) == CALLS


def test_a_metric_that_catches_everything_does_not_hide_that_a_plan_was_dropped() -> None:
    def stubborn(run: Run) -> float:
        found = []
        for feeds in BATCHES:
            try:
                found.append((run(feeds)["y"].argmax(1) == feeds["x"].argmax(1)).mean())
            except BaseException:
                continue
        return float(np.mean(found))

    assert calibrated(stubborn).run(noisy(0.3)).dropped


def test_what_is_asked_in_another_order_is_not_compared() -> None:
    asked = [0]

    def turning(run: Run) -> float:
        asked[0] += 1
        order = BATCHES if asked[0] < 5 else BATCHES[::-1]
        return float(np.mean([(run(f)["y"].argmax(1) == f["x"].argmax(1)).mean() for f in order]))

    race = calibrated(turning)
    run, calls = counting(noisy(0.3))
    assert not race.run(run).dropped and len(calls) == CALLS


def test_distances_that_do_not_tell_good_from_bad_drop_nothing() -> None:
    """A good plan that is farther than every bad one: the distance says nothing of this metric."""
    scores = iter([1.0, 0.5, 0.5, 1.0, 0.9])

    def odd(run: Run) -> float:
        for feeds in BATCHES:
            run(feeds)
        return next(scores)

    race = opened(FunctionMetric(odd, "odd"))
    for sigma in (0.01, 0.02, 0.1):
        assert not race.run(noisy(sigma)).dropped
    assert not race.run(noisy(1.0)).dropped


def test_integers_have_no_distance() -> None:
    def count(run: Run) -> float:
        return float(sum(run(f)["y"].sum() for f in BATCHES))

    race = opened(FunctionMetric(count, "count"))
    for _ in range(4):
        assert not race.run(lambda feeds: {"y": (feeds["x"] > 0).astype(np.int64)}).dropped


@pytest.mark.parametrize("shapes", [[(4, 20, 3)], [(20, 3), (7,)]])
def test_outputs_without_an_axis_of_samples_have_one_distance(shapes: list[tuple[int, ...]]) -> None:
    def whole(run: Run) -> float:
        return float(sum(next(iter(run(f).values())).mean() for f in BATCHES))

    def outputs(scale: float) -> Run:
        fixed = [np.random.default_rng(i).standard_normal(s) for i, s in enumerate(shapes)]
        return lambda feeds: {f"y{i}": scale * array for i, array in enumerate(fixed)}

    race = OutputRace(FunctionMetric(whole, "whole"))
    base = race.metric(race.original(outputs(1.0)))
    race.start(base, base.value)
    race.run(outputs(0.5))
    assert len(race._judged[0][0]) == CALLS
