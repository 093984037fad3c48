"""Judges candidates on samples one after the other, and drops one as soon as it has surely lost.

A metric with one value for each sample is raced by these values against the original's. Of a metric that is one number
of a whole set nothing is known before the end, so that the outputs are raced: the distances of a candidate's from the
original's, against those of a plan that was judged on all samples before and had lost too much. That is what calibrates
them; until there is such a plan, every candidate is judged on all samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lwgraph.arrays import Array, Floats
from lwgraph.calibrate.store import Store
from lwgraph.executor import Feeds, Run
from lwgraph.measure.betting import Bet
from lwgraph.measure.metrics import Metric
from lwgraph.measure.score import Score, Values, score_of

ERROR = 0.01  # the probability that a candidate is dropped which keeps the promise, or is as near as another
CLEARLY = 1.5  # times the distance of a plan that lost too much
WIDEST = 4.0  # times its mean distance: that of one sample counts for no more
CALIBRATED = 3  # plans at least that were judged on all samples
KEPT_BYTES = 256 << 20  # memory for the original's outputs; the rest goes to temporary files
HASHED = 1 << 12  # bytes of an input that tell it from others


@dataclass(frozen=True)
class Raced:
    """What a race told of a candidate.

    Attributes:
        score: of the metric; where it was dropped, on the samples until then, None where these have no values.
        dropped: whether it surely lost, before all samples were seen.
    """

    score: Score | None
    dropped: bool = False


class SampleRace:
    """Races the values of the samples, whose order must be random.

    Args:
        metric: with a value for each sample.
    """

    def __init__(self, metric: Metric) -> None:
        self.metric, self.dropped = metric, 0
        self._base: Score | None = None
        self._most = 0.0

    def original(self, run: Run) -> Run:
        """The original's run, to be scored by: as it is."""
        return run

    def start(self, base: Score, floor: float) -> None:
        """Take the original's score, and the least one that keeps the promise."""
        self._base, self._most = base, base.value - floor

    def run(self, run: Run) -> Raced:
        """Race one candidate: stop where the mean loss is surely more than allowed."""
        assert self._base is not None and self._base.samples is not None
        lowest = 0.0 if self.metric.to_original else -self.metric.span
        bet, found, at = Bet(self._most, lowest, ERROR), list[Values](), 0
        for part in self.metric.values(run) or ():
            found.append(part)
            values = part.values
            lost = bet.add(self._base.samples[at : at + len(values)] - values)
            at += len(values)
            if lost and at < len(self._base.samples):
                self.dropped += 1
                return Raced(score_of(found), True)
        return Raced(score_of(found))

    def told(self) -> str:
        """One line on the candidates that were dropped; "" where none was."""
        if not self.dropped:
            return ""
        return (
            f"{_plans(self.dropped)} dropped early: with "
            f"{100 * (1 - ERROR):g} % confidence, more is lost than the promise allows"
        )


