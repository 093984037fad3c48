"""Paired latency, on a clock that the runs themselves move."""

from __future__ import annotations

import gc
import re
import time
from pathlib import Path

import numpy as np
import pytest

import lwgraph
from lwgraph.measure import latency
from lwgraph.measure.latency import paired_latency, shortest

FEEDS = [{"x": np.zeros(1)}]


class Machine:
    """A clock; runs advance it by their cost times the machine's present slowness."""

    def __init__(self, slowness=lambda now, count: 1.0):
        self.now, self.count, self.slowness, self.log = 0.0, 0, slowness, []

    def clock(self):
        return self.now

    def run(self, name, seconds):
        def call(feeds):
            self.log.append(name)
            self.count += 1
            self.now += seconds * self.slowness(self.now, self.count)
            return {}

        return call


def measure(machine, costs, **options):
    runs = {n: machine.run(n, s) for n, s in costs.items()}
    return paired_latency(runs, FEEDS, **{"clock": machine.clock, "worked": None, "processors": None, **options})


def test_times_and_ratios():
    found = measure(Machine(), {"a": 0.02, "b": 0.01}, threads=3)
    assert found.timing("a").median == pytest.approx(0.02)
    assert found.timing("b").minimum == pytest.approx(0.01)
    assert found.speedup("b").median == pytest.approx(2)
    assert found.speedup("b").ratio == pytest.approx(2)
    assert found.speedup("b").median - found.speedup("b").error > 1
    assert found.speedup("a").median == 1
    assert found.rounds == 7
    assert found.threads == 3


def test_drift_cancels_in_the_ratio():
    found = measure(Machine(lambda now, count: 1 + now), {"a": 0.012, "b": 0.01}, rounds=40)
    assert found.speedup("b").median == pytest.approx(1.2, rel=0.02)
    assert found.timing("a").high > 1.2 * found.timing("a").low  # while the times themselves do not settle


def test_disturbances_are_outvoted_and_cannot_shorten_the_minimum():
    rng = np.random.default_rng(0)
    noisy = Machine(lambda now, count: 10.0 if rng.random() < 0.2 else 1.0)
    found = measure(noisy, {"a": 0.01, "b": 0.01}, seconds=3)
    assert found.speedup("b").median == pytest.approx(1, abs=0.02)
    assert found.speedup("b").ratio == pytest.approx(1)
    assert found.speedup("b").median - found.speedup("b").error <= 1


def test_the_order_turns_and_short_runs_are_repeated():
    machine = Machine()
    measure(machine, {"a": 0.01, "b": 0.01, "c": 0.01}, rounds=3)
    assert "".join(machine.log[9:]) == "abcbcacab"
    machine = Machine()
    measure(machine, {"a": 1e-4, "b": 0.01}, rounds=1)
    assert machine.log[6:].count("a") == pytest.approx(20, abs=1)
    assert machine.log[6:].count("b") == 1


def test_rounds_adapt_to_the_noise_within_the_time_limit():
    rng = np.random.default_rng(0)
    noisy = Machine(lambda now, count: rng.lognormal(0, 0.3))
    some = measure(noisy, {"a": 0.01, "b": 0.01}, seconds=1)
    assert 20 < some.rounds <= 60
    assert some.speedup("b").error > 0
    assert measure(noisy, {"a": 0.01, "b": 0.01}, rounds=5).rounds == 5


def test_feeds_take_turns_and_are_the_same_for_all_models_of_a_round():
    seen = {"a": [], "b": []}
    machine = Machine()

    def run(name):
        def call(feeds):
            seen[name].append(int(feeds["x"]))
            machine.now += 0.01
            return {}

        return call

    paired_latency({n: run(n) for n in seen}, [{"x": np.array(k)} for k in range(3)], rounds=6, clock=machine.clock)
    assert seen["a"][3:] == seen["b"][3:] == [0, 1, 2, 0, 1, 2]


def test_garbage_collection_is_off_and_comes_back():
    def failing(feeds):
        assert not gc.isenabled()
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        paired_latency({"a": failing}, FEEDS)
    assert gc.isenabled()


def test_nothing_to_measure():
    with pytest.raises(ValueError, match="at least one"):
        paired_latency({}, FEEDS)


class Shared(Machine):
    """A machine whose processor other work takes for a part of the time, in slices of so many seconds."""

    def __init__(self, slice_seconds):
        super().__init__()
        self.slice, self.done = slice_seconds, 0.0

    def run(self, name, seconds):
        def call(feeds):
            turns = int((self.done % self.slice + seconds) / self.slice)  # of the other work
            self.done += seconds
            self.now += seconds + turns * self.slice
            return {}

        return call

    def worked(self):
        return self.done


def test_a_quiet_machine_settles_at_once():
    found = measure(Machine(), {"a": 0.02, "b": 0.01})
    speed = found.speedup("b")
    assert found.rounds == 7 and speed.settled and speed.text == "2.00x"
    assert speed.interval == (pytest.approx(2 / 1.02), pytest.approx(2 * 1.02))
    assert str(speed) == "2.00x, 1.96x to 2.04x"


@pytest.mark.parametrize(("share", "width", "settled"), [(0.0, 0.02, True), (0.2, 0.056, True), (0.8, 0.164, False)])
def test_the_more_of_the_machine_others_have_the_less_is_told(share, width, settled):
    """Ratios of fastest runs that agree to a percent were 13 % off beside work that took the caches."""
    machine = Machine()
    own = time.process_time()

    def processors():
        mine = time.process_time() - own
        return mine + share * 1e3 * machine.now, mine + 1e3 * machine.now

    speed = measure(machine, {"a": 0.02, "b": 0.01}, processors=processors).speedup("b")
    assert speed.interval == (pytest.approx(2 / (1 + width), rel=1e-3), pytest.approx(2 * (1 + width), rel=1e-3))
    assert speed.settled is settled and (
        settled or speed.text.startswith("not settled (other work on this machine: load")
    )


