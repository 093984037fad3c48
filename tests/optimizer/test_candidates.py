"""Candidates are looked at once each; the best that is proved stands."""

from dataclasses import replace

import pytest

from lwgraph.errors import ModelError
from lwgraph.measure import Score
from lwgraph.optimizer.back_off import back_off
from lwgraph.optimizer.candidates import DOUBT, Made
from lwgraph.optimizer.racing import Raced
from lwgraph.optimizer.request import Request
from lwgraph.plan.search.front import Candidate
from tests.optimizer.plain_numbers import BASE, CLEAN, Fake, front, quantized


def look(fake, request=None, count=0, **options):
    """The candidates after a look at the first of a front."""
    candidates = fake.candidates(request, **options)
    for candidate in front(count or len(fake.scores)).candidates:
        candidates.look(candidate, fake.make)
    return candidates


def test_each_is_looked_at_once():
    fake = Fake([0.95] * 3)
    candidates = look(fake)
    assert candidates.look(front(1).candidates[0], fake.make) and fake.looks == 3


def test_one_that_lost_its_race_is_out_whatever_is_known_of_its_score(monkeypatch):
    fake = Fake([0.95, 0.95, 0.95])
    raced = {0: Raced(Score(0.91), True), 1: Raced(None, True), 2: Raced(Score(0.95))}
    monkeypatch.setattr(fake, "raced", raced.get)
    candidates = look(fake)
    assert [made.candidate.accepted for made in candidates.all()] == [False, False, True]
    assert [made.candidate.judged for made in candidates.all()] == [0.91, None, 0.95]
    assert candidates.incumbent.model == 2


def test_a_plan_that_changes_nothing_is_none():
    fake = Fake([1.0])
    candidates = fake.candidates(changes=lambda model: model != 0)
    assert not candidates.look(front(1).candidates[0], fake.make)
    assert candidates.incumbent.model == CLEAN and not candidates.good() and fake.looks == 0


def test_plans_that_were_timed_alike_are_raced():
    fake = Fake([0.8, 0.95, 0.95, 0.95], measured={1: 20.0, 2: 22.0, 3: 60.0})
    raced = []

    def race(models):
        raced.append(list(models))
        return [5.0 - model for model in models]

    candidates = look(fake, race=race)
    back_off(front(4), candidates, fake.make)
    assert candidates.incumbent.model == 1
    candidates.settle()
    assert candidates.incumbent.model == 2 and raced == [[1, 2]]
    alone = look(fake)
    alone.settle()
    assert alone.incumbent.model == 1
    single = look(Fake([0.95]), race=race)
    single.settle()
    assert single.incumbent.model == 0 and len(raced) == 1


def test_a_winner_of_the_race_that_is_not_proved_leaves_the_next():
    fake = Fake([0.95] * 2, measured={0: 20.0, 1: 22.0})
    fake.refused = {1}
    candidates = look(fake, race=lambda models: [2.0, 1.0])
    candidates.settle()
    assert candidates.incumbent.model == 0


def test_what_is_worth_a_look_follows_from_the_best_that_is_known():
    for request, most in ((Request(), DOUBT * 10.0), (Request(speedup=2.0), float("inf"))):
        fake = Fake([0.95] * 3)
        assert fake.candidates(request).most == float("inf")
        assert look(fake, request).most == pytest.approx(most)


def test_what_is_slower_than_the_cleaned_model_does_not_stand():
    candidates = look(Fake([0.95], measured={0: 101.0}))
    assert candidates.incumbent.model == CLEAN and candidates.good()
    assert look(Fake([0.95], measured={0: 99.0})).incumbent.model == 0


def test_where_no_plan_keeps_a_limit_the_nearest_stands():
    slow = {0: 90.0, 1: 80.0, 2: 120.0}
    assert look(Fake([0.95] * 3, slow), Request(speedup=2.0)).incumbent.model == 1
    assert look(Fake([0.95], {0: 120.0}), Request(speedup=2.0)).incumbent.model == CLEAN
    small = look(Fake([0.95] * 3, slow, stated=True), Request(max_bytes=500, max_drop=0.1))
    assert small.incumbent.model == 0  # of 1,000 bytes, though another is faster


