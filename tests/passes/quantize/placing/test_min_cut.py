"""The cut between integers and floats: brute force on small graphs, its value on many, costs of every size."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from lwgraph.passes.quantize.placing.min_cut import Part, TensorLink, choose, ladder, minimum_cut, network

COSTS = (0.0, 1e-300, 1e-12, 1.0, 1.0, 3.0, 1e12, 1e300, math.inf)


def drawn(rng, most):
    """Parts in a chain with branches; costs from 1e-12 to 1e12, ties, zeros and infinities among them."""

    def cost():
        if rng.random() < 0.4:
            return float(rng.choice(COSTS))
        return float(10 ** rng.uniform(-12, 12))

    names = [f"p{i}" for i in range(rng.integers(1, most + 1))]
    parts = [Part(name, cost(), cost(), cost(), bool(rng.random() < 0.3)) for name in names]
    links = []
    for index in range(rng.integers(1, most + 2)):
        maker = int(rng.integers(-1, len(names)))
        readers = [name for name in names[maker + 1 :] if rng.random() < 0.4]
        if readers or maker >= 0:
            grid = f"g{rng.integers(0, index + 1)}"
            made = next((link.damage for link in links if link.grid == grid), cost())
            made_by = None if maker < 0 else names[maker]
            outside = bool(rng.random() < 0.3)
            links.append(TensorLink(f"t{index}", grid, made, made_by, tuple(readers), outside, cost(), cost()))
    return parts, links


def exact(parts, links, integer, price):
    """(infinite costs, sum of the others) of a choice, in fractions."""
    paid, grids = [], {}
    for part in parts:
        paid += [part.integer_seconds, price * part.damage] if part.name in integer else [part.float_seconds]
    able = {part.name for part in parts if part.returns_floats}
    for link in links:
        made, reads = link.maker in integer, [reader in integer for reader in link.readers]
        if any(reads) or (made and link.maker not in able):
            grids[link.grid] = price * link.damage
        paid += [link.enter] if any(reads) and not made else []
        paid += [link.leave] if made and (link.outside or not all(reads)) else []
    paid += grids.values()
    return sum(c == math.inf for c in paid), sum((Fraction(c) for c in paid if c < math.inf), Fraction())


@pytest.mark.parametrize("price", [0.25, 1e6])
def test_no_choice_of_a_small_graph_is_cheaper(price):
    rng = np.random.default_rng(0)
    for _ in range(150):
        parts, links = drawn(rng, 6)
        names = [part.name for part in parts]
        subsets = [frozenset(c) for size in range(len(names) + 1) for c in itertools.combinations(names, size)]
        least = min(exact(parts, links, subset, price) for subset in subsets)
        assert exact(parts, links, choose(parts, links, price).integer, price) == least


def test_the_value_of_the_flow_is_that_of_the_cut_on_a_thousand_graphs():
    rng = np.random.default_rng(1)
    for _ in range(1000):
        parts, links = drawn(rng, 12)
        edges = network(parts, links, 1.0)
        value, integers = minimum_cut(edges)
        across = [cost for (a, b), cost in edges.items() if a in integers and b not in integers]
        assert isinstance(value, int) and None not in across
        assert value == sum(across)


def test_costs_are_exact_multiples_of_one_unit():
    parts = [Part("a", 0.1, 3e-12, 1e12), Part("b", 1e12, 5e-324, 0.0)]
    edges = network(parts, [], 1.0)
    unit = Fraction(0.1) / edges["S", ("part", "a")]
    assert edges["S", ("part", "b")] * unit == Fraction(1e12)
    assert edges[("part", "b"), "T"] * unit == Fraction(5e-324)
    assert edges[("part", "a"), "T"] * unit == Fraction(3e-12) + Fraction(1e12)


def test_a_tiny_cost_decides_beside_huge_ones_that_are_equal():
    for extra, integer in ((1e-12, {"a"}), (0.0, {"a"}), (-1e-12, set())):
        parts = [Part("a", 1.0 + max(extra, 0.0), 1.0 + max(-extra, 0.0)), Part("b", 1e12, 1e12)]
        assert choose(parts, [], 0.0).integer - {"b"} == integer


def test_infinite_and_unknown_costs_are_avoided_where_they_can_be():
    parts = [Part("slow", math.inf, 2.0), Part("broken", 1.0, 0.5, math.nan), Part("never", math.inf, math.inf)]
    choice = choose(parts, [], 1.0)
    assert "slow" in choice.integer and "broken" not in choice.integer and choice.seconds == math.inf
    assert ladder(parts[:2], [])[0].integer == {"slow"}
