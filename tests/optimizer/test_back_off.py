"""Backing off along the front, with a maker and a judge of plain numbers."""

from dataclasses import replace

import pytest

from lwgraph.optimizer.back_off import apart, back_off
from lwgraph.optimizer.request import Request
from lwgraph.plan.search.front import Candidate, Front
from tests.optimizer.plain_numbers import BASE, CLEAN, Fake, front, quantized


def run(fake, request=None, ladder=None, first=()):
    """The candidates after the first ones and those of a ladder."""
    candidates = fake.candidates(request)
    for candidate in first:
        candidates.look(candidate)
    back_off(ladder or front(len(fake.scores)), candidates, fake.make)
    candidates.settle()
    return candidates


@pytest.mark.parametrize("first", range(9))
def test_the_first_good_plan_is_found_in_few_looks(first):
    fake = Fake([0.8] * first + [0.95] * (9 - first))
    outcome = run(fake).incumbent
    assert outcome.model == first and fake.looks <= 5  # one more than a bisection, where all or nothing is lost
    assert outcome.candidate.accepted and outcome.candidate.judged == 0.95
    assert outcome.plan.ms == (BASE, 10.0 * (first + 1))


def test_nothing_good_leaves_the_model():
    candidates = run(Fake([0.1] * 5))
    outcome = candidates.incumbent
    assert outcome.model == CLEAN and outcome.plan.empty and outcome.candidate is None
    assert any(made.candidate.accepted is False for made in candidates.all())


def test_of_those_that_keep_the_promise_the_one_measured_fastest_stands():
    fake = Fake([0.8, 0.95, 0.95, 0.95, 0.95], measured={1: 50.0, 2: 5.0})
    assert run(fake).incumbent.model == 2


def test_the_result_is_never_slower_than_a_good_plan_that_was_looked_at_before():
    ladder = front(4)
    fake = Fake([0.8, 0.8, 0.8, 0.95], {"all": 30.0, "most": 20.0}, {"all": 0.95, "most": 0.95})
    candidates = run(fake, ladder=ladder, first=quantized("all", "most"))
    outcome = candidates.incumbent
    assert outcome.model == "most" and outcome.plan.precision.passes == ("most",)
    assert outcome.plan.ms == (BASE, 25.0) and outcome.candidate.accepted
    searched = [made.candidate for made in candidates.all() if not made.candidate.stated]
    assert candidates.known(ladder.candidates[3]).judged is None  # 40 ms promise nothing where 20 are had
    assert len(searched) == 1


def test_a_searched_plan_stands_where_it_is_faster_than_one_that_was_looked_at_before():
    fake = Fake([0.8, 0.95, 0.95, 0.95], {"all": 30.0}, {"all": 0.95})
    assert run(fake, ladder=front(4), first=quantized("all")).incumbent.model == 1


def test_of_plans_that_hardly_differ_the_one_that_loses_least_is_looked_at():
    times = [10.0, 10.2, 10.25, 11.0, 11.1, 14.0]
    rows = [Candidate((i,), ms, 0.0, loss=1 / (i + 1)) for i, ms in enumerate(times)]
    assert [c.choice[0] for c in apart(rows, "latency")] == [2, 4, 5]
    assert apart([], "latency") == []


def test_a_nan_is_not_accepted():
    assert run(Fake([float("nan")] * 4)).incumbent.model == CLEAN


def test_speed_without_accuracy_gives_the_plan_that_loses_least():
    fake = Fake([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert run(fake, Request(speedup=2.0)).incumbent.model == 4
    assert fake.looks == 1  # 50 ms is twice as fast as 100
    slow = Fake([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], measured={4: 70.0})
    assert run(slow, Request(speedup=2.0)).incumbent.model == 3  # what counts is the measured time


def test_both_promises_hold_or_the_nearest_plan_comes_back():
    fake = Fake([0.8, 0.95, 0.95, 0.95], stated=True)
    assert run(fake, Request(speedup=4.0, max_drop=0.1)).incumbent.model == 1
    out_of_reach = Fake([0.8, 0.8, 0.95, 0.95], stated=True)
    outcome = run(out_of_reach, Request(speedup=8.0, max_drop=0.1)).incumbent
    assert outcome.model == 2 and not Request(speedup=8.0).allows(outcome.candidate.measured_ms, BASE, 0, 0)


def test_size_limits_which_plans_are_looked_at():
    ladder = Front(BASE, [replace(c, bytes=7000 - c.bytes) for c in front(6).candidates])
    outcome = run(Fake([0.95] * 6, stated=True), Request(max_bytes=3000, max_drop=0.1), ladder).incumbent
    assert outcome.model >= 3 and outcome.candidate.bytes <= 3000
