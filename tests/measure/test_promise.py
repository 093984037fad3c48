"""Verdicts on a promise: each of the three, what they say, and what judges nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lwgraph.measure.evidence import Disagreements, Mean, OneNumber, Pairs, Resampled
from lwgraph.measure.promise import (
    BROKEN,
    EXIT,
    KEPT,
    LEAST_DEPENDENCE,
    OPEN,
    amount,
    count_kept,
    degenerate,
    dependence,
    judge,
    judges_nothing,
    least_dependence,
    samples_needed,
    unchanged,
    worst,
)


def test_enough_samples_keep_a_promise() -> None:
    found = judge(Disagreements(4, 2000), 0.01)
    assert (found.verdict, found.samples, found.samples_needed) == (KEPT, 2000, None)
    assert found.estimate == 0.002 and 0.002 < found.bound <= 0.01 and 0 < found.lower < 0.002
    assert found.text == (
        "with 95 % confidence, at most 0.46 points lost on new inputs (1 allowed); "
        "the best estimate from 2,000 samples is 0.2"
    )


def test_a_promise_is_broken_where_even_the_lower_bound_is_outside() -> None:
    found = judge(Pairs(100, 20, 2000), 0.01)
    assert found.verdict == BROKEN and found.lower > 0.01 and found.samples_needed is None
    assert "at least 2.5 points lost" in found.text and "1 allowed" in found.text


def test_few_samples_resolve_nothing_and_say_how_many_would() -> None:
    found = judge(Disagreements(0, 32), 0.01)
    assert found.verdict == OPEN and found.bound == pytest.approx(0.0894, abs=1e-4)
    assert found.samples_needed == 300  # the rule of three
    assert found.text == "32 samples cannot show 1 point; about 300 would; the best estimate is 0"
    assert judge(Disagreements(7, 128), 0.05).verdict == OPEN


def test_the_samples_needed_resolve_it_and_half_as_many_do_not() -> None:
    for evidence, allowed in ((Disagreements(2, 512), 0.01), (Disagreements(4, 256), 0.01), (Mean(0.2, 1.0, 30), 0.5)):
        needed = samples_needed(evidence, allowed, 0.05)
        assert judge(evidence, allowed).verdict == OPEN
        assert judge(evidence.scaled(needed), allowed).verdict != OPEN
        assert judge(evidence.scaled(needed // 2), allowed).verdict == OPEN


def test_a_loss_of_exactly_the_promise_is_never_resolved() -> None:
    found = judge(Disagreements(5, 500), 0.01)
    assert found.verdict == OPEN and found.samples_needed is None and "it would take more than 1,000,000" in found.text


def test_one_number_never_shows_that_a_promise_is_kept() -> None:
    found = judge(OneNumber(0.002), 0.01, unit="")
    assert found.verdict == OPEN and found.bound is None and found.samples_needed is None
    assert found.text.startswith("0.002 lost, 0.01 allowed; the metric is one number, of which no interval can be")
    assert "takes samples=, has one" in found.text
    assert judge(OneNumber(0.02), 0.01, unit="").verdict == BROKEN


def test_what_gives_no_interval_says_what_would() -> None:
    few = judge(Resampled.of(lambda at: float(at.mean()), 19), 10.0, unit="")
    assert few.text == "19 samples give no interval, 20 or more would, so 10 cannot be shown; the best estimate is 9"
    alike = judge(Mean(0.2, 0.0, 30), 0.5, unit="dB")
    assert alike.text == "all 30 samples lose the same, so 0.5 dB cannot be shown; the best estimate is 0.2"


def test_a_promise_on_several_things_is_kept_where_each_is() -> None:
    assert worst((KEPT, ""), (OPEN, "a"), (KEPT, "")) == (OPEN, "a")
    assert worst((OPEN, "a"), (BROKEN, "b")) == (BROKEN, "b") and worst((KEPT, "c"), (KEPT, "d")) == (KEPT, "c")


def test_more_looks_and_more_confidence_ask_for_more_samples() -> None:
    evidence = Disagreements(0, 350)
    assert judge(evidence, 0.01).verdict == KEPT
    assert judge(evidence, 0.01, looks=5).verdict == OPEN
    assert judge(evidence, 0.01, confidence=0.99).verdict == OPEN
    assert judge(evidence, 0.01, looks=5).bound == judge(evidence, 0.01, confidence=0.99).bound


def test_kept_is_false_in_at_most_one_of_twenty_with_many_looks() -> None:
    """Twenty plans that lose just too much; the one that looks best is judged on the samples that chose it."""
    rng, false, uncorrected = np.random.default_rng(0), 0, 0
    for _ in range(400):
        best = int(rng.binomial(1000, 0.0101, 20).min())
        false += judge(Disagreements(best, 1000), 0.01, looks=20).verdict == KEPT
        uncorrected += judge(Disagreements(best, 1000), 0.01).verdict == KEPT
    assert false <= 0.065 * 400 < uncorrected


def test_a_walk_along_the_front_is_wrong_in_at_most_one_of_twenty() -> None:
    rng, wrong = np.random.default_rng(1), 0
    true = (0.001, 0.003, 0.011, 0.012, 0.02)
    for _ in range(400):
        counts = [int(rng.binomial(1000, share)) for share in true]
        wrong += count_kept([lambda c=c: Disagreements(c, 1000) for c in counts], 0.01) > 2
    assert wrong <= 0.065 * 400


def test_a_walk_ends_at_the_first_that_is_not_kept() -> None:
    seen: list[int] = []

    def evidence(count: int) -> Disagreements:
        seen.append(count)
        return Disagreements(count, 1000)

    assert count_kept([lambda c=c: evidence(c) for c in (0, 2, 30, 0)], 0.01) == 2
    assert seen == [0, 2, 30]
    assert count_kept([], 0.01) == 0


def test_what_is_unchanged_loses_nothing() -> None:
    found = unchanged()
    assert (found.verdict, found.bound, found.estimate) == (KEPT, 0.0, 0.0)


@pytest.mark.parametrize(
    ("outputs", "classes", "reason"),
    [
        (np.zeros((0, 3)), None, "there are none"),
        (np.eye(3)[:1], None, "one alone cannot show"),
        (np.ones((20, 3)), None, "the original's outputs are the same"),
        (np.random.default_rng(0).normal(size=(20, 3)), np.full(20, 2), "all of them are of one class"),
        (np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 3, ""),
        (np.random.default_rng(0).normal(size=(20, 3)), None, ""),
    ],
)
def test_degenerate_samples(outputs: np.ndarray, classes: np.ndarray | None, reason: str) -> None:
    assert degenerate(outputs, classes).startswith(reason) and bool(degenerate(outputs, classes)) == bool(reason)


def test_one_class_is_too_many_of_it_for_the_promise() -> None:
    outputs, classes = np.random.default_rng(0).normal(size=(100, 3)), np.array([2] * 97 + [0, 1, 1])
    assert degenerate(outputs, classes, 0.02) == ""
    assert degenerate(outputs, classes, 0.03).startswith("all but 3 of them are of one class")


def test_degenerate_samples_judge_nothing_whatever_the_estimate() -> None:
    found = judges_nothing("all of them are of one class", 0.0, 96)
    assert found.verdict == OPEN and found.bound is None
    assert found.text == "the 96 samples cannot judge anything: all of them are of one class"


def test_dependence_counts_what_follows_the_input() -> None:
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(200, 10)) + 50 * np.arange(10)
    noise = rng.normal(size=(200, 10))
    assert dependence(outputs, outputs) == pytest.approx(1)
    assert dependence(outputs, outputs + noise) == pytest.approx(math.sqrt(0.5), abs=0.03)
    assert dependence(outputs, np.broadcast_to(outputs.mean(0), outputs.shape)) == 0  # near, but the same for all
    assert abs(dependence(outputs, outputs[::-1])) < 0.1
    assert dependence(np.ones((5, 2)), noise[:5, :2]) == 1.0  # nothing to depend on


def test_how_much_dependence_a_promise_asks_for() -> None:
    assert least_dependence(0.01) == LEAST_DEPENDENCE == pytest.approx(0.707, abs=1e-3)
    assert least_dependence(0.5) == 0.5 and least_dependence(60.0, "dB") == LEAST_DEPENDENCE


def test_exit_codes_and_amounts() -> None:
    assert (EXIT[KEPT], EXIT[BROKEN], EXIT[OPEN]) == (0, 1, 3)
    assert amount(0.01, "share") == "1 point" and amount(0.005, "share") == "0.5 points"
    assert (
        amount(60.0, "dB") == "60 dB"
        and amount(-0.00001, "share") == "-0.001 points"
        and amount(1.0, "share") == "100 points"
    )
