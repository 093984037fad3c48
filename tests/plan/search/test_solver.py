"""The knapsack against brute force."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lwgraph.plan.search.solver import Knapsack, Menu


def brute(items, budget):
    """The least loss of all choices that cost at most `budget`; None where none does."""
    knapsack = Knapsack(items)
    totals = (knapsack.total(c) for c in itertools.product(*(range(len(m.cost)) for m in items)))
    return min((t.loss for t in totals if t.cost <= budget), default=None)


@st.composite
def problems(draw):
    states = draw(st.integers(1, 2))
    whole = st.integers(0, 12)
    items = []
    for _ in range(draw(st.integers(1, 4))):
        n = draw(st.integers(1, 4))
        costs, losses = (draw(st.lists(whole, min_size=n, max_size=n)) for _ in range(2))
        state = draw(st.lists(st.integers(0, states - 1), min_size=n, max_size=n))
        edge = np.array(draw(st.lists(whole, min_size=4, max_size=4)), float).reshape(2, 2)
        items.append(Menu.of(costs, losses, state, edge if draw(st.booleans()) else None))
    return items, draw(st.integers(0, 60))


@settings(max_examples=80, deadline=None)
@given(problems())
def test_the_best_choice_is_found(problem):
    items, budget = problem
    most = sum(m.cost.max() + (0 if m.edge is None else m.edge.max()) for m in items)
    found = Knapsack(items, buckets=int(max(most, 1))).at(budget)  # whole buckets: the rounding does nothing
    best = brute(items, budget)
    assert (found is None) == (best is None)
    if found is not None:
        assert found.cost <= budget and found.loss == best


@settings(max_examples=30, deadline=None)
@given(problems(), st.floats(0.1, 1))
def test_no_solution_exceeds_its_budget_and_little_is_lost_to_rounding(problem, share):
    items, _ = problem
    items = [Menu(m.cost * 0.37 + 0.01, m.loss * 1.0, m.state, m.edge) for m in items]
    knapsack = Knapsack(items, buckets=1000)
    budget = share * knapsack.limit
    found = knapsack.at(budget)
    tight = brute(items, budget - 2 * len(items) * knapsack.bucket)
    if found is not None:
        assert found.cost <= budget + 1e-9
        assert tight is None or found.loss <= tight + 1e-9
    else:
        assert tight is None


@settings(max_examples=30, deadline=None)
@given(problems())
def test_the_front_falls_and_has_the_extremes(problem):
    items, _ = problem
    front = Knapsack(items).front()
    assert all(a.cost < b.cost and a.loss > b.loss for a, b in itertools.pairwise(front))
    assert front[-1].loss == brute(items, np.inf) and Knapsack(items).at(np.inf).loss == front[-1].loss


def test_an_edge_keeps_neighbours_together():
    edge = np.array([[0.0, 5.0], [5.0, 0.0]])
    menus = [Menu.of([4, 1], [0, 1], [0, 1], edge), Menu.of([1, 4], [0, 1], [0, 1], edge)]
    knapsack = Knapsack(menus, buckets=18)
    assert knapsack.at(5).choice == (0, 0)  # without the edge, (1, 0) would cost 2
    assert knapsack.at(4) is None
    assert Knapsack([Menu.of(m.cost, m.loss, m.state) for m in menus], buckets=8).at(2).choice == (1, 0)


@pytest.mark.parametrize("states", [1, 2])
def test_a_hundred_items_of_a_hundred_options_take_seconds_at_most(states):
    rng = np.random.default_rng(0)
    menus = [
        Menu.of(rng.random(100), rng.random(100), rng.integers(0, states, 100), np.ones((2, 2)) * 0.1)
        for _ in range(100)
    ]
    start = time.process_time()
    knapsack = Knapsack(menus, limit=60)
    assert knapsack.at(30).cost <= 30
    assert time.process_time() - start < 5  # far above what is measured in benchmarks, to be safe on a busy machine