class OutputRace:
    """Races the distances of outputs from the original's.

    Args:
        metric: of which nothing but one number is known.
    """

    def __init__(self, metric: Metric) -> None:
        self.metric, self.dropped = metric, 0
        self._outputs = Store(KEPT_BYTES)
        self._inputs: list[bytes] = []
        self._powers: dict[int, list[Floats]] = {}  # of these outputs, by call
        self._floor = 0.0
        self._judged: list[tuple[Floats, bool]] = []  # the distances of each plan, and whether it was good

    def original(self, run: Run) -> Run:
        """The original's run, to be scored by: it remembers inputs and outputs in their order."""

        def remembering(feeds: Feeds) -> dict[str, Array]:
            outputs = run(feeds)
            self._outputs.put(len(self._inputs), tuple(_floats(outputs).values()))
            self._inputs.append(_digest(feeds))
            return outputs

        return remembering

    def start(self, base: Score, floor: float) -> None:
        """Take the original's score, and the least one that keeps the promise."""
        self._floor = floor

    def run(self, run: Run) -> Raced:
        """Race one candidate: stop where its outputs are CLEARLY farther than those of a plan that lost too much."""
        against = self._against()
        widest = 0.0 if against is None else WIDEST * float(against.mean())
        bet = None if against is None or not widest > 0 else Bet(0.0, -CLEARLY, ERROR)
        found: list[Floats] = []
        calls, at, comparable = 0, 0, True

        def watched(feeds: Feeds) -> dict[str, Array]:
            nonlocal calls, at, comparable
            outputs = run(feeds)
            distances = self._distances(calls, feeds, outputs) if comparable else None
            calls += 1
            if distances is None:  # another order of inputs than the original's
                comparable = False
                return outputs
            found.append(distances)
            if bet is not None and against is not None and at + len(distances) < len(against):
                theirs = against[at : at + len(distances)]
                mine, other = (np.minimum(values, widest) / widest for values in (distances, theirs))
                if bet.add(mine - CLEARLY * other):
                    raise _DroppedError
            at += len(distances)
            return outputs

        try:
            score = self.metric(watched)
        except _DroppedError:
            score = None
        if score is None or (bet is not None and bet.over):  # a metric that catches everything goes on regardless
            self.dropped += 1
            return Raced(None, True)
        if comparable and calls == len(self._inputs) and found:
            self._judged.append((np.concatenate(found), score.value >= self._floor))
        return Raced(score)

    def told(self) -> str:
        """One line on the candidates that were dropped; "" where none was."""
        if not self.dropped:
            return ""
        return (
            f"{_plans(self.dropped)} dropped before metric '{self.metric.name}' had seen all: by "
            f"{100 * (1 - ERROR):g} % confidence their outputs are {CLEARLY:g} times as far from the original's as "
            f"those of a plan that had lost too much (distances calibrated on {len(self._judged)} plans judged in full)"
        )

    def _against(self) -> Floats | None:
        """The distances of the nearest plan that lost too much, of those that are farther than all good ones."""
        if len(self._judged) < CALIBRATED:
            return None
        good = max((float(d.mean()) for d, kept in self._judged if kept), default=0.0)
        bad = [d for d, kept in self._judged if not kept and float(d.mean()) > good]
        return min(bad, key=lambda d: float(d.mean()), default=None)

    def _distances(self, call: int, feeds: Feeds, outputs: Mapping[str, Any]) -> Floats | None:
        """(n,) of each row of the inputs, r / (1 + r) of the relative squared error r; None: not comparable."""
        if call >= len(self._inputs) or self._inputs[call] != _digest(feeds):
            return None
        wanted, found = self._outputs.get(call), list(_floats(outputs).values())
        if (
            not wanted
            or len(found) != len(wanted)
            or any(a.shape != b.shape for a, b in zip(wanted, found, strict=True))
        ):
            return None
        rows = next((len(array) for array in map(np.asarray, feeds.values()) if array.ndim), 1)
        if call not in self._powers:
            self._powers[call] = [_power(y, rows) for y in wanted]
        errors = []
        for y, z, power in zip(wanted, found, self._powers[call], strict=True):
            count = len(power)
            apart = np.subtract(y, z, dtype=np.float64).reshape(count, -1)
            error = np.einsum("ij,ij->i", apart, apart) / power
            share = np.where(np.isfinite(error), error / (1 + np.minimum(error, 1e300)), 1.0)
            errors.append(share if count == rows else np.full(1, share.mean()))
        if len({len(each) for each in errors}) > 1:
            errors = [np.full(1, each.mean()) for each in errors]
        distances: Floats = np.mean(errors, axis=0)
        return distances


class _DroppedError(BaseException):
    """Raised through the user's metric, which may catch exceptions but not this."""


def open_race(metric: Metric) -> SampleRace | OutputRace:
    """The race that suits a metric."""
    return SampleRace(metric) if metric.per_sample else OutputRace(metric)


def _power(y: Array, rows: int) -> Floats:
    """(n,) what squared errors of an output are relative to, over 0; n is `rows`, where it has a row for each, or 1."""
    y = y.reshape(rows if y.ndim > 1 and len(y) == rows else 1, -1).astype(np.float64)
    power = np.square(y - y.mean(axis=1, keepdims=True)).sum(axis=1)
    found: Floats = np.maximum(power, 1e-12 * np.square(y).sum(axis=1) + 1e-300)
    return found


def _plans(count: int) -> str:
    return f"{count} plan{'s were' if count != 1 else ' was'}"


def _floats(outputs: Mapping[str, Any]) -> dict[str, Array]:
    return {
        name: value
        for name, value in outputs.items()
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size
    }


def _digest(feeds: Feeds) -> bytes:
    """What tells one input from another: names, shapes, and HASHED bytes spread over each array."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in feeds.items():
        array = np.asarray(value)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        flat = array.reshape(-1)
        step = max(1, flat.size * flat.itemsize // HASHED)
        digest.update(np.ascontiguousarray(flat[::step]).tobytes())
    return digest.digest()


__all__ = ["CLEARLY", "ERROR", "OutputRace", "Raced", "SampleRace", "open_race"]
