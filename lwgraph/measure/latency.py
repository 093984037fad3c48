"""Paired, interleaved latency: which of several models is faster, and by how much, on a machine that is not quiet."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lwgraph.executor import Feeds, Run

_SHORTEST = 2e-3  # seconds: a timing shorter than this is repeated, so that the clock and Python cost nothing
_WARM_UP = 3  # runs of each model before timing, at least
_LEAST_ROUNDS = 7
_LEAST = 5  # rounds in which a shortest time is looked for
_FEW_ROUNDS = 3  # rounds for models that are too slow to be of use
AGREEING, AGREED = 3, 0.02  # rounds, and how near to each other, that make a shortest time credible
_PRECISION = 0.01  # stop when the median ratios are known within 1 %
_Z = 1.959964


@dataclass(frozen=True)
class Timing:
    """Seconds per run of one model."""

    name: str
    median: float
    minimum: float
    low: float  # first and third quartile
    high: float


@dataclass(frozen=True)
class Speedup:
    """The speed relative to the first model; over 1 is faster.

    `median` is the median over rounds of the paired ratio, `low` and `high` its quartiles, `error` the half width of
    its 95 % interval, `minimum` the ratio of the two shortest times, which disturbances cannot shorten.
    """

    name: str
    median: float
    low: float
    high: float
    minimum: float
    error: float

    def __str__(self) -> str:
        return f"{self.median:.2f}x ({self.low:.2f} to {self.high:.2f}, by shortest times {self.minimum:.2f})"


@dataclass(frozen=True)
class Latencies:
    """Timings of all models and the speed-ups of all but the first against the first."""

    timings: tuple[Timing, ...]
    speedups: tuple[Speedup, ...]
    rounds: int
    threads: int

    def timing(self, name: str) -> Timing:
        """The timing of one model."""
        return next(t for t in self.timings if t.name == name)

    def speedup(self, name: str) -> Speedup:
        """The speed-up of one model against the first; 1 for the first itself."""
        if name == self.timings[0].name:
            return Speedup(name, 1.0, 1.0, 1.0, 1.0, 0.0)
        return next(s for s in self.speedups if s.name == name)


def paired_latency(
    runs: Mapping[str, Run],
    feeds: Sequence[Feeds],
    *,
    threads: int = 1,
    rounds: int | None = None,
    seconds: float = 5.0,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Latencies:
    """Time models against each other in rounds; each round runs all of them on the same feed, in turning order.

    A disturbance that outlasts a round hits all models alike and cancels in their ratio; shorter ones are outvoted by
    the median. Garbage collection is off meanwhile.

    Args:
        runs: prepared models by name; the first is what the others are compared with.
        feeds: used in turn.
        threads: what the runs were prepared with; reported, not set.
        rounds: how many; None: until the median ratios are known within 1 %, for at least 7 rounds and at most about
            `seconds` in all.
        seconds: the time limit of adaptive rounds.
        clock: a monotone clock in seconds.
        progress: called with (rounds done, rounds expected at most).
    """
    if not runs or not feeds:
        raise ValueError("latency needs at least one run and one feed")
    names, prepared = list(runs), list(runs.values())
    enabled = gc.isenabled()
    gc.disable()
    try:
        repeats = [_warm_up(run, feeds[0], clock) for run in prepared]
        times: list[list[float]] = []
        start = clock()
        while True:
            number = len(times)
            feed = feeds[number % len(feeds)]
            row = [0.0] * len(prepared)
            for k in range(len(prepared)):
                i = (k + number) % len(prepared)
                row[i] = _time(prepared[i], feed, repeats[i], clock)
            times.append(row)
            spent = clock() - start
            total = rounds or max(_LEAST_ROUNDS, len(times), int(seconds * len(times) / max(spent, 1e-9)))
            progress(len(times), total)
            if rounds is not None:
                if len(times) >= rounds:
                    break
            elif len(times) >= _LEAST_ROUNDS and (spent >= seconds or _settled(np.array(times))):
                break
    finally:
        if enabled:
            gc.enable()
    table = np.array(times)
    return Latencies(
        tuple(_timing(name, table[:, i]) for i, name in enumerate(names)),
        tuple(_speedup(name, table[:, 0], table[:, i]) for i, name in enumerate(names) if i),
        len(table),
        threads,
    )


def shortest(
    runs: Sequence[Run],
    feeds: Feeds,
    *,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    hopeless: float = math.inf,
) -> tuple[list[float], int]:
    """The shortest single run of each of several short models, in seconds, and how many rounds were made.

    For small models on a machine that is not quiet: every run is timed alone, so one that was not disturbed counts even
    when its neighbours were; the models take turns, so all get such runs. The rounds end when each model came within
    AGREED of its shortest time in AGREEING of them: what was met that often was not disturbed.

    Args:
        runs: prepared models.
        feeds: of all of them.
        seconds: to spend in all, at most; at least _LEAST rounds are made.
        clock: a monotone clock in seconds.
        hopeless: models that take this many times what the first takes get only _FEW_ROUNDS rounds.
    """
    repeats = [_warm_up(run, feeds, clock, 2) for run in runs]
    best: list[list[float]] = [[] for _ in runs]  # the best times of each run, by round
    turn = list(range(len(runs)))
    enabled, rounds, start = gc.isenabled(), 0, clock()
    gc.disable()
    try:
        while rounds < _LEAST or (clock() - start < seconds and not all(_agree(best[i]) for i in turn)):
            for k in range(len(turn)):
                i = turn[(k + rounds) % len(turn)]
                least = math.inf
                for _ in range(repeats[i]):
                    least = min(least, _spent(runs[i], feeds, clock))
                best[i].append(least)
            rounds += 1
            if rounds == _FEW_ROUNDS:
                limit = hopeless * min(best[0])
                turn = [i for i in turn if i == 0 or min(best[i]) <= limit]
    finally:
        if enabled:
            gc.enable()
    return [min(times) for times in best], rounds


def _agree(times: Sequence[float]) -> bool:
    """Whether the shortest of several times was met often enough to be the model's own."""
    limit = (1 + AGREED) * min(times)
    return sum(value <= limit for value in times) >= AGREEING


