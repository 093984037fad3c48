"""Bets on a mean being over a limit."""

import numpy as np
import pytest

from lwgraph.measure.betting import Bet


def stops(bet: Bet, values: np.ndarray, step: int = 16) -> int | None:
    """After how many values the bet is won; None: never."""
    for start in range(0, len(values), step):
        if bet.add(values[start : start + step]):
            return start + step
    return None


@pytest.mark.parametrize("lowest, gained", [(0.0, 0.0), (-1.0, 0.02)])
def test_a_mean_at_the_limit_is_seldom_taken_for_more_however_often_one_looks(lowest: float, gained: float) -> None:
    rng, wrong, level = np.random.default_rng(0), 0, 0.05
    for _ in range(200):
        u = rng.random(1000)
        values = (u < 0.05 + gained).astype(float) - (u > 1 - gained)  # of mean 0.05
        wrong += stops(Bet(0.05, lowest, level), values, 1) is not None
    assert wrong <= 2 * level * 200


def test_what_is_clearly_over_is_told_soon_and_what_is_under_never() -> None:
    rng = np.random.default_rng(1)
    after = [stops(Bet(0.01, 0.0, 0.01), (rng.random(3000) < 0.1).astype(float)) for _ in range(20)]
    assert max(each or 3000 for each in after) < 400
    assert all(stops(Bet(0.01, 0.0, 0.01), (rng.random(3000) < 0.003).astype(float)) is None for _ in range(20))


def test_a_bet_that_was_won_stays_won() -> None:
    bet = Bet(0.1, 0.0, 0.01)
    assert not bet.over and bet.add(np.ones(100)) and bet.over
    assert bet.add(np.zeros(1000)) and bet.over


def test_the_capital_is_never_below_nothing() -> None:
    """Whatever comes after the highest stakes."""
    bet = Bet(0.5, 0.0, 1e-300)
    bet.add(np.ones(50))
    assert not bet.add(np.zeros(5000)) and np.isfinite(bet._log)
