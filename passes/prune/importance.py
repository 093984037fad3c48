"""Which channels of a group matter least, and what leaving them out costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from lwgraph import ir
from lwgraph.errors import UsageError, did_you_mean
from lwgraph.objects import load_object
from lwgraph.passes.prune.scene import Ints, Reader, Scene
from lwgraph.plan.fit import Block
from lwgraph.views.coupling import Group

Array = npt.NDArray[np.float64]
MEMORY_BYTES = 1 << 30  # of all inverses that the greedy choice updates


@dataclass(frozen=True, eq=False)
class Ranking:
    """Channels in the order in which to remove them.

    Attributes:
        order: (width,) positions in the group, least important first.
        cost: (width + 1,) what removing the first k costs: the summed relative output error ||Y - Yhat||^2 / ||Y -
            mean Y||^2 of the layers that read them, or a share of the group's weight for measures without data.
    """

    order: Ints
    cost: Array


class Importance(ABC):
    """A way to rank channels. Subclass it and name it `module:Class` in the pass's option `importance`.

    One instance ranks all groups of a model, so that it may keep what it finds out in between.
    """

    name: ClassVar[str]
    needs_data: ClassVar[bool] = False

    @abstractmethod
    def rank(self, group: Group, scene: Scene) -> Ranking:
        """Rank the channels of one group."""


def by_score(scores: Array) -> Ranking:
    """The ranking of a score per channel, its cost the share of the scores that is gone."""
    order = np.argsort(scores, kind="stable")
    total = float(scores.sum())
    cost = np.cumsum(np.r_[0.0, scores[order]])
    return Ranking(order, cost / total if total > 0 else np.zeros(len(scores) + 1))


def _norms(group: Group, power: float, *roles: str) -> Array:
    """(width,) sum of |w|^power over what the group's constants of some roles hold of each channel."""
    total = np.zeros(group.width)
    for each in group.weights(*roles):
        array = ir.constant(each.axis.value)
        if array is not None and array.dtype.kind == "f":
            rows = np.abs(np.moveaxis(array, each.axis.axis, 0).reshape(each.axis.size, -1).astype(np.float64))
            total += (rows**power).sum(1)[each.indices].sum(1)
    return total


class L1(Importance):
    """The absolute weights that make a channel (Li et al. 2017, "Pruning Filters for Efficient ConvNets")."""

    name = "l1"

    def rank(self, group: Group, scene: Scene) -> Ranking:
        """See `Importance.rank`."""
        return by_score(_norms(group, 1.0, "out"))


class L2(Importance):
    """The squared weights that make a channel, times those that read it."""

    name = "l2"

    def rank(self, group: Group, scene: Scene) -> Ranking:
        """See `Importance.rank`."""
        made, read = _norms(group, 2.0, "out"), _norms(group, 2.0, "in")
        return by_score(made * read if read.any() else made)


class Activation(Importance):
    """What a channel adds to the layers that read it: |weights|^2 times the second moment of its values.

    The structured form of Wanda's score (Sun et al. 2024, "A Simple and Effective Pruning Approach", eq. 1).
    """

    name = "activation"
    needs_data = True

    def rank(self, group: Group, scene: Scene) -> Ranking:
        """See `Importance.rank`."""
        total = np.zeros(group.width)
        for reader in scene.readers(group):
            moments = scene.moments(reader)
            power = sum(block.power for block in moments.blocks) or 1.0
            for block, columns in zip(moments.blocks, reader.columns, strict=True):
                each = np.diagonal(block.moments) * np.square(block.matrix).sum(0)
                total += each[columns].sum(1) / power
        return by_score(total) if total.any() else L2().rank(group, scene)


