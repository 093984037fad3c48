"""Normal equations are solved as a general factorization solves them, also where rounding left them indefinite."""

import numpy as np
import pytest

from lwgraph.layers.moments import WIDE
from lwgraph.plan.refit.least_squares import normal_solver


@pytest.mark.parametrize(("width", "ridge", "close"), [(40, 1e-6, 1e-10), (WIDE, 1e-6, 1e-10), (WIDE, 1e-2, 1e-4)])
def test_normal_equations_are_solved(width, ridge, close):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2 * width, width))
    normal = rows.T @ rows / len(rows) + ridge * np.eye(width)
    right = rng.standard_normal((3, width))
    wanted = np.linalg.solve(normal, right.T).T
    found = normal_solver(normal, ridge)(right)
    assert found.dtype == np.float64 and np.linalg.norm(found - wanted) <= close * np.linalg.norm(wanted)


def test_what_rounding_left_indefinite_is_solved_all_the_same():
    normal = np.diag([2.0, 1.0, -1e-9])
    np.testing.assert_allclose(normal_solver(normal, 0.0)(np.array([[2.0, 3.0, 0.0]])), [[1.0, 3.0, 0.0]])
