"""A few of many."""

import pytest

from lwgraph.calibrate.subsample import spread


@pytest.mark.parametrize(
    ("count", "found"),
    [(0, []), (1, [0]), (2, [0, 5]), (4, [0, 2, 5, 7]), (10, list(range(10))), (99, list(range(10)))],
)
def test_they_are_spread_evenly_and_in_order(count, found):
    if count:
        assert spread(range(10), count) == found
    assert spread([], 3) == []
