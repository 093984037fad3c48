"""Backing off along the front, with a planner and a judge of plain numbers."""

from dataclasses import replace

import pytest
from lwgraph.optimizer.backoff import apart, back_off
from lwgraph.optimizer.bench import DOUBT, Bench, Made
from lwgraph.optimizer.goal import Goal, parse_amount, parse_seconds

from lwgraph.errors import UsageError
from lwgraph.plan.plan import Plan, Precision
from lwgraph.plan.search.front import Candidate, Front
from lwgraph.rewrite.base import Context

BASE = 100.0


class Fake:
    """A planner whose models are their choices; plan i takes 10 (i + 1) ms and scores `scores[i]`."""

    def __init__(self, scores, measured=None):
        self.looks, self.stated = 0, False
        self.scores, self.measured = scores, measured or {}
        self.floor = 0.9

    def make(self, candidate):
        if candidate.stated:
            return Made(candidate, candidate.plan.precision.passes[0])
        number = candidate.choice[0]
        return Made(replace(candidate, plan=Plan({}, f"plan {number}")), number)

    def bench(self, goal=None, race=None):
        return Bench(self.make, self, goal or Goal(), self.milliseconds, race, base_ms=BASE, context=Context())

    def value(self, model):
        self.looks += 1
        return self.scores[model] if isinstance(model, int) else self.others[model]

    def milliseconds(self, model):
        return self.measured[model] if model in self.measured else 10.0 * (model + 1)


def front(count):
    rows = [Candidate((i,), 10.0 * (i + 1), 0.0, loss=1 / (i + 1), bytes=1000 * (i + 1)) for i in range(count)]
    return Front(BASE, rows)


def run(fake, goal=None, count=None, obvious=(), resorts=()):
    ladder = front(count or len(fake.scores))
    return finish(ladder, fake, goal or Goal(), obvious, resorts)


def finish(ladder, fake, goal, obvious=(), resorts=()):
    bench = fake.bench(goal)
    bench.look_first(obvious, resorts)
    return back_off(ladder, bench, "clean")


def quantized(*names):
    plans = [Plan({}, "t", precision=Precision((name,))) for name in names]
    return [Candidate((9,), 25.0, 0.1, "quantized", plan=plan, stated=True) for plan in plans]


@pytest.mark.parametrize("first", range(9))
def test_the_first_good_plan_is_found_in_few_looks(first):
    fake = Fake([0.8] * first + [0.95] * (9 - first))
    outcome = run(fake)
    assert outcome.model == (first if first < 9 else "clean") and fake.looks <= 4
    assert outcome.candidate.accepted and outcome.candidate.judged == 0.95
    assert outcome.plan.ms == (BASE, 10.0 * (first + 1))
    judged = [c for c in outcome.front.candidates if c.judged is not None]
    assert len(judged) == fake.looks and len(outcome.front.candidates) == 9


def test_nothing_good_leaves_the_model():
    outcome = run(Fake([0.1] * 5))
    assert outcome.model == "clean" and outcome.plan.empty and outcome.candidate is None
    assert any(c.accepted is False for c in outcome.front.candidates)


def test_of_those_that_keep_the_promise_the_one_measured_fastest_stands():
    fake = Fake([0.8, 0.95, 0.95, 0.95, 0.95], measured={1: 50.0, 2: 5.0})
    assert run(fake).model == 2


def test_the_result_is_never_slower_than_a_good_obvious_plan():
    fake = Fake([0.8, 0.8, 0.8, 0.95], measured={"all": 30.0, "most": 20.0})
    fake.others = {"all": 0.95, "most": 0.95}
    outcome = run(fake, obvious=quantized("all", "most"), resorts=quantized("slow"))
    assert outcome.model == "most" and outcome.plan.precision.passes == ("most",)
    assert outcome.plan.ms == (BASE, 25.0) and outcome.candidate.accepted
    assert [c.judged for c in outcome.front.candidates if c.stated] == [0.95, 0.95]  # "slow" was not needed
    searched = [c for c in outcome.front.candidates if not c.stated]
    assert searched[3].judged is None  # 40 ms promise nothing where 20 are had
    assert sum(c.judged is not None for c in searched) == 1


def test_a_searched_plan_stands_where_it_is_faster_than_the_obvious_one():
    fake = Fake([0.8, 0.95, 0.95, 0.95], measured={"all": 30.0})
    fake.others = {"all": 0.95}
    assert run(fake, obvious=quantized("all"), resorts=quantized("slow")).model == 1


