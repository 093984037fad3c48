"""Importances: rank the channels of a group, and estimate the cost of removing them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Floats, Ints
from lwgraph.errors import UsageError, did_you_mean
from lwgraph.layers.factored import Factored
from lwgraph.layers.moments import Block, Moments
from lwgraph.objects import load_object
from lwgraph.passes.prune.readers import GroupReader, PruneView
from lwgraph.views.coupling import Group

STRIP, SPARSE = 256, 0.75  # rows updated at once; the share of columns left at which those that are gone are taken out
MEMORY_BYTES = 1 << 30  # memory for the inverses that the greedy choice updates


@dataclass(frozen=True, eq=False)
class Ranking:
    """Channels in the order in which to remove them.

    Attributes:
        order: (width,) positions in the group, least important first.
        cost: (width + 1,) what removing the first k costs: the summed relative output error ||Y - Yhat||^2 / ||Y -
            mean Y||^2 of the layers that read them, or a share of the group's weight for measures without data.
    """

    order: Ints
    cost: Floats


class Importance(ABC):
    """A way to rank channels. Subclass it and name it `module:Class` in the pass's option `importance`.

    One instance ranks all groups of a model, so that it may keep what it finds out in between.
    """

    name: ClassVar[str]
    needs_data: ClassVar[bool] = False

    @abstractmethod
    def rank(self, group: Group, view: PruneView) -> Ranking:
        """Rank the channels of one group."""


def by_score(scores: Floats) -> Ranking:
    """The ranking of a score per channel, its cost the share of the scores that is gone."""
    order = np.argsort(scores, kind="stable")
    total = float(scores.sum())
    cost = np.cumsum(np.r_[0.0, scores[order]])
    return Ranking(order, cost / total if total > 0 else np.zeros(len(scores) + 1))


def _norms(group: Group, power: float, *roles: str) -> Floats:
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

    def rank(self, group: Group, view: PruneView) -> Ranking:
        """See `Importance.rank`."""
        return by_score(_norms(group, 1.0, "out"))


class L2(Importance):
    """The squared weights that make a channel, times those that read it."""

    name = "l2"

    def rank(self, group: Group, view: PruneView) -> Ranking:
        """See `Importance.rank`."""
        made, read = _norms(group, 2.0, "out"), _norms(group, 2.0, "in")
        return by_score(made * read if read.any() else made)


class Activation(Importance):
    """The power that a channel adds to the layers that read it: |weights|^2 times the second moment of its values.

    The structured form of Wanda's score (Sun et al. 2024, "A Simple and Effective Pruning Approach", eq. 1).
    """

    name = "activation"
    needs_data = True

    def rank(self, group: Group, view: PruneView) -> Ranking:
        """See `Importance.rank`."""
        total = np.zeros(group.width)
        for reader in view.readers(group):
            moments = view.moments(reader)
            power = sum(loss.power for loss in moments.losses) or 1.0
            for loss, columns in zip(moments.losses, reader.columns, strict=True):
                each = loss.diagonal * loss.powers
                total += each[columns].sum(1) / power
        return by_score(total) if total.any() else L2().rank(group, view)


class Obs(Importance):
    """Structured optimal brain surgeon: the error that is left after the other weights made up for what was removed.

    Removing the columns B of a weight W read through moments R costs tr(W_B (R^-1)_BB^-1 W_B^T), and what remains is
    updated (Kurtic et al. 2023, "ZipLM", section 3; Frantar and Alistarh 2022, "Optimal Brain Compression"). Costs are
    summed over the layers that read the group. Channels go in rounds of 1/32 of the group, jointly exact within each;
    a group goes in a single round where its inverses exceed MEMORY_BYTES or half of what the context allows, or the
    moments of a reader are factored.
    O(rounds * D^2 * D/32) per layer with patches of length D.
    """

    name = "obs"
    needs_data = True
    rounds: ClassVar[int] = 32

    def rank(self, group: Group, view: PruneView) -> Ranking:
        """See `Importance.rank`."""
        readers = view.readers(group)
        if not readers:
            return L2().rank(group, view)
        size = sum(_bytes(reader) for reader in readers)
        if size > view.context.bytes_of(MEMORY_BYTES, 0.5) or not all(view.moments(reader).exact for reader in readers):
            total = np.zeros(group.width)
            for reader in readers:
                total += _alone(view.moments(reader), reader)
            return by_score(total)
        parts = _parts(view, readers)
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


class _ShrinkingWeight:
    """One weight W (of one group of a layer) whose columns go, and the inverse of its moments, for what is left.

    All that is asked of W is W^T W, which stands in its place where it is smaller. What is gone stays in both until a
    quarter is: taking it out copies all the rest.
    """

    def __init__(self, block: Block, columns: Ints, scale: float) -> None:
        matrix = block.matrix
        self._squared = len(matrix) > matrix.shape[1]
        self.weight = matrix.T @ matrix if self._squared else np.array(matrix)
        self.inverse = np.linalg.inv(block.moments)
        self.columns, self.scale = columns.copy(), scale
        self._left = np.ones(len(self.inverse), bool)

    def costs(self, alive: Ints) -> Floats:
        """The cost of each channel alone: tr(B^-1 W_B^T W_B) with B its block of the inverse."""
        columns = self.columns[alive]
        blocks = self.inverse[columns[:, :, None], columns[:, None, :]]
        return np.asarray(np.trace(np.linalg.solve(blocks, self._powers(columns)), axis1=1, axis2=2) * self.scale)

    def _powers(self, columns: Ints) -> Floats:
        """(n, t, t), W^T W for the columns (n, t) of each channel."""
        if self._squared:
            return np.asarray(self.weight[columns[:, :, None], columns[:, None, :]])
        each = self.weight[:, columns].transpose(1, 2, 0)
        return np.asarray(each @ each.swapaxes(1, 2))

    def remove(self, channels: Ints) -> float:
        """Remove channels, update what is left, and return the cost."""
        gone = self.columns[channels].reshape(-1)
        rows, power = self.inverse[gone], self._powers(gone[None])[0]  # the inverse is symmetric
        solved = np.linalg.solve(rows[:, gone], np.column_stack([power, rows]))
        cost = float(np.trace(solved[:, : len(gone)])) * self.scale
        update = solved[:, len(gone) :]
        half = self.weight[gone] - power @ update / 2 if self._squared else None
        if half is None:
            self.weight -= self.weight[:, gone] @ update
        for start in range(0, len(self.inverse), STRIP):  # the products of a strip stay in the cache
            part = np.s_[start : start + STRIP]
            self.inverse[part] -= rows[:, part].T @ update
            if half is not None:  # (W - W_B U)^T (W - W_B U)
                self.weight[part] -= update[:, part].T @ half + half[:, part].T @ update
        self._left[gone] = False
        if self._left.sum() <= SPARSE * len(self._left):
            self._take_out()
        return max(0.0, cost)

    def _take_out(self) -> None:
        kept = np.flatnonzero(self._left)
        self.weight = self.weight[kept][:, kept] if self._squared else self.weight[:, kept]
        self.inverse = self.inverse[kept][:, kept]
        self.columns = (np.cumsum(self._left) - 1)[
            self.columns
        ]  # columns of removed channels are never asked for again
        self._left = self._left[kept]


def _parts(view: PruneView, readers: list[GroupReader]) -> list[_ShrinkingWeight]:
    return [part for reader in readers for part in _parts_of(view.moments(reader), reader)]


def _parts_of(moments: Moments, reader: GroupReader) -> list[_ShrinkingWeight]:
    scale = _scale(moments)
    return [
        _ShrinkingWeight(block, columns, scale) for block, columns in zip(moments.blocks, reader.columns, strict=True)
    ]


def _scale(moments: Moments) -> float:
    power = sum(loss.power for loss in moments.losses)
    return 1 / power if power > 0 else 0.0


def _alone(moments: Moments, reader: GroupReader) -> Floats:
    """The cost of each channel at one reader when the others stay."""
    if moments.exact:
        return _costs(_parts_of(moments, reader), np.arange(len(reader.columns[0])))
    total = np.zeros(len(reader.columns[0]))
    for loss, columns in zip(moments.losses, reader.columns, strict=True):
        assert isinstance(loss, Factored)
        for channel, (block, at) in enumerate(zip(loss.inverse_blocks(columns), columns, strict=True)):
            weight = loss.matrix[:, at].astype(np.float64)
            total[channel] += float(np.trace(np.linalg.solve(block, weight.T @ weight)))
    return total * _scale(moments)


def _bytes(reader: GroupReader) -> int:
    """The approximate memory for the parts of a layer, in bytes."""
    width = reader.site.fan_in
    return 8 * len(reader.columns) * width * (width + min(width, reader.site.outputs // reader.site.group))


def _costs(parts: list[_ShrinkingWeight], alive: Ints) -> Floats:
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
            raise UsageError(
                f"'{name}' is not an importance; allowed: a class derived from "
                "lwgraph.passes.prune.importance.Importance"
            )
        return found()
    if name not in BUILT_IN:
        raise UsageError(f"importance '{name}' is unknown{did_you_mean(name, [*BUILT_IN, *MORE])}")
    return BUILT_IN[name]()
