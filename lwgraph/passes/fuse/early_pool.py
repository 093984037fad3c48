"""early-pool: moves an average over positions before the 1 x 1 convolution that it follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lwgraph import ir
from lwgraph.passes.fuse.early_stride import is_pointwise
from lwgraph.rewrite import Const, Contract, RewritePass, Rule, Skip

UNKNOWN_SIZE = 4  # positions that a global average is taken over, where that is not known
LESS = 0.9  # the share of the work at which it is worth it


@dataclass(frozen=True)
class EarlyPool(RewritePass):
    """Move an average over positions before the 1 x 1 convolution that it follows, where that is less work.

    Both are linear and one acts on channels, the other on positions, so they commute. A bias does when the weights of
    each average sum to one: when padding is not counted, or there is none.
    """

    name = "early-pool"
    contract = Contract.ROUNDING

    def rules(self) -> Sequence[Rule]:
        """Pools, and means over the positions."""
        return (Rule(self.pattern, self.replace), Rule(self.mean, self.replace))

    def pattern(self, op: Any, x: Any, w: Any, b: Any = None) -> Any:
        """A convolution, then an average."""
        return op.any_of("AveragePool", "GlobalAveragePool")(op.Conv(x, w, b, _name="conv"), _name="pool")

    def mean(self, op: Any, x: Any, w: Any, b: Any = None, axes: Any = None) -> Any:
        """A convolution, then a mean."""
        return op.ReduceMean(op.Conv(x, w, b, _name="conv"), axes, _name="pool")

    def replace(self, op: Any, x: Any, w: Const, b: Const | None, conv: ir.Node, pool: ir.Node) -> Any:
        """The average, then the convolution."""
        if not is_pointwise(conv) or max(ir.attribute(conv, "strides", (1,))) > 1:
            return None
        rank = w.rank - 2
        if pool.op_type == "ReduceMean" and not _over_positions(pool, rank):
            return None
        if b is not None and not _sums_to_one(pool):
            raise Skip("the average counts padding as zero, and the bias does not hold there")
        before, after = _work(w.shape, ir.attribute(conv, "group", 1), pool, x, rank)
        if after > LESS * before:
            raise Skip(f"the average over {w.shape[1]} instead of {w.shape[0]} channels would not save work")
        pooled = op.copy(pool, x, *pool.inputs[1:])
        return op.copy(conv, pooled, w, b, auto_pad=None)


def _over_positions(mean: ir.Node, rank: int) -> bool:
    """Whether a ReduceMean takes all spatial axes and keeps them as ones."""
    axes = ir.attribute(mean, "axes")
    if axes is None and len(mean.inputs) > 1:
        array = ir.constant(mean.inputs[1])
        axes = None if array is None else array.reshape(-1).tolist()
    if not axes or not ir.attribute(mean, "keepdims", 1):
        return False
    return sorted(int(a) % (rank + 2) for a in axes) == list(range(2, rank + 2))


def _sums_to_one(pool: ir.Node) -> bool:
    if pool.op_type != "AveragePool" or not ir.attribute(pool, "count_include_pad", 0):
        return True
    padded = any(ir.attribute(pool, "pads", ())) or ir.attribute(pool, "auto_pad", "NOTSET").startswith("SAME")
    return not padded and not ir.attribute(pool, "ceil_mode", 0)


def _work(weight: Sequence[int], group: int, pool: ir.Node, x: ir.Value, rank: int) -> tuple[float, float]:
    """Multiplications and additions per position of the result, in the present order and in the other."""
    outputs, inputs = weight[0], weight[1] * group
    if pool.op_type == "AveragePool":
        window = math.prod(ir.attribute(pool, "kernel_shape"))
        shrink = math.prod(ir.attribute(pool, "strides", (1,)))
    else:
        sizes = None if x.shape is None else list(x.shape)[2:]
        known = sizes is not None and all(isinstance(size, int) for size in sizes)
        window = shrink = math.prod(size for size in sizes or () if isinstance(size, int)) if known else UNKNOWN_SIZE
    conv = outputs * weight[1]
    return conv * shrink + outputs * window, inputs * window + conv


__all__ = ["EarlyPool"]