def _warm_up(run: Run, feed: Feeds, clock: Callable[[], float], times: int = _WARM_UP) -> int:
    """Run a few times; how many runs make one timing."""
    shortest = math.inf
    for _ in range(times):
        shortest = min(shortest, _spent(run, feed, clock))
    return max(1, math.ceil(_SHORTEST / max(shortest, 1e-7)))


def _spent(run: Run, feed: Feeds, clock: Callable[[], float]) -> float:
    """Seconds of one run; inf when the clock did not move, as a thread's clock does not now and then."""
    start = clock()
    run(feed)
    spent = clock() - start
    return spent if spent > 0 else math.inf


def _time(run: Run, feed: Feeds, repeats: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(repeats):
        run(feed)
    return (clock() - start) / repeats


def _timing(name: str, times: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Timing:
    low, median, high = (float(v) for v in np.percentile(times, (25, 50, 75)))
    return Timing(name, median, float(times.min()), low, high)


def _speedup(
    name: str,
    base: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    times: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> Speedup:
    ratios = base / times
    low, median, high = (float(v) for v in np.percentile(ratios, (25, 50, 75)))
    return Speedup(name, median, low, high, float(base.min() / times.min()), _median_error(ratios))


def _median_error(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """Half the width of the 95 % interval of the median, from the order statistics that bracket it."""
    ordered, n = np.sort(values), len(values)
    reach = _Z * math.sqrt(n) / 2
    low, high = max(0, math.floor(n / 2 - reach)), min(n - 1, math.ceil(n / 2 + reach))
    return float(ordered[high] - ordered[low]) / 2


def _settled(table: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> bool:
    ratios = table[:, :1] / table if table.shape[1] > 1 else table / np.median(table)
    return all(_median_error(column) <= _PRECISION * float(np.median(column)) for column in ratios.T)
