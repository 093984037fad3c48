"""Few looks find the first good plan of a ladder, whatever the metric makes of losses."""

import numpy as np
import pytest

from lwgraph.optimizer.bracket import Bracket

LOSSES = list(np.geomspace(0.3, 1e-4, 60))


def looks(lost, allowed, losses=LOSSES):
    """The numbers that were looked at; the first good plan is known then."""
    bracket, seen = Bracket(losses, allowed), []
    while bracket:
        number = bracket.pick()
        assert bracket.low <= number < bracket.high
        seen.append(number)
        bracket.learn(number, lost(losses[number]) <= allowed, lost(losses[number]))
    assert bracket.high == next((i for i, loss in enumerate(losses) if lost(loss) <= allowed), len(losses))
    return seen, bracket.high


@pytest.mark.parametrize("allowed", [0.002, 0.01])
@pytest.mark.parametrize("power", [0.5, 0.75, 1.0])
def test_where_the_metric_follows_a_power_the_third_look_is_near(power, allowed):
    seen, first = looks(lambda loss: 0.3 * loss**power, allowed)
    assert min(abs(number - first) for number in seen[:3]) <= 1 and len(seen) <= 3  # a bisection takes 6


@pytest.mark.parametrize("first", [0, 1, 17, 31, 58, 59, 60])
def test_where_it_follows_nothing_hardly_more_than_a_bisection_takes(first):
    """A metric that loses all or nothing, and one that tells nothing of what was dropped."""
    edge = LOSSES[first] if first < len(LOSSES) else 0.0
    for bad in (1.0, float("nan")):
        seen, found = looks(lambda loss, bad=bad: 0.0 if loss <= edge else bad, 0.01)
        assert found == first and len(seen) <= 9


def test_the_middle_is_taken_where_nothing_is_told():
    bracket = Bracket([4.0, 3.0, 2.0, 1.0], 0.01)
    assert bracket.pick() == 2
    bracket.learn(2, True, None)
    assert bracket.pick() == 1
    bracket.learn(1, True, 0.0)
    assert bracket.pick() == 0 and not Bracket([], 0.01)


def test_looks_that_contradict_each_other_tell_nothing():
    """The second loses less though its plan is worse: the first was noise, and the third is had in the middle, not
    beside the second, where the first would put it."""
    bracket = Bracket([0.16, 0.08, 0.06, 0.05, 0.03, 0.011, 0.009, 0.007], 0.01)
    assert bracket.pick() == 4
    bracket.learn(4, True, 0.0075)
    assert bracket.pick() == 3
    bracket.learn(3, True, -0.005)
    assert bracket.pick() == 1


def test_looks_that_contradict_each_other_a_little_count_as_one():
    bracket = Bracket(LOSSES, 0.01)
    bracket.learn(40, True, 0.003)
    alone = bracket.pick()
    bracket.learn(39, True, 0.0029)
    assert abs(bracket.pick() - alone) <= 1