def test_plans_that_were_timed_alike_are_raced():
    fake = Fake([0.8, 0.95, 0.95, 0.95], measured={1: 20.0, 2: 22.0, 3: 60.0})
    raced = []

    def race(models):
        raced.append(list(models))
        return [5.0 - model for model in models]

    bench = fake.bench(race=race)
    for candidate in front(4).candidates:
        bench.look(candidate)
    assert back_off(front(4), bench, "clean").model == 2 and raced == [[1, 2]]
    assert back_off(front(4), fake.bench(), "clean").model == 1
    single = Fake([0.95])
    assert back_off(front(1), single.bench(race=race), "clean").model == 0 and len(raced) == 1


def test_what_is_worth_a_look_follows_from_the_best_that_is_known():
    fake = Fake([0.95] * 3)
    fake.others = {}
    for goal, most in ((Goal(), DOUBT * 10.0), (Goal(speedup=2.0), float("inf"))):
        bench = fake.bench(goal)
        assert bench.most == float("inf")
        for candidate in front(3).candidates:
            bench.look(candidate)
        assert bench.most == pytest.approx(most)


def test_of_plans_that_hardly_differ_the_one_that_loses_least_is_looked_at():
    times = [10.0, 10.2, 10.25, 11.0, 11.1, 14.0]
    rows = [Candidate((i,), ms, 0.0, loss=1 / (i + 1)) for i, ms in enumerate(times)]
    assert [c.choice[0] for c in apart(rows, "latency")] == [2, 4, 5]
    assert apart([], "latency") == []


def test_the_last_resort_is_looked_at_where_the_other_obvious_plans_fail():
    fake = Fake([0.8] * 4, measured={"all": 5.0, "slow": 60.0})
    fake.others = {"all": 0.8, "slow": 0.95}
    outcome = run(fake, obvious=quantized("all"), resorts=quantized("slow"))
    assert outcome.model == "slow" and outcome.candidate.plan.precision.passes == ("slow",)


def test_a_nan_is_not_accepted():
    assert run(Fake([float("nan")] * 4)).model == "clean"


def test_speed_without_accuracy_gives_the_plan_that_loses_least():
    fake = Fake([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    outcome = run(fake, Goal(speedup=2.0))
    assert outcome.model == 4 and fake.looks == 1  # 50 ms is twice as fast as 100
    slow = Fake([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], measured={4: 70.0})
    assert run(slow, Goal(speedup=2.0)).model == 3  # what counts is the measured time


def test_both_promises_hold_or_the_nearest_plan_comes_back():
    fake = Fake([0.8, 0.95, 0.95, 0.95])
    fake.stated = True
    assert run(fake, Goal(speedup=4.0, max_drop=0.1)).model == 1
    out_of_reach = Fake([0.8, 0.8, 0.95, 0.95])
    out_of_reach.stated = True
    outcome = run(out_of_reach, Goal(speedup=8.0, max_drop=0.1))
    assert outcome.model == 2 and not Goal(speedup=8.0).allows(outcome.candidate.measured_ms, BASE, 0, 0)


def test_size_limits_which_plans_are_looked_at():
    fake = Fake([0.95] * 6)
    big_first = front(6)
    big_first.candidates = [c.__class__(**{**c.__dict__, "bytes": 7000 - c.bytes}) for c in big_first.candidates]
    outcome = finish(big_first, fake, Goal(max_bytes=3000, max_drop=0.1))
    assert outcome.model >= 3 and outcome.candidate.bytes <= 3000


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), (3.0, 3), ("2 min", 120)]
)
def test_budgets(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(("text", "amount"), [("1500000", 1.5e6), ("1.5M", 1.5e6), ("600kB", 6e5), ("2MiB", 1 << 21)])
def test_amounts(text, amount):
    assert parse_amount(text, "--max-bytes") == amount


@pytest.mark.parametrize("wrong", ["soon", "10x", "-1s", ""])
def test_a_wrong_budget_or_amount_is_one_line(wrong):
    with pytest.raises(UsageError, match="--budget"):
        parse_seconds(wrong)
    with pytest.raises(UsageError, match="--max-macs"):
        parse_amount(wrong, "--max-macs")


@pytest.mark.parametrize(
    "options",
    [
        {"max_latency": 0},
        {"max_bytes": -1},
        {"max_macs": float("nan")},
        {"objective": "speed"},
        {"budget": float("inf")},
    ],
)
def test_goals_out_of_range(options):
    with pytest.raises(UsageError, match="--" + next(iter(options)).replace("_", "-")):
        Goal(**options)
