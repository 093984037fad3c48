"""Calibration samples as a pool of rows from which training draws batches, and a part of it that it never sees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lwgraph.arrays import Array
from lwgraph.calibrate.signature import Signature, batched_inputs
from lwgraph.errors import DataError

Feed = dict[str, Array]


@dataclass(frozen=True)
class _Bucket:
    """Rows that may stand in one batch: batched inputs of one shape each, and equal values of all other inputs."""

    rows: Feed  # (N, ...) each
    shared: Feed
    labels: Array | None

    def __len__(self) -> int:
        return len(next(iter(self.rows.values()))) if self.rows else 1

    def pick(self, at: Array) -> Feed:
        return {**{name: array[at] for name, array in self.rows.items()}, **self.shared}


@dataclass(frozen=True)
class TrainingBatch:
    """The feeds of one run, with `labels` where the data have any."""

    feeds: Feed
    labels: Array | None = None


@dataclass(frozen=True)
class Chunk:
    """Which rows stand in a batch; their contents are copied when it is asked for."""

    bucket: _Bucket
    at: Array

    def batch(self) -> TrainingBatch:
        """The rows."""
        labels = self.bucket.labels
        return TrainingBatch(self.bucket.pick(self.at), None if labels is None else labels[self.at])


class SamplePool:
    """Rows of calibration data in memory.

    Args:
        feeds: the samples, each a {input: array} of one or more rows.
        inputs: what the model takes; a fixed first dimension fixes the size of every batch.
        labels: one per row, or None.

    Raises:
        DataError: there are no samples.
    """

    def __init__(self, feeds: Iterable[Mapping[str, Array]], inputs: Signature, labels: Array | None = None) -> None:
        batched = batched_inputs(inputs)
        lead = next((i.shape[0] for n, i in inputs.items() if n in batched and i.shape), None)
        self.fixed = lead if isinstance(lead, int) else None
        groups: dict[Any, list[tuple[Mapping[str, Array], Array | None]]] = {}
        start = 0
        for feed in feeds:
            inside = {n: np.asarray(a) for n, a in feed.items()}
            count = next((len(inside[n]) for n in inside if n in batched), 1)
            key = tuple((n, a.shape[1:]) if n in batched else (n, a.shape, a.tobytes()) for n, a in inside.items())
            groups.setdefault(key, []).append((inside, None if labels is None else labels[start : start + count]))
            start += count
        if not groups:
            raise DataError("recovery needs calibration samples; there are none")
        self.buckets = [_bucket(group, batched) for group in groups.values()]

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self.buckets)

    def split(self, share: float, most: int, seed: int) -> tuple[SamplePool, SamplePool]:
        """The pool without a random share of its rows (at most `most`, at least one), and those.

        A single row is in both parts: there is nothing else to judge by.
        """
        total = len(self)
        count = min(most, max(1, round(share * total)), max(1, total - 1))
        chosen = np.zeros(total, bool)
        chosen[np.random.default_rng(seed).permutation(total)[:count]] = True
        return self._part(~chosen if total > 1 else chosen), self._part(chosen)

    def _part(self, keep: Array) -> SamplePool:
        part = object.__new__(SamplePool)
        part.fixed, part.buckets, start = self.fixed, [], 0
        for bucket in self.buckets:
            at = np.flatnonzero(keep[start : start + len(bucket)])
            start += len(bucket)
            if len(at):
                labels = None if bucket.labels is None else bucket.labels[at]
                part.buckets.append(_Bucket({n: a[at] for n, a in bucket.rows.items()}, bucket.shared, labels))
        return part

    def round(self, size: int, rng: np.random.Generator) -> list[list[Chunk]]:
        """Each row once, in random order: one list per step, of batches that together have about `size` rows.

        The list has one batch, unless the model fixes its batch size. How many steps there are depends on `size` alone.
        """
        chunks = list(self._chunks(self.fixed or size, rng))
        order = rng.permutation(len(chunks))
        together = max(1, size // self.fixed) if self.fixed else 1
        return [[chunks[i] for i in order[s : s + together]] for s in range(0, len(chunks), together)]

    def batches(self, size: int) -> Iterator[TrainingBatch]:
        """Every row once, in order."""
        for chunk in self._chunks(self.fixed or size, None):
            yield chunk.batch()

    def _chunks(self, size: int, rng: np.random.Generator | None) -> Iterator[Chunk]:
        for bucket in self.buckets:
            order = np.arange(len(bucket)) if rng is None else rng.permutation(len(bucket))
            for start in range(0, len(order), size):
                at = order[start : start + size]
                if self.fixed and len(at) < self.fixed:  # a fixed batch is filled up by repetition
                    at = np.resize(at, self.fixed)
                yield Chunk(bucket, at)


def _bucket(group: list[tuple[Mapping[str, Array], Array | None]], batched: frozenset[str]) -> _Bucket:
    first = group[0][0]
    rows = {n: np.concatenate([feed[n] for feed, _ in group]) for n in first if n in batched}
    shared = {n: a for n, a in first.items() if n not in batched}
    labels = [part for _, part in group if part is not None]
    return _Bucket(rows, shared, np.concatenate(labels) if labels else None)
