"""Feeds training steps: batches in random order, varied, with the teacher's answers, which are asked once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from lwgraph.passes.recover.augment import augment
from lwgraph.passes.recover.crops import cut
from lwgraph.passes.recover.objectives import tensors
from lwgraph.passes.recover.sample_pool import Chunk, SamplePool

Tensor: TypeAlias = "torch.Tensor"
Values = Mapping[str, Tensor]
MOST_BYTES = 1 << 30  # memory for the teacher's answers that are kept


@dataclass(frozen=True)
class Fed:
    """Inputs of one run with the answers of the teacher, and labels where the data have any."""

    feeds: Values
    targets: Values
    labels: Tensor | None


class Feeder:
    """The steps of a run: rounds over a pool in random order.

    Round r is version r modulo `versions` of the data. A version has its own division into batches and its own random
    variations, the same each time that it comes round, so the teacher is asked once per batch and version, and its
    answers are kept (as long as they fit into `most` bytes; what does not is asked again). Where nothing is varied, the
    teacher is asked once per row, and every round has its own division into batches. What a step is fed depends on its
    number alone, so a resumed run goes on exactly as an uninterrupted one would.

    Args:
        pool: the rows.
        size: rows per step.
        versions: how many versions there are; 0: a new one in every round, and nothing is kept.
        augmentations: how to vary inputs; see `augment`.
        crops: inputs to cut squares out of, and the side of those; see `cut`.
        most: bytes of answers to keep, where that is less than MOST_BYTES.
        batched: inputs that have one row per sample.
        teacher: answers feeds.
        seed: of order and variations; different in every process.
    """

    def __init__(
        self,
        pool: SamplePool,
        size: int,
        versions: int,
        augmentations: Collection[str],
        batched: Collection[str],
        teacher: Callable[[Values], Values],
        seed: tuple[int, ...],
        crops: tuple[tuple[str, ...], int] = ((), 0),
        most: int = MOST_BYTES,
    ) -> None:
        self._pool, self._size, self._versions, self._seed = pool, size, versions, seed
        self._augmentations, self._batched, self._teacher = augmentations, batched, teacher
        self._kept: dict[tuple[int, ...], Values] = {}
        self._crops, self._most = crops, min(most, MOST_BYTES)
        varied = bool(augmentations or crops[0])
        self._by_row: bool | None = None if versions and not varied else False  # None: not known yet
        # Every version has equally many steps, so the number of a step says which round it is in.
        self._count = len(pool.round(size, np.random.default_rng(0)))
        self.bytes = 0  # memory of the answers kept
        self.asked = 0  # batches for which the teacher was asked

    def steps(self, start: int) -> Iterator[Iterator[Fed]]:
        """Yield, without end, the runs of each step from `start` on: one, or several where the batch is fixed."""
        if self._by_row is None:
            self._by_row = self._answers_have_rows()
        while True:
            number, first = divmod(start, self._count)
            version = number % self._versions if self._versions and not self._by_row else number
            steps = self._pool.round(self._size, np.random.default_rng((*self._seed, version)))
            order = np.random.default_rng((*self._seed, number, 1)).permutation(self._count)
            for at in order[first:]:
                yield self._feed(version, int(at), steps[at])
                start += 1

    def _feed(self, version: int, step: int, chunks: list[Chunk]) -> Iterator[Fed]:
        for index, chunk in enumerate(chunks):
            batch = chunk.batch()
            feeds = tensors(batch.feeds)
            if self._augmentations or self._crops[0]:
                draw = np.random.default_rng((*self._seed, version, step, index, 2)).integers(2**62)
                generator = torch.Generator().manual_seed(int(draw))
                feeds = cut(feeds, *self._crops, generator)
                feeds = tensors(augment(feeds, self._augmentations, self._batched, generator))
            labels = None if batch.labels is None else torch.from_numpy(batch.labels.astype(np.int64))
            answers = self._of_rows(chunk, feeds) if self._by_row else self._answers((version, step, index), feeds)
            yield Fed(feeds, answers, labels)

    def _answers_have_rows(self) -> bool:
        """Whether every answer to a small batch has one row for each of its rows."""
        chunk = self._pool.round(2, np.random.default_rng(0))[0][0]
        answers = self._teacher(tensors(chunk.batch().feeds))
        return all(t.ndim > 0 and len(t) == len(chunk.at) for t in answers.values())

    def _of_rows(self, chunk: Chunk, feeds: Values) -> Values:
        keys = [(id(chunk.bucket), int(row)) for row in chunk.at]
        if all(key in self._kept for key in keys):
            rows = [self._kept[key] for key in keys]
            return tensors({name: torch.stack([row[name] for row in rows]) for name in rows[0]})
        answers = self._ask(feeds)
        for index, key in enumerate(keys):
            if key not in self._kept:
                self._keep(key, {name: t[index].clone() for name, t in answers.items()})
        return answers

    def _answers(self, key: tuple[int, ...], feeds: Values) -> Values:
        if key in self._kept:
            return self._kept[key]
        answers = self._ask(feeds)
        if self._versions:
            self._keep(key, answers)
        return answers

    def _ask(self, feeds: Values) -> Values:
        self.asked += 1
        return self._teacher(feeds)

    def _keep(self, key: tuple[int, ...], answers: Values) -> None:
        size = sum(t.numel() * t.element_size() for t in answers.values())
        if self.bytes + size <= self._most:
            self._kept[key] = answers
            self.bytes += size