def test_what_keeps_the_limits_wins_over_what_does_not():
    fake = Fake([0.95] * 2, {0: 20.0, 1: 40.0}, stated=True)
    candidates = fake.candidates(Request(max_bytes=1000, max_drop=0.1))
    larger, smaller = replace(front(1).candidates[0], bytes=2000), replace(front(2).candidates[1], bytes=900)
    assert candidates.look(larger, fake.make) and candidates.incumbent.model == 0
    assert candidates.look(smaller, fake.make) and candidates.incumbent.model == 1
    assert candidates.look(replace(larger, choice=(0, 1)), fake.make) and candidates.incumbent.model == 1


def test_one_that_fails_its_proof_does_not_stand():
    fake = Fake([0.95] * 2)
    fake.refused = {0}
    candidates = look(fake)
    assert candidates.incumbent.model == 1 and [made.model for made in candidates.good()] == [1]
    assert candidates.incumbent.checks[0].ok


def test_one_that_cannot_be_made_judged_or_proved_is_told_once_and_left_out(monkeypatch):
    fake = Fake([0.95] * 4)
    told = {0: "make", 1: "judge", 2: "prove"}

    def fails(step, does):
        def tried(what):
            number = what.choice[0] if isinstance(what, Candidate) else what
            if told.get(number) == step:
                raise (ModelError, MemoryError, ValueError)[number](f"plan {number}")
            return does(what)

        return tried

    for name, step in (("make", "make"), ("score", "judge"), ("prove", "prove")):
        monkeypatch.setattr(fake, name, fails(step, getattr(fake, name)))
    candidates = look(fake)
    look_again = [candidates.look(candidate, fake.make) for candidate in front(4).candidates]
    assert look_again == [False, False, False, True] and candidates.incumbent.model == 3
    failures = fake.context.failures.rows
    assert [(f.step, f.reason.split(";")[0]) for f in failures] == [
        ("solver: a plan", "plan 0"),
        ("solver: a plan", "out of memory: plan 1"),
        ("solver: the proof of a plan", "ValueError: plan 2"),
    ]


def test_a_strict_run_ends_with_the_error():
    fake = Fake([0.95])
    fake.context.failures.strict = True
    candidates = fake.candidates()

    def make(candidate: Candidate) -> Made:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        candidates.look(front(1).candidates[0], make)
    assert candidates.incumbent.model == CLEAN


def test_what_interrupts_a_look_leaves_the_incumbent():
    fake = Fake([0.95] * 2)
    candidates = look(fake, count=1)

    def make(candidate: Candidate) -> Made:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        candidates.look(front(2).candidates[1], make)
    assert candidates.incumbent.model == 0 and len(candidates.all()) == 1


def test_predictions_decide_where_nothing_is_timed():
    candidates = look(Fake([0.8, 0.95, 0.95]), timed=False)
    assert candidates.incumbent.model == 1 and candidates.incumbent.candidate.measured_ms is None


def test_the_moments_tell_when_the_incumbent_changed():
    fake = Fake([0.95] * 3, measured={0: 50.0, 1: 20.0, 2: 30.0})
    moments = look(fake).moments
    assert [(m.origin, m.milliseconds, m.score) for m in moments] == [
        ("cleaned", BASE, 1.0),
        ("solver", 50.0, 0.95),
        ("solver", 20.0, 0.95),
    ]


def test_stated_plans_are_told_apart_by_what_they_say():
    fake = Fake([], {"all": 30.0, "most": 20.0}, {"all": 0.95, "most": 0.95})
    candidates = fake.candidates()
    for candidate in quantized("all", "most", "all"):
        assert candidates.look(candidate)
    assert fake.looks == 2 and candidates.incumbent.model == "most"
