"""The multiple-choice knapsack: one option per item, least total loss for every budget of cost at once.

Dynamic programming over a discretised budget (SPDY: Frantar and Alistarh 2022, section 3.2), with a state that is
handed from one item to the next, so that what lies between two neighbours (a switch from floats to integers) has its
price on the edge:

    best_i[s, t] = min over options o of item i in state s, and over states r of item i - 1, of
                   best_{i-1}[r, t - cost_o - edge_i[r, s]] + loss_o

The table of the last item holds the answer for every budget t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lwgraph.arrays import Floats, Index

BUCKETS = 4096


@dataclass(frozen=True, eq=False)
class Menu:
    """The options of one item.

    Attributes:
        cost: (n,) what each option takes of the budget, at least 0.
        loss: (n,) what each option loses, at least 0.
        state: (n,) the state that each option leaves, from 0 on.
        edge: (S, S) cost between the item before (row: its state) and this one (column); None: nothing.
    """

    cost: Floats
    loss: Floats
    state: Index
    edge: Floats | None = None

    @classmethod
    def of(
        cls,
        cost: Sequence[float],
        loss: Sequence[float],
        state: Sequence[int] | None = None,
        edge: Floats | None = None,
    ) -> Menu:
        """From plain sequences; one state unless told."""
        states = np.zeros(len(cost), np.intp) if state is None else np.asarray(state, np.intp)
        return cls(np.asarray(cost, np.float64), np.asarray(loss, np.float64), states, edge)


@dataclass(frozen=True)
class Solution:
    """One choice per item, and what it adds up to (not discretised, edges included)."""

    choice: tuple[int, ...]
    cost: float
    loss: float


class Knapsack:
    """Solves for all budgets up to `limit` at once.

    Costs are rounded up to whole buckets, so no solution exceeds its budget, and the loss is at most that of the best
    solution for a budget of (1 - n_items * 2 / buckets) times as much. Time O(states^2 * options * buckets), vectorised
    over buckets; memory O(items * states * buckets).

    Args:
        items: the menus, in the order in which edges join them.
        limit: the largest budget of interest; None: what the costliest choice takes.
        buckets: steps of the budget.
    """

    def __init__(self, items: Sequence[Menu], limit: float | None = None, buckets: int = BUCKETS) -> None:
        self.items = list(items)
        self.states = 1 + max((int(menu.state.max()) for menu in self.items), default=0)
        most = sum(float(menu.cost.max()) + _most(menu.edge) for menu in self.items)
        self.limit = max(most if limit is None else min(limit, most), 1e-300)
        self.bucket = self.limit / buckets
        self.top = buckets + (len(self.items) if self.limit >= most else 0)  # rounding up may add a step per item
        self._back: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]] = []
        self._last = self._fill()

    def at(self, budget: float) -> Solution | None:
        """The solution of least loss that costs at most `budget`; None where there is none."""
        top = math.floor(min(budget / self.bucket, self.top) + 1e-9)
        if top < 0:
            return None
        state = int(np.argmin(self._last[:, top]))
        return self._trace(state, top) if np.isfinite(self._last[state, top]) else None

    def front(self) -> list[Solution]:
        """The solutions that no other beats in both cost and loss, cheapest first."""
        least = self._last.min(axis=0)
        found: dict[tuple[int, ...], Solution] = {}
        before = math.inf
        for top in np.flatnonzero(np.isfinite(least)):
            if least[top] < before:
                before = float(least[top])
                solution = self._trace(int(np.argmin(self._last[:, top])), int(top))
                found[solution.choice] = solution
        return undominated(list(found.values()))

    def total(self, choice: Sequence[int]) -> Solution:
        """What a choice of one option per item adds up to."""
        return total(self.items, choice)

    def _fill(self) -> Floats:
        best = np.full((self.states, self.top + 1), np.inf)
        best[0] = 0.0  # nothing chosen yet: state 0 stands for none, and the first item has no edge
        for index, menu in enumerate(self.items):
            new = np.full_like(best, np.inf)
            option = np.zeros(best.shape, np.int32)
            origin = np.zeros(best.shape, np.int8)
            for o in range(len(menu.cost)):
                state = int(menu.state[o])
                for r in range(1 if index == 0 else self.states):
                    edge = 0.0 if menu.edge is None or index == 0 else float(menu.edge[r, state])
                    steps = math.ceil((float(menu.cost[o]) + edge) / self.bucket - 1e-9)
                    if steps > self.top:
                        continue
                    value = best[r, : self.top + 1 - steps] + menu.loss[o]
                    better = value < new[state, steps:]
                    new[state, steps:][better] = value[better]
                    option[state, steps:][better] = o
                    origin[state, steps:][better] = r
            self._back.append((option, origin))
            best = new
        return best

    def _trace(self, state: int, top: int) -> Solution:
        choice: list[int] = []
        for index in range(len(self.items) - 1, -1, -1):
            menu, (option, origin) = self.items[index], self._back[index]
            o, r = int(option[state, top]), int(origin[state, top])
            edge = 0.0 if menu.edge is None or index == 0 else float(menu.edge[r, state])
            top -= math.ceil((float(menu.cost[o]) + edge) / self.bucket - 1e-9)
            choice.append(o)
            state = r
        return self.total(choice[::-1])


def total(items: Sequence[Menu], choice: Sequence[int]) -> Solution:
    """What a choice of one option per item adds up to, edges included."""
    cost = loss = 0.0
    before: int | None = None
    for menu, o in zip(items, choice, strict=True):
        state = int(menu.state[o])
        edge = 0.0 if menu.edge is None or before is None else float(menu.edge[before, state])
        cost, loss, before = cost + float(menu.cost[o]) + edge, loss + float(menu.loss[o]), state
    return Solution(tuple(int(o) for o in choice), cost, loss)


def undominated(solutions: Sequence[Solution]) -> list[Solution]:
    """Those that no other beats in cost without losing more; cheapest first."""
    kept: list[Solution] = []
    for solution in sorted(solutions, key=lambda s: (s.cost, s.loss, s.choice)):
        if not kept or solution.loss < kept[-1].loss:
            kept.append(solution)
    return kept


def _most(edge: Floats | None) -> float:
    return 0.0 if edge is None else float(edge.max())


__all__ = ["BUCKETS", "Knapsack", "Menu", "Solution", "total", "undominated"]