def test_the_machine_tells_how_much_all_processors_work():
    then = latency._processors()
    end = time.perf_counter() + 0.1
    while time.perf_counter() < end:
        sum(range(1000))
    worked, there = (b - a for a, b in zip(then, latency._processors(), strict=True))
    assert 0 < worked <= there + 0.05  # counted in hundredths of a second


def test_noise_leaves_the_interval_of_the_ratio_about_the_truth_or_open():
    headlines = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        level = 0.5 if seed % 2 else 0.05
        noisy = Machine(lambda now, count, rng=rng, level=level: 1 + rng.exponential(level))
        speed = measure(noisy, {"a": 0.03, "b": 0.01}, seconds=3).speedup("b")
        low, high = speed.interval
        assert low <= 3 <= high or not speed.settled
        assert not speed.settled or 3 / 1.5 < speed.ratio < 3 * 1.5
        headlines += speed.settled
    assert headlines >= 5  # it does not just leave everything open


def test_more_rounds_are_taken_where_the_interval_is_wide():
    rng = np.random.default_rng(0)
    found = measure(Machine(lambda now, count: 1 + rng.exponential(0.1)), {"a": 0.02, "b": 0.01}, seconds=20)
    assert 7 < found.rounds < 600 and found.speedup("b").settled


@pytest.mark.parametrize(("level", "longer"), [(0.1, False), (0.7, True)])
def test_patience_is_spent_where_a_ratio_is_not_settled(level, longer):
    rng = np.random.default_rng(0)
    machine = Machine(lambda now, count: 1 + rng.exponential(level))
    found = measure(machine, {"a": 0.2, "b": 0.1}, seconds=3, patience=60)
    assert (machine.now > 5) is longer and machine.now < 66
    assert found.speedup("b").settled


def test_a_speed_is_told_by_one_function():
    """Every other place that tells a speed takes the text of `Speedup`, or says that it is a prediction."""
    package = Path(lwgraph.__file__).parent
    texts = {path.relative_to(package).as_posix(): path.read_text("utf8") for path in package.rglob("*.py")}
    told = {name for name, text in texts.items() if re.search(r"2f\}x\b", text)}
    assert told == {"measure/latency.py", "report/words.py"}
    # Intervals, layers alone as they were predicted, and what the picture of a run calls "about".
    words = {name for name, text in texts.items() if re.search(r"words import [^\n]*\b(speed|times)\b", text)}
    assert words == {"cli/show.py", *(f"report/sections/{name}.py" for name in ("layers", "run", "stages"))}


def test_a_long_run_that_always_waited_settles_nothing(monkeypatch):
    """The short model fits between two turns of the other work; the long one takes twice its time, always the same."""
    monkeypatch.setattr("os.getloadavg", lambda: (8.12, 7.0, 6.0))
    machine = Shared(0.004)
    speed = measure(machine, {"a": 0.04, "b": 0.0019}, seconds=3, worked=machine.worked).speedup("b")
    assert speed.ratio > 1.5 * 40 / 1.9  # the fastest runs alone mislead
    assert speed.interval[0] <= 40 / 1.9 <= speed.interval[1]
    assert not speed.settled and speed.text == "not settled (other work on this machine: load 8.1)"


def test_threads_that_wait_for_each_other_are_not_taken_for_other_work():
    machine = Machine()
    assert measure(machine, {"a": 0.02, "b": 0.01}, threads=2, worked=lambda: 0.0).speedup("b").settled


def test_one_model_alone():
    found = measure(Machine(), {"a": 0.01})
    assert found.speedups == ()
    assert found.timing("a").median == pytest.approx(0.01)


def test_the_shortest_time_ends_when_it_was_met_often():
    quiet, rng = Machine(), np.random.default_rng(0)
    found, rounds = shortest([quiet.run("a", 0.01), quiet.run("b", 0.02)], FEEDS[0], seconds=5, clock=quiet.clock)
    assert found == pytest.approx([0.01, 0.02])
    assert rounds == 5
    noisy = Machine(lambda now, count: rng.lognormal(0, 0.5))
    _, more = shortest([noisy.run("a", 0.01)], FEEDS[0], seconds=5, clock=noisy.clock)
    assert more > 5


def test_hopeless_models_get_few_turns_and_a_time_all_the_same():
    machine = Machine()
    runs = [machine.run("dense", 0.01), machine.run("fast", 0.005), machine.run("slow", 0.03)]
    found, rounds = shortest(runs, FEEDS[0], seconds=1, clock=machine.clock, hopeless=1.5)
    assert found == pytest.approx([0.01, 0.005, 0.03])
    assert machine.log.count("slow") == 2 + 3 < machine.log.count("fast") == 2 + rounds == 7


def test_a_clock_that_stands_still_for_a_run_makes_no_model_fast():
    machine, calls = Machine(), 0

    def run(feeds):
        nonlocal calls
        calls += 1
        if calls % 5:  # every fifth run, the first of which warms up, is not seen
            machine.now += 0.01
        return {}

    found, _ = shortest([run], FEEDS[0], seconds=1, clock=machine.clock)
    assert found == [pytest.approx(0.01)]

    def unseen_at_first(feeds):
        nonlocal calls
        calls += 1
        machine.now += 0.01 if calls > 1 else 0.0
        return {}

    calls = 0
    found, rounds = shortest([unseen_at_first], FEEDS[0], seconds=1, clock=machine.clock)
    assert found == [pytest.approx(0.01)] and calls <= 2 + rounds  # it is not taken for one to be repeated often
