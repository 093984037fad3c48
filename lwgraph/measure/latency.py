"""Paired, interleaved latency: which of several models is faster, and by how much, on a machine that is not quiet."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import psutil

from lwgraph.arrays import Floats
from lwgraph.executor import Feeds, Run, fit_together

_SHORTEST = 2e-3  # seconds: a timing shorter than this is repeated, so that the clock and Python cost nothing
_WARM_UP = 3  # runs of each model before timing, at least
_LEAST_ROUNDS = 7
_LEAST = 5  # rounds in which a shortest time is looked for
_FEW_ROUNDS = 3  # rounds for models that are too slow to be of use
AGREEING, AGREED = 3, 0.02  # rounds, and how near to each other, that make a shortest time credible
_PRECISION = 0.02  # stop when the intervals of the ratios are this wide, relative to them
_DRIFT = 0.02  # what a ratio may differ by from one process to the next on a quiet machine
_CROWDED = 0.18  # what more it may differ by where other work has all processors: they share caches and memory
_APART = 0.02  # what more it may differ by where models were timed one after the other
_SUBSETS = 400  # of half of the rounds, on which ratios are looked at
_CHECKS = 1.25  # the rounds that are made between two looks at the intervals grow by this factor
WIDEST = 0.15  # an interval wider than this, relative to its ratio, settles nothing
_Z = 1.959964


def _processors() -> tuple[float, float]:
    """Seconds that all processors of the machine worked, and were there, since it started."""
    spent = psutil.cpu_times()
    idle = spent.idle + getattr(spent, "iowait", 0.0)
    # Linux counts the time of guests among that of the users, too.
    total = sum(spent) - getattr(spent, "guest", 0.0) - getattr(spent, "guest_nice", 0.0)
    return total - idle, total


# Windows counts a process's time in steps of 16 ms, which says nothing of a single run.
_worked = time.process_time if hasattr(time, "pthread_getcpuclockid") else None


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

    Attributes:
        name: of the model.
        ratio: of the fastest runs of both, which other work on the machine can only lengthen; what is told as the
            speed, where it is `settled`.
        interval: of the ratio, 95 %. It holds the ratios of the fastest runs in half of the rounds, and those that
            would be had if a fastest run had not waited for the processor; and it is the wider, the more of the
            machine other work had, which slows models that read more memory by more.
        median: the median over rounds of the paired ratio.
        low: its first quartile.
        high: its third quartile.
        error: the half width of the median's 95 % interval.
        load: how many processes wanted a processor meanwhile, on average; 0 where the system does not tell.
    """

    name: str
    ratio: float
    interval: tuple[float, float]
    median: float
    low: float
    high: float
    error: float
    load: float = 0.0

    @property
    def settled(self) -> bool:
        """Whether the interval is narrow enough for the ratio to be told."""
        return self.interval[1] - self.interval[0] <= WIDEST * self.ratio

    @property
    def told(self) -> float | None:
        """The ratio, where it is settled."""
        return self.ratio if self.settled else None

    @property
    def text(self) -> str:
        """The speed as it is told: the ratio, or that it is not settled, and why."""
        if self.settled:
            return f"{self.ratio:.2f}x"
        why = f"other work on this machine: load {self.load:.1f}" if self.load > 1.5 else "give it more time"
        return f"not settled ({why})"

    @property
    def span(self) -> str:
        """The interval, as it is told."""
        return f"{self.interval[0]:.2f}x to {self.interval[1]:.2f}x"

    def __str__(self) -> str:
        return f"{self.text}, {self.span}"


@dataclass(frozen=True)
class Latencies:
    """Timings of all models and the speed-ups of all but the first against the first.

    Attributes:
        timings: of all models.
        speedups: of all but the first.
        rounds: how many were made.
        threads: of the runs.
        apart: whether models were timed one after the other, as they cannot be held together.
    """

    timings: tuple[Timing, ...]
    speedups: tuple[Speedup, ...]
    rounds: int
    threads: int
    apart: bool = False

    def timing(self, name: str) -> Timing:
        """The timing of one model."""
        return next(t for t in self.timings if t.name == name)

    def speedup(self, name: str) -> Speedup:
        """The speed-up of one model against the first; 1 for the first itself."""
        if name == self.timings[0].name:
            return Speedup(name, 1.0, (1.0, 1.0), 1.0, 1.0, 1.0, 0.0)
        return next(s for s in self.speedups if s.name == name)


