"""Search above the solver: plans are stitched, run on data kept for searching, and the solver's weights corrected.

The solver adds up predictions; what really happens when many layers change at once is only seen by running the model.
For several budgets of time, spread over the useful range, the search keeps the best plan and the factors on the items'
losses that led to it, and tries changes of them: other factors (the coefficient search of SPDY, Frantar and Alistarh
2022, section 3.3), a change at one item (coordinate descent), and plans mixed from two (crossover). Every plan that
was run stays on the front.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lwgraph import ir
from lwgraph.cache import Rows, cache_path
from lwgraph.executor import Executor, Feeds, untimed
from lwgraph.measure.distance import RunLoss
from lwgraph.plan.precision import FLOAT
from lwgraph.plan.search.front import Candidate, Front, undominated, worth
from lwgraph.plan.search.planner import BYTES, LATENCY, MACS, Planner
from lwgraph.plan.search.solver import BUCKETS, Knapsack

VERSION = 3  # part of the file name: raise it when the meaning of a loss or a time changes
if TYPE_CHECKING:
    from lwgraph.plan.search.trials import Trials

LOOK_AHEAD = 40  # proposals that are thought through when trials run side by side
SLOTS = 8  # budgets of time that are searched side by side
HOPELESS, HARDLY = 0.3, 1e-4  # predicted losses between which plans are tried
SPREAD = 0.8  # of the logarithm of a changed factor
SHARE = 0.2  # of the items' factors change in one trial
PRICE_STEPS, PRICE_BUCKETS = 12, 512  # of the bisection for the price of a limited resource
BARREN = 60  # trials in a row without a better plan that end the search
SECONDS = 60.0


@dataclass(eq=False)
class _Slot:
    """One budget of time: the factors that gave the best plan for it."""

    budget: float
    coefficients: np.ndarray[Any, np.dtype[np.float64]]
    best: Candidate | None = None


def memory_of(planner: Planner, feeds: Sequence[Feeds], seed: int) -> Rows:
    """The losses, and seconds that they took, of the plans that were run: one file for a model, its options, the
    samples and the seed."""
    menus = [f"{item.name}: {' '.join(option.name for option in item.options)}" for item in planner.items]
    facts = (
        ir.fingerprint(planner.model),
        seed,
        planner.oracle.target,
        planner.quantizing.quick,
        planner.quantizing.samples,
        *menus,
    )
    return Rows(cache_path(f"search-{VERSION}", facts, feeds), "the search is")


class Search:
    """Searches the plans of one planner.

    The same planner, seed and time give the same plans: proposals depend on the seed and on earlier losses only, and
    the time spent is that which the losses took when they were measured, also when they are remembered.

    Args:
        planner: weighed and anchored.
        loss: of a stitched network that is ready to run; 0 for the original.
        executor: the target.
        objective: what is to be little: "latency", "bytes" or "macs".
        prices: of other resources, per unit, in loss; to bring plans under limits of them.
        seconds: to spend on trials; the first SLOTS are always made.
        memory: of losses.
        trials: does them side by side, ahead of the search; the same plans come of it.
        timed: milliseconds of one run of a network, measured; the first plans set what others are predicted to take.
            None: predictions stay as they are.
        base_ms: of the network as it was, to compare plans with; None: what the planner predicts of its model.
    """

    def __init__(
        self,
        planner: Planner,
        loss: RunLoss,
        executor: Executor,
        *,
        objective: str = LATENCY,
        prices: Mapping[str, float] | None = None,
        seed: int = 0,
        seconds: float = SECONDS,
        memory: Rows | None = None,
        trials: Trials | None = None,
        timed: Callable[[ir.Model], float] | None = None,
        base_ms: float | None = None,
    ) -> None:
        self.planner, self.loss, self.executor = planner, loss, executor
        self.objective, self.prices = objective, prices
        self.seconds, self.memory = seconds, memory or Rows(None, "the search is")
        self.trials, self.timed = trials, timed
        self.base_ms = base_ms or planner.predicted(planner.uniform(FLOAT), LATENCY)
        self.spent, self._most = 0.0, math.inf
        self._slots: list[_Slot] = []
        self._random = np.random.default_rng(seed)
        self._found: dict[tuple[int, ...], Candidate] = {}
        self._models: dict[tuple[int, ...], ir.Model] = {}  # of plans that are still to be timed
        self._fitted = False  # whether predicted times follow measured ones

    def first(self, most: float = math.inf) -> Front:
        """The solver's plans for SLOTS budgets, run and timed; fastest first.

        Args:
            most: of the objective; plans that are predicted to take more are of no use.
        """
        self._most = most
        self._slots = self._budgets()
        with self._ahead():
            self._look_ahead(lambda search: (search._try(s, s.coefficients, "solver") for s in search._slots))
            for number, slot in enumerate(self._slots):
                self.planner.context.progress("running plans", number, len(self._slots))
                self._try(slot, slot.coefficients, "solver")
        if self.timed is not None and self._found:
            self._time_slots()
        return self._outcome()

    def go_on(self, most: float = math.inf) -> Front:
        """All plans that were run once the time for trials is spent, or nothing better was found for long."""
        self._most, barren = most, 0
        with self._ahead():
            while self._slots and self.spent < self.seconds and barren < BARREN:
                done = min(999, int(1000 * self.spent / self.seconds)) if self.seconds > 0 else 0
                self.planner.context.progress(self._message(), done, 1000)
                self._look_ahead(lambda search: (search._next(search._slots) for _ in range(LOOK_AHEAD)))
                barren = 0 if self._next(self._slots) else barren + 1
        self.planner.context.progress(self._message(), 1000, 1000)
        return self._outcome()

    def found(self) -> list[Candidate]:
        """All plans that could be run."""
        return [candidate for candidate in self._found.values() if candidate.loss != math.inf]

    @contextmanager
    def _ahead(self) -> Iterator[None]:
        """Within, trials are begun ahead. None is at work afterwards: what is timed next must run alone."""
        try:
            yield
        finally:
            if self.trials is not None:
                self.trials.stop()

    def _outcome(self) -> Front:
        ordered = sorted(self.found(), key=lambda c: (c.amount(self.objective), worth(c), c.choice))
        return Front(self.base_ms, ordered, self.spent, self.objective)

    def _time_slots(self) -> None:
        """Measure the plans that were run, let predicted times follow, and take the budgets anew."""
        timed = []
        for number, choice in enumerate(self._found):
            self.planner.context.progress("timing plans", number, len(self._found))
            milliseconds = self._milliseconds(choice)
            if milliseconds is not None:
                timed.append((choice, milliseconds))
        self.planner = self.planner.timed(timed)
        self._models, self._fitted = {}, True
        self._found = {
            choice: replace(candidate, predicted_ms=self.planner.predicted(choice, LATENCY))
            for choice, candidate in self._found.items()
        }
        self._slots = self._budgets()
        for slot in self._slots:
            self._try(slot, slot.coefficients, "solver")

    def _milliseconds(self, choice: tuple[int, ...]) -> float | None:
        """Of one run of a plan, measured or remembered; None when it cannot be run."""
        assert self.timed is not None
        key = f"{self._key(choice)} ms"
        known = self.memory.get(key)
        if known is None:
            with self.planner.context.failures.guard("search: the time of a plan"):
                model = self._models.get(choice)
                if model is None:
                    model = self.planner.apply(self.planner.chosen(choice), quick=True).model
                known = (self.timed(model), 0.0)
            if known is None:
                return None
            self.memory.put(key, known)
        return float(known[0])

    def _next(self, slots: Sequence[_Slot]) -> bool:
        return self._propose(slots[int(self._random.integers(len(slots)))])

    def _look_ahead(self, steps: Callable[[Search], Iterable[object]]) -> None:
        """Begin the trials that `steps` will ask for if none of them gives a better plan, which few do."""
        if self.trials is None or 2 * self.trials.room < self.trials.ahead:
            return
        dream = copy.copy(self)
        dream._random = copy.deepcopy(self._random)
        dream._found = dict(self._found)
        wanted: dict[tuple[int, ...], None] = {}
        dream._run = lambda choice, origin: wanted.setdefault(choice)  # type: ignore[method-assign]
        for _ in steps(dream):
            for choice in wanted:
                if choice not in self._found and self.memory.get(self._key(choice)) is None:
                    self.trials.start(choice)
            wanted.clear()
            if self.trials.room <= 0:
                return

    def _key(self, choice: Sequence[int]) -> str:
        return "|".join(item.options[o].name for item, o in zip(self.planner.items, choice, strict=True))

    def _front(self) -> list[Candidate]:
        return undominated(list(self._found.values()), self.objective)

    def _message(self) -> str:
        front = self._front()
        if not front:
            return "searching plans"
        middle = front[len(front) // 2]
        speed = self.base_ms / middle.predicted_ms
        return f"searching plans ({len(self._found)} run; {speed:.1f}x at error {worth(middle):.2g})"

    def _budgets(self) -> list[_Slot]:
        """Budgets at which the solver predicts losses in equal ratios, from hopeless to hardly any."""
        front = Knapsack(self.planner.menus(None, self.objective, self.prices)).front()
        front = [s for s in front if self.planner.predicted(s.choice, self.objective) <= self._most]
        if not front:
            return []
        losses = np.array([max(self.planner.predicted_loss(s.choice), 1e-300) for s in front])
        wanted = np.log(np.geomspace(HOPELESS, np.clip(losses.min(), HARDLY, HOPELESS), SLOTS))
        nearest = {int(np.abs(np.log(losses) - at).argmin()) for at in wanted}
        return [_Slot(front[i].cost, np.ones(len(self.planner.items))) for i in sorted(nearest)]

    def _propose(self, slot: _Slot) -> bool:
        """One trial; whether it gave a better plan."""
        kind = int(self._random.integers(3))
        if kind == 0 or len(self._found) < 2:
            count = len(slot.coefficients)
            changed = self._random.random(count) < max(SHARE, 1 / max(count, 1))
            factors = np.exp(SPREAD * self._random.standard_normal(count) * changed)
            return self._try(slot, slot.coefficients * factors, "coefficients")
        if kind == 1 and slot.best is not None:
            return self._change_one(slot.best.choice)
        return self._cross()

    def _try(self, slot: _Slot, coefficients: np.ndarray[Any, np.dtype[np.float64]], origin: str) -> bool:
        menus = self.planner.menus(list(coefficients), self.objective, self.prices)
        budget = slot.budget * (1 + (1 + len(menus)) / BUCKETS)  # room for rounding up
        solution = Knapsack(menus, limit=budget).at(budget)
        if solution is None:
            return False
        candidate = self._run(solution.choice, origin)
        if candidate is None and slot.best is None:  # run before, for another slot
            slot.best = self._found.get(solution.choice)
        if candidate is None or (slot.best is not None and worth(candidate) >= worth(slot.best)):
            return False
        slot.best, slot.coefficients = candidate, coefficients
        return True

    def _change_one(self, choice: Sequence[int]) -> bool:
        """Another option at one item."""
        index = int(self._random.integers(len(choice)))
        other = int(self._random.integers(len(self.planner.items[index].options)))
        return self._improves((*choice[:index], other, *choice[index + 1 :]), "coordinate")

    def _cross(self) -> bool:
        """Each item from one of two neighbours on the front."""
        front = self._front()
        if len(front) < 2:
            return False
        at = int(self._random.integers(len(front) - 1))
        first = self._random.random(len(self.planner.items)) < 0.5
        pairs = zip(first, front[at].choice, front[at + 1].choice, strict=True)
        return self._improves(tuple(a if take else b for take, a, b in pairs), "crossover")

    def _improves(self, choice: tuple[int, ...], origin: str) -> bool:
        """Run a plan if it promises to lie on the front; whether it does."""
        if choice in self._found:
            return False
        cost, loss = self.planner.predicted(choice, self.objective), self.planner.predicted_loss(choice)
        if cost > self._most:
            return False
        if any(c.amount(self.objective) <= cost and c.predicted_loss <= loss for c in self._front()):
            return False
        candidate = self._run(choice, origin)
        return candidate is not None and candidate in self._front()

    def _run(self, choice: tuple[int, ...], origin: str) -> Candidate | None:
        """Stitch a plan and measure its loss; None when that was done before."""
        if choice in self._found:
            return None
        planner = self.planner
        key = self._key(choice)
        known = self.memory.get(key)
        if known is None and self.trials is not None:
            known = self.trials.take(choice)
            if known is not None and known[0] < math.inf:
                self.memory.put(key, known)
        if known is None:
            start, loss = time.perf_counter(), math.inf
            with planner.context.failures.guard("search: a plan"):
                model = planner.apply(planner.chosen(choice), quick=True).model
                if self.timed is not None and not self._fitted:
                    self._models[choice] = model
                loss = self.loss(untimed(self.executor).prepare(model))
            known = (loss, time.perf_counter() - start)
            if loss < math.inf:  # what failed may do so for want of memory: another run tries it again
                self.memory.put(key, known)
        self.spent += known[1]
        found = Candidate(
            choice,
            planner.predicted(choice, LATENCY),
            planner.predicted_loss(choice),
            origin,
            known[0],
            bytes=round(planner.predicted(choice, BYTES)),
            macs=round(planner.predicted(choice, MACS)),
        )
        self._found[choice] = found
        return found


def limit_prices(planner: Planner, limits: Mapping[str, float], objective: str) -> dict[str, float]:
    """Prices, in loss per unit, that bring half of the plans of all budgets under each limit of another resource.

    Lagrange multipliers, by bisection of their logarithm for one resource after the other.

    Args:
        planner: anchored.
        limits: by resource; that of the objective is not looked at: the budget is its limit.
        objective: what the budget is of.
    """
    found: dict[str, float] = {}
    for resource, limit in limits.items():
        if resource == objective:
            continue
        size = max(planner.predicted(planner.uniform(FLOAT), resource), 1e-300)
        low, high = -12.0, 6.0  # powers of ten of loss, for all of the resource
        if _under(planner, found, objective, resource, limit):
            continue
        for _ in range(PRICE_STEPS):
            middle = (low + high) / 2
            tried = {**found, resource: 10**middle / size}
            low, high = (low, middle) if _under(planner, tried, objective, resource, limit) else (middle, high)
        found[resource] = 10**high / size
    return found


def _under(planner: Planner, prices: Mapping[str, float], objective: str, resource: str, limit: float) -> bool:
    front = Knapsack(planner.menus(None, objective, prices), buckets=PRICE_BUCKETS).front()
    within = sum(planner.predicted(solution.choice, resource) <= limit for solution in front)
    return 2 * within >= len(front)


__all__ = ["SECONDS", "SLOTS", "Search", "limit_prices", "memory_of"]
