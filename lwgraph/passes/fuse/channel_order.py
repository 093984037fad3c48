"""fold-channel-order: folds a Gather of channels into the weights around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Ints
from lwgraph.rewrite import Const, Contract, RewritePass, Rule, Skip

Order = Ints
UNARY = ("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Elu", "Softplus", "Gelu")


@dataclass(frozen=True)
class FoldChannelOrder(RewritePass):
    """Fold a Gather of channels by constant indices into the filters before it or the weights after it.

    Convolutions without groups compute the picked channels in the first place, where these are not more, or read them
    where they are, where each is picked once. An activation, or a depthwise convolution, may stand between the Gather
    and the convolution that reads it. Channels are moved, never computed anew: outputs stay the same but for rounding.
    """

    name = "fold-channel-order"
    contract = Contract.ROUNDING

    def rules(self) -> Sequence[Rule]:
        """Into the filters before; past a depthwise convolution; into the weights behind."""
        return (
            Rule(self.pattern, self.replace),
            Rule(self.depthwise, self.replace_depthwise),
            Rule(self.behind, self.replace_behind),
        )

    def pattern(self, op: Any, x: Any, w: Any, order: Any, b: Any = None, low: Any = None, high: Any = None) -> Any:
        """A convolution, perhaps an activation, some of its channels."""
        y = op.Conv(x, w, b, _name="conv")
        return op.Gather(op.either(y, op.any_of(*UNARY)(y, low, high, _name="unary")), order, _name="gather")

    def replace(
        self,
        op: Any,
        x: Any,
        w: Const,
        order: Const,
        b: Const | None,
        conv: ir.Node,
        unary: ir.Node | None,
        gather: ir.Node,
    ) -> Any:
        """The convolution with these filters only, in this order."""
        picked = _channels(gather, order, w.shape[0])
        if ir.attribute(conv, "group", 1) != 1:
            return None
        if len(picked) > w.shape[0]:
            raise Skip(f"{len(picked)} of {w.shape[0]} channels are picked, so more would be computed")
        bias = None if b is None else op.const(b.numpy()[picked], "bias")
        y = op.copy(conv, x, op.const(w.numpy()[picked], "weight"), bias)
        return y if unary is None else op.copy(unary, y, *unary.inputs[1:])

    def depthwise(self, op: Any, x: Any, w: Any, order: Any, b: Any = None, low: Any = None, high: Any = None) -> Any:
        """Channels reordered, perhaps an activation, a depthwise convolution."""
        y = op.Gather(x, order, _name="gather")
        return op.Conv(op.either(y, op.any_of(*UNARY)(y, low, high, _name="unary")), w, b, _name="conv")

    def replace_depthwise(
        self,
        op: Any,
        x: Any,
        w: Const,
        order: Const,
        b: Const | None,
        conv: ir.Node,
        unary: ir.Node | None,
        gather: ir.Node,
    ) -> Any:
        """The Gather behind it."""
        if w.shape[1] != 1 or ir.attribute(conv, "group", 1) != w.shape[0] or w.shape[0] == 1:
            return None
        picked = _permutation(gather, order, x)
        back = np.argsort(picked)
        bias = None if b is None else op.const(b.numpy()[back], "bias")
        y = x if unary is None else op.copy(unary, x, *unary.inputs[1:])
        y = op.copy(conv, y, op.const(w.numpy()[back], "weight"), bias)
        return op.copy(gather, y, order)

    def behind(self, op: Any, x: Any, w: Any, order: Any, b: Any = None, low: Any = None, high: Any = None) -> Any:
        """Channels reordered, perhaps an activation, a convolution."""
        return self.depthwise(op, x, w, order, b, low, high)

    def replace_behind(
        self,
        op: Any,
        x: Any,
        w: Const,
        order: Const,
        b: Const | None,
        conv: ir.Node,
        unary: ir.Node | None,
        gather: ir.Node,
    ) -> Any:
        """The convolution with its weights in the order of what it reads."""
        if ir.attribute(conv, "group", 1) != 1:
            return None
        back = np.argsort(_permutation(gather, order, x))
        y = x if unary is None else op.copy(unary, x, *unary.inputs[1:])
        return op.copy(conv, y, op.const(np.ascontiguousarray(w.numpy()[:, back]), "weight"), b)


def _channels(gather: ir.Node, order: Const, count: int) -> Order:
    """The channels that a Gather picks of so many."""
    if ir.attribute(gather, "axis", 0) != 1 or order.rank != 1:
        raise Skip("the Gather does not pick channels")
    indices = order.numpy().astype(np.int64)
    return np.where(indices < 0, indices + count, indices)


def _permutation(gather: ir.Node, order: Const, x: ir.Value) -> Order:
    """The new order of channels; Skip when some are left out or not known to be there."""
    count = channels(x)
    if count is None:
        raise Skip("how many channels the reordered tensor has is not known")
    picked = _channels(gather, order, count)
    if not np.array_equal(np.sort(picked), np.arange(count)):
        raise Skip("the Gather leaves out or repeats channels")
    return picked


def channels(value: ir.Value) -> int | None:
    """The size of axis 1, as recorded or by what computes it; None where neither says."""
    if value.shape is not None and len(value.shape) > 1:
        return value.shape[1] if isinstance(value.shape[1], int) else None
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "Conv":
        weight = ir.constant_shape(node.inputs[1])
        return None if weight is None else weight[0]
    if node.op_type == "Concat" and ir.attribute(node, "axis") == 1:
        parts = [None if v is None else channels(v) for v in node.inputs]
        return None if None in parts else sum(p for p in parts if p is not None)
    if node.op_type in UNARY or node.op_type in ("MaxPool", "AveragePool"):
        assert node.inputs[0] is not None
        return channels(node.inputs[0])
    return None


__all__ = ["FoldChannelOrder", "channels"]