def paired_latency(
    runs: Mapping[str, Run],
    feeds: Sequence[Feeds],
    *,
    threads: int = 1,
    rounds: int | None = None,
    seconds: float = 5.0,
    patience: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
    worked: Callable[[], float] | None = _worked,
    processors: Callable[[], tuple[float, float]] | None = _processors,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Latencies:
    """Time models against each other in rounds; each round runs all of them on the same feed, in turning order.

    Other work on the machine only ever lengthens a run, so the fastest runs say most of the models themselves. A long
    run may never have the processor to itself: on one thread, the processor time of the fastest run tells how much of
    it was waiting, and the interval of the ratio leaves room for that. Garbage collection is off meanwhile. Models that
    cannot be held together (`lwgraph.executor.LargeWeights`) do not take turns: all rounds of one are made, then all of
    the next.

    Args:
        runs: prepared models by name; the first is what the others are compared with.
        feeds: used in turn.
        threads: what the runs were prepared with; reported, not set.
        rounds: how many; None: until the ratios' intervals are within 2 %, for at least 7 rounds and at most about
            `seconds` in all.
        seconds: the time limit of adaptive rounds.
        patience: more seconds that may be spent while a ratio is not settled.
        clock: a monotone clock in seconds.
        worked: seconds in which this process had a processor; None: not known.
        processors: seconds that all processors worked, and were there; None: not known.
        progress: called with (rounds done, rounds expected at most).
    """
    if not runs or not feeds:
        raise ValueError("latency needs at least one run and one feed")
    names, prepared = list(runs), list(runs.values())
    busy = worked if threads == 1 else None  # several threads wait for each other, too
    others, apart = _Others(processors), not fit_together(prepared)
    enabled = gc.isenabled()
    gc.disable()
    try:
        if apart:
            columns = []
            for run in prepared:
                part, more = seconds / len(prepared), patience / len(prepared)
                columns.append(_rounds([run], feeds, rounds, part, more, clock, busy, progress))
            least = min(map(len, columns))
            table = np.concatenate([column[:least] for column in columns], axis=1)
        else:
            table = _rounds(prepared, feeds, rounds, seconds, patience, clock, busy, progress)
    finally:
        if enabled:
            gc.enable()
    share = others.share()
    # The system's mean is of the last minute, and may not know yet of work that has all processors since a moment ago.
    load = max(os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, share * (psutil.cpu_count() or 1) + 1)
    drift = _DRIFT + _CROWDED * share + _APART * apart
    return Latencies(
        tuple(_timing(name, table[:, i]) for i, name in enumerate(names)),
        tuple(_speedup(name, table[:, 0], table[:, i], load, drift) for i, name in enumerate(names) if i),
        len(table),
        threads,
        apart,
    )


def _rounds(
    runs: Sequence[Run],
    feeds: Sequence[Feeds],
    rounds: int | None,
    seconds: float,
    patience: float,
    clock: Callable[[], float],
    busy: Callable[[], float] | None,
    progress: Callable[[int, int], None],
) -> Floats:
    """The times of rounds in which all of the runs take turns, (rounds, runs, 3)."""
    repeats = [_warm_up(run, feeds[0], clock) for run in runs]
    times: list[list[_Times]] = []
    start, look, limit = clock(), _LEAST_ROUNDS, seconds
    while True:
        number = len(times)
        feed = feeds[number % len(feeds)]
        row = [_NEVER] * len(runs)
        for k in range(len(runs)):
            i = (k + number) % len(runs)
            row[i] = _time(runs[i], feed, repeats[i], clock, busy)
        times.append(row)
        spent = clock() - start
        total = rounds or max(_LEAST_ROUNDS, len(times), int(seconds * len(times) / max(spent, 1e-9)))
        progress(len(times), total)
        if rounds is not None:
            if len(times) >= rounds:
                break
        elif len(times) >= _LEAST_ROUNDS and spent >= limit:
            if limit >= seconds + patience or _settled(np.array(times), WIDEST):
                break
            limit = min(max(limit * _CHECKS, spent), seconds + patience)
        elif len(times) >= look:
            look = math.ceil(_CHECKS * look)
            if _settled(np.array(times)):
                break
    return np.array(times)


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
    if len(runs) > 1 and not fit_together(runs):
        found = [shortest([run], feeds, seconds=seconds / len(runs), clock=clock) for run in runs]
        return [least[0] for least, _ in found], min(made for _, made in found)
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


class _Others:
    """The work of other processes since it was made."""

    def __init__(self, processors: Callable[[], tuple[float, float]] | None) -> None:
        self._processors = processors
        self._start = self._now()

    def _now(self) -> tuple[float, float, float]:
        return (0.0, 0.0, 0.0) if self._processors is None else (*self._processors(), time.process_time())

    def share(self) -> float:
        """The share of the machine, less what this process had, that others had: from 0 to 1."""
        worked, there, own = (now - then for now, then in zip(self._now(), self._start, strict=True))
        return min(1.0, max(0.0, worked - own) / (there - own)) if there > own else 0.0


_Times = tuple[float, float, float]  # seconds per run of one timing: the mean, the fastest, what that one worked
_NEVER: _Times = (0.0, 0.0, 0.0)


def _time(
    run: Run, feed: Feeds, repeats: int, clock: Callable[[], float], worked: Callable[[], float] | None
) -> _Times:
    begin, fastest, busy = clock(), math.inf, math.inf
    for _ in range(repeats):
        before = 0.0 if worked is None else worked()
        start = clock()
        run(feed)
        spent = clock() - start
        if spent < fastest:
            fastest, busy = spent, spent if worked is None else min(spent, worked() - before)
    return (clock() - begin) / repeats, fastest, busy


def _timing(name: str, times: Floats) -> Timing:
    low, median, high = (float(v) for v in np.percentile(times[:, 0], (25, 50, 75)))
    return Timing(name, median, float(times[:, 1].min()), low, high)


def _speedup(name: str, base: Floats, times: Floats, load: float, drift: float) -> Speedup:
    ratios = base[:, 0] / times[:, 0]
    low, median, high = (float(v) for v in np.percentile(ratios, (25, 50, 75)))
    least, most = _interval(base, times)
    interval = (least / (1 + drift), most * (1 + drift))
    return Speedup(name, _ratio(base, times), interval, median, low, high, _median_error(ratios), load)


def _ratio(base: Floats, times: Floats) -> float:
    return float(base[:, 1].min() / times[:, 1].min())


def _interval(base: Floats, times: Floats) -> tuple[float, float]:
    """The 95 % interval of the ratio of the fastest runs, by subsampling: halves of the rounds without replacement.

    The plain bootstrap is not consistent for a minimum, subsampling is (Politis, Romano 1994).
    """
    rng, rounds = np.random.default_rng(0), len(base)
    picks = rng.random((_SUBSETS, rounds)).argsort(axis=1)[:, : -(-rounds // 2)]
    low, high = np.percentile(base[picks, 1].min(axis=1) / times[picks, 1].min(axis=1), (2.5, 97.5))
    first, second = base[base[:, 1].argmin()], times[times[:, 1].argmin()]
    ratio = first[1] / second[1]
    at_least, at_most = first[2] / second[1], first[1] / max(second[2], 1e-12)
    return float(min(low, ratio, at_least)), float(max(high, ratio, at_most))


def _median_error(values: Floats) -> float:
    """Half the width of the 95 % interval of the median, from the order statistics that bracket it."""
    ordered, n = np.sort(values), len(values)
    reach = _Z * math.sqrt(n) / 2
    low, high = max(0, math.floor(n / 2 - reach)), min(n - 1, math.ceil(n / 2 + reach))
    return float(ordered[high] - ordered[low]) / 2


def _settled(table: Floats, width: float = _PRECISION) -> bool:
    """Whether the intervals of all ratios, (rounds, models, 3), are narrow; of one model alone, its fastest runs."""
    others = range(1, table.shape[1])
    if not others:
        times = np.sort(table[:, 0, 1])
        return bool(times[len(times) // 4] <= (1 + width) * times[0])
    for i in others:
        low, high = _interval(table[:, 0], table[:, i])
        if high - low > width * _ratio(table[:, 0], table[:, i]):
            return False
    return True
