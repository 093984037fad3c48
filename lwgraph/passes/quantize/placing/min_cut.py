"""Chooses the nodes to compute in integers by a minimum cut between the costs of integers and of floats.

Every integer node costs its integer time and the damage of its rounded weights; every float node its float time. A
tensor whose maker or any reader is an integer node costs the damage of its grid; one that goes from integers to floats
or back costs the conversion, once each way. All terms are pairwise and charge disagreement only, so the cheapest choice
is a minimum cut (Boykov and Kolmogorov 2004; Greig, Porteous and Seheult 1989) and is found exactly. Without damage it
is the fastest choice: islands whose conversions cost more than they save are dissolved.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def choose(parts: Sequence[Part], links: Sequence[TensorLink], rate: float) -> Assignment:
    """The assignment of least seconds + rate * damage. O(V^2 sqrt(E)) for V parts and tensors and E readings."""
    graph: nx.DiGraph[object] = nx.DiGraph()
    graph.add_node("S")  # the integer side; T is the float side

    def add(a: object, b: object, cost: float | None) -> None:
        """`cost` (None: infinite) when a is on the integer side and b on the float side."""
        if cost is None:
            graph.add_edge(a, b)
            return
        if cost <= 0:
            return
        if graph.has_edge(a, b):
            if "capacity" in graph[a][b]:
                graph[a][b]["capacity"] += cost
        else:
            graph.add_edge(a, b, capacity=cost)

    graph.add_node("T")
    for part in parts:
        graph.add_node(("part", part.name))
        add("S", ("part", part.name), part.float_seconds)
        add(("part", part.name), "T", part.integer_seconds + rate * part.damage)
    charged: set[str] = set()
    makers = {part.name: part for part in parts}
    for link in links:
        maker: object = ("part", link.maker) if link.maker is not None else "T"
        noisy, asked, wanted = ("grid", link.grid), ("asked", link.name), ("wanted", link.name)
        if link.grid not in charged:
            charged.add(link.grid)
            add(noisy, "T", rate * link.damage)
        if link.maker is not None and not makers[link.maker].returns_floats:
            add(maker, noisy, None)
        for reader in link.readers:
            add(("part", reader), noisy, None)
            add(("part", reader), asked, None)  # an integer reader asks for integers
            add(wanted, ("part", reader), None)  # a float reader wants floats
        add(asked, maker, link.enter)
        if link.maker is not None:
            add(maker, wanted, link.leave)
            if link.outside:
                add(wanted, "T", None)
    _, (integers, _) = nx.minimum_cut(graph, "S", "T")
    chosen = frozenset(v[1] for v in integers if isinstance(v, tuple) and v[0] == "part")
    return evaluate(parts, links, chosen)


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
    return Assignment(integer, seconds, damage + sum(grids.values()))


def ladder(parts: Sequence[Part], links: Sequence[TensorLink], steps: int = 24) -> list[Assignment]:
    """Choices from the fastest to the most accurate, none slower without less damage; all float is not among them."""
    found = {(c := choose(parts, links, 0.0)).integer: c}
    spread = sum(p.float_seconds + p.integer_seconds for p in parts)
    most = evaluate(parts, links, frozenset(p.name for p in parts)).damage
    if most > 0 and spread > 0:
        for step in range(steps):
            c = choose(parts, links, spread / most * 10.0 ** (-2 + 6 * step / (steps - 1)))
            found.setdefault(c.integer, c)
    kept: list[Assignment] = []
    for c in sorted((c for c in found.values() if c.integer), key=lambda c: (c.seconds, c.damage, len(c.integer))):
        if not kept or c.damage < kept[-1].damage:
            kept.append(c)
    return kept


__all__ = ["Assignment", "Part", "TensorLink", "choose", "evaluate", "ladder"]
