"""What may be left out of a model, as a planner sees it: items, the sizes that they may keep, what each costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from lwgraph import ir
from lwgraph.rewrite.base import Context


@dataclass(frozen=True)
class Removal:
    """One size of one item: a group of coupled channels, or a residual block.

    Attributes:
        item: the item's name, unique in the model; the same in every copy of the model.
        kept: how much of the item stays: channels of a group; 0 of a block.
        width: how much there is now: channels of a group; 1 for a block.
        macs: multiply-accumulates of the whole model, one batch, when this alone is done.
        error: predicted relative output error ||Y - Yhat||^2 / ||Y - mean Y||^2, summed over the layers that read the
            item, after compensation (`Form.estimate` predicts the same of one layer).
        nodes: the layers whose work changes.
        left: of each of these, the share of its work that is left.
    """

    item: str
    kept: int
    width: int
    macs: int
    error: float
    nodes: tuple[str, ...] = ()
    left: tuple[float, ...] = ()


class Removes(Protocol):
    """A pass that leaves things out, choice by choice. `prune-channels` and `prune-blocks` are such passes.

    Several choices in one call are made together. What was found out for `options` is kept in the context, so that
    `apply` on copies of the same model is quick.
    """

    def options(self, model: ir.Model, context: Context) -> list[Removal]:
        """Every item's sizes, largest first, by item. The model is not changed."""

    def apply(self, model: ir.Model, kept: Mapping[str, int], context: Context, *, refit: bool = False) -> int:
        """Leave out all but `kept` of the items named, in place, and compensate; how much was removed.

        With `refit`, all layers that this changes are then fitted anew to what the model gave before, in order.

        Raises:
            UsageError: an item that the model does not have, or a size that it cannot have.
        """


__all__ = ["Removal", "Removes"]
