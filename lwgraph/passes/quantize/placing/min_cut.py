"""Chooses the nodes to compute in integers by a minimum cut between the costs of integers and of floats.

Every integer node costs its integer time and the damage of its rounded weights; every float node its float time. A
tensor whose maker or any reader is an integer node costs the damage of its grid; one that goes from integers to floats
or back costs the conversion, once each way. All terms are pairwise and charge disagreement only, so the cheapest choice
is a minimum cut (Boykov and Kolmogorov 2004; Greig, Porteous and Seheult 1989) and is found exactly. Without damage it
is the fastest choice: islands whose conversions cost more than they save are dissolved.

Costs are floats, of any size; the cut is found in integers, since algorithms for flows compare sums for equality, which
rounding breaks.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx


@dataclass(frozen=True)
class Part:
    """One or more nodes that go together: seconds either way, and the damage of their rounded weights.

    Attributes:
        returns_floats: in integers it can still return floats when nobody reads integers.
    """

    name: str
    float_seconds: float
    integer_seconds: float
    damage: float = 0.0
    returns_floats: bool = False


@dataclass(frozen=True)
class TensorLink:
    """A tensor between parts.

    Attributes:
        name: of the tensor; links of one `grid` share the damage of one grid.
        maker: the part that computes it; None for graph inputs and what float nodes make.
        readers: the parts that read it; float readers beside them: `outside`.
        enter, leave: seconds to convert it to integers and back.
    """

    name: str
    grid: str
    damage: float
    maker: str | None
    readers: tuple[str, ...]
    outside: bool
    enter: float
    leave: float


@dataclass(frozen=True)
class Assignment:
    """Parts in integers, and what the model of costs says: seconds, and the damage of all grids and weights."""

    integer: frozenset[str]
    seconds: float
    damage: float


Edge = tuple[object, object]
INTEGERS, FLOATS = "S", "T"  # the two sides


def choose(parts: Sequence[Part], links: Sequence[TensorLink], price: float) -> Assignment:
    """The cheapest choice by seconds + price * damage. O(V^2 sqrt(E)) for V parts and tensors and E readings.

    A cost that is infinite or NaN is avoided before all others; where one of several must be paid, the fewest are.
    """
    edges, chosen = network(parts, links, price), set()
    _, integers = minimum_cut(edges)
    for vertex in integers:
        if isinstance(vertex, tuple) and vertex[0] == "part":
            chosen.add(vertex[1])
    return evaluate(parts, links, frozenset(chosen))


def network(parts: Sequence[Part], links: Sequence[TensorLink], price: float) -> dict[Edge, int | None]:
    """What each edge (a, b) costs when a is on the integer side and b on the float side; None: that is not allowed.

    Costs are integers, multiples of one power of two of which every finite cost is a multiple, so that nothing is
    rounded but the products price * damage, to 2^-53 of themselves. An infinite cost is 1 more than all finite ones.
    """
    costs: list[tuple[object, object, float]] = []
    edges: dict[Edge, int | None] = {}
    for part in parts:
        costs.append((INTEGERS, ("part", part.name), part.float_seconds))
        costs.append((("part", part.name), FLOATS, part.integer_seconds))
        costs.append((("part", part.name), FLOATS, price * part.damage))
    charged: set[str] = set()
    makers = {part.name: part for part in parts}
    for link in links:
        maker: object = ("part", link.maker) if link.maker is not None else FLOATS
        noisy, asked, wanted = ("grid", link.grid), ("asked", link.name), ("wanted", link.name)
        if link.grid not in charged:
            charged.add(link.grid)
            costs.append((noisy, FLOATS, price * link.damage))
        if link.maker is not None and not makers[link.maker].returns_floats:
            edges[maker, noisy] = None
        for reader in link.readers:
            edges[("part", reader), noisy] = None
            edges[("part", reader), asked] = None  # an integer reader asks for integers
            edges[wanted, ("part", reader)] = None  # a float reader wants floats
        costs.append((asked, maker, link.enter))
        if link.maker is not None:
            costs.append((maker, wanted, link.leave))
            if link.outside:
                edges[wanted, FLOATS] = None
    ratios = [_known(cost).as_integer_ratio() if _known(cost) < math.inf else None for _, _, cost in costs]
    unit = max((ratio[1] for ratio in ratios if ratio), default=1)  # denominators of floats are powers of two
    integers = [None if ratio is None else max(0, ratio[0] * (unit // ratio[1])) for ratio in ratios]
    most = 1 + sum(cost for cost in integers if cost is not None)
    for (a, b, _), cost in zip(costs, integers, strict=True):
        before = edges.get((a, b), 0)
        if before is not None and cost != 0:
            edges[a, b] = before + (most if cost is None else cost)
    return edges


def minimum_cut(edges: Mapping[Edge, int | None]) -> tuple[int, frozenset[object]]:
    """The least cost of a cut between INTEGERS and FLOATS, exact, and the largest integer side that has it."""
    graph: nx.DiGraph[object] = nx.DiGraph()
    graph.add_nodes_from((INTEGERS, FLOATS))
    for (a, b), cost in edges.items():
        if cost is None:
            graph.add_edge(a, b)
        else:
            graph.add_edge(a, b, capacity=cost)
    value, (integers, _) = nx.minimum_cut(graph, INTEGERS, FLOATS)
    return int(value), frozenset(integers)


def _known(cost: float) -> float:
    return math.inf if math.isnan(cost) else cost


def evaluate(parts: Iterable[Part], links: Iterable[TensorLink], integer: frozenset[str]) -> Assignment:
    """Seconds and damage of a choice."""
    seconds = damage = 0.0
    able = set()
    for part in parts:
        seconds += part.integer_seconds if part.name in integer else part.float_seconds
        damage += part.damage if part.name in integer else 0.0
        if part.returns_floats:
            able.add(part.name)
    grids: dict[str, float] = {}
    for link in links:
        made = link.maker in integer
        reads = [reader in integer for reader in link.readers]
        if any(reads) or (made and link.maker not in able):
            grids[link.grid] = link.damage
        if any(reads) and not made:
            seconds += link.enter
        if made and (link.outside or not all(reads)):
            seconds += link.leave
    return Assignment(integer, _known(seconds), _known(damage + sum(grids.values())))


def ladder(parts: Sequence[Part], links: Sequence[TensorLink], steps: int = 24) -> list[Assignment]:
    """Choices from the fastest to the most accurate, none slower without less damage; all float is not among them."""
    found = {(c := choose(parts, links, 0.0)).integer: c}
    spread = sum(s for p in parts if math.isfinite(s := p.float_seconds + p.integer_seconds))
    names = frozenset(part.name for part in parts)
    bounded = [p for p in parts if math.isfinite(p.damage)], [link for link in links if math.isfinite(link.damage)]
    most = evaluate(*bounded, names).damage
    if most > 0 and spread > 0:
        for step in range(steps):
            price = min(spread / most * 10.0 ** (-2 + 6 * step / (steps - 1)), sys.float_info.max)
            c = choose(parts, links, price)
            found.setdefault(c.integer, c)
    kept: list[Assignment] = []
    for c in sorted((c for c in found.values() if c.integer), key=lambda c: (c.seconds, c.damage, len(c.integer))):
        if not kept or c.damage < kept[-1].damage:
            kept.append(c)
    return kept


__all__ = ["Assignment", "Part", "TensorLink", "choose", "evaluate", "ladder", "minimum_cut", "network"]