class Obs(Importance):
    """Structured optimal brain surgeon: the error that is left after the other weights made up for what was removed.

    Removing the columns B of a weight W read through moments R costs tr(W_B (R^-1)_BB^-1 W_B^T), and what remains is
    updated (Kurtic et al. 2023, "ZipLM", section 3; Frantar and Alistarh 2022, "Optimal Brain Compression"). Costs are
    summed over the layers that read the group. Channels go in rounds of 1/32 of the group, jointly exact within each;
    a group whose inverses exceed MEMORY_BYTES goes in a single round. O(rounds * D^2 * D/32) per layer with patches
    of length D.
    """

    name = "obs"
    needs_data = True
    rounds: ClassVar[int] = 32

    def rank(self, group: Group, scene: Scene) -> Ranking:
        """See `Importance.rank`."""
        readers = scene.readers(group)
        if not readers:
            return L2().rank(group, scene)
        size = sum(8 * len(reader.columns) * reader.site.fan_in**2 for reader in readers)
        if size > MEMORY_BYTES:
            total = np.zeros(group.width)
            for reader in readers:
                total += _costs(_parts(scene, [reader]), np.arange(group.width))
            return by_score(total)
        parts = _parts(scene, readers)
        alive = np.arange(group.width)
        order: list[int] = []
        marks, cost = [0], [0.0]
        step = -(-group.width // self.rounds)
        while len(alive):
            chosen = alive[np.argsort(_costs(parts, alive), kind="stable")[:step]]
            cost.append(cost[-1] + sum(part.remove(chosen) for part in parts))
            order += chosen.tolist()
            marks.append(len(order))
            alive = np.setdiff1d(alive, chosen)
        return Ranking(np.array(order), np.interp(np.arange(group.width + 1), marks, cost))


class _Part:
    """One weight (of one group of a layer) whose columns go: W and the inverse of its moments, for what is left."""

    def __init__(self, block: Block, columns: Ints, scale: float) -> None:
        self.weight = np.array(block.matrix)
        self.inverse = np.linalg.inv(block.moments)
        self.columns, self.scale = columns.copy(), scale

    def costs(self, alive: Ints) -> Array:
        """The cost of each channel alone."""
        columns = self.columns[alive]
        blocks = self.inverse[columns[:, :, None], columns[:, None, :]]
        weights = self.weight[:, columns].transpose(1, 2, 0)  # (n, t, o)
        return np.asarray((weights * np.linalg.solve(blocks, weights)).sum((1, 2)) * self.scale)

    def remove(self, channels: Ints) -> float:
        """Remove channels, update what is left, and return the cost."""
        gone = self.columns[channels].reshape(-1)
        weight = self.weight[:, gone]
        solved = np.linalg.solve(self.inverse[np.ix_(gone, gone)], np.column_stack([weight.T, self.inverse[gone]]))
        cost = float((weight.T * solved[:, :len(weight)]).sum()) * self.scale
        kept = np.ones(len(self.inverse), bool)
        kept[gone] = False
        update = solved[:, len(weight):][:, kept]
        self.weight = self.weight[:, kept] - weight @ update
        self.inverse = self.inverse[np.ix_(kept, kept)] - self.inverse[np.ix_(kept, gone)] @ update
        self.columns = (np.cumsum(kept) - 1)[self.columns]  # those of removed channels are never asked for again
        return max(0.0, cost)


def _parts(scene: Scene, readers: list[Reader]) -> list[_Part]:
    found = []
    for reader in readers:
        moments = scene.moments(reader)
        power = sum(block.power for block in moments.blocks)
        found += [_Part(block, columns, 1 / power if power > 0 else 0.0)
                  for block, columns in zip(moments.blocks, reader.columns, strict=True)]
    return found


def _costs(parts: list[_Part], alive: Ints) -> Array:
    return np.asarray(sum(part.costs(alive) for part in parts))


BUILT_IN: dict[str, type[Importance]] = {each.name: each for each in (L1, L2, Activation, Obs)}
MORE = {"fold": "lwgraph.passes.prune.fold:Fold", "taylor": "lwgraph.passes.prune.taylor:Taylor"}  # loaded when used


def importance(name: str) -> Importance:
    """A built-in importance by name, or `module:Class`.

    Raises:
        UsageError: unknown, or no Importance.
    """
    name = MORE.get(name, name)
    if ":" in name:
        found = load_object(name, "importance")
        if not (isinstance(found, type) and issubclass(found, Importance)):
            raise UsageError(f"'{name}' is not an importance; allowed: a class derived from "
                             "lwgraph.passes.prune.importance.Importance")
        return found()
    if name not in BUILT_IN:
        raise UsageError(f"importance '{name}' is unknown{did_you_mean(name, [*BUILT_IN, *MORE])}")
    return BUILT_IN[name]()
