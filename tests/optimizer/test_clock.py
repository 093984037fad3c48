"""The time of a run, by a clock that stands still until it is moved."""

from __future__ import annotations

import math

import pytest

from lwgraph.optimizer.clock import Clock, OutOfTime


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def hand() -> Hand:
    return Hand()


def test_without_a_budget_nothing_ends(hand: Hand) -> None:
    clock = Clock(now=hand)
    hand.at += 1e9
    assert clock.left == math.inf and clock.spent == 1e9
    with clock.limit():
        clock.check()


def test_work_ends_when_the_budget_does_what_follows_it_left_out(hand: Hand) -> None:
    clock = Clock(10.0, reserve=2.0, now=hand)
    with clock.limit():
        hand.at += 7.5
        clock.check()
        assert clock.left == pytest.approx(0.5)
        hand.at += 1.0
        with pytest.raises(OutOfTime):
            clock.check()
    assert clock.left == 0
    clock.check()  # what follows work has the reserve


def test_a_limit_ends_before_the_budget_and_one_within_it_before_both(hand: Hand) -> None:
    clock = Clock(10.0, now=hand)
    with clock.limit(5.0):
        with clock.limit(1.0):
            hand.at += 1.5
            with pytest.raises(OutOfTime):
                clock.check()
        clock.check()  # the outer one has time left
        with clock.limit(100.0):
            hand.at += 4.0
            with pytest.raises(OutOfTime):
                clock.check()
    clock.check()


def test_a_limit_is_over_also_when_its_work_failed(hand: Hand) -> None:
    clock = Clock(now=hand)
    with pytest.raises(ValueError, match="no"), clock.limit(1.0):
        raise ValueError("no")
    hand.at += 2.0
    clock.check()


def test_whoever_tells_progress_is_asked_to_end(hand: Hand) -> None:
    told: list[tuple[str, int, int]] = []
    clock = Clock(1.0, now=hand)
    watched = clock.watching(lambda *row: told.append(row))
    with clock.limit():
        watched("a", 1, 2)
        hand.at += 2.0
        with pytest.raises(OutOfTime):
            watched("b", 2, 2)
    assert told == [("a", 1, 2)]


def test_no_handler_of_errors_takes_the_end_for_one() -> None:
    assert not issubclass(OutOfTime, Exception)
