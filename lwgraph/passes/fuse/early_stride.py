"""early-stride: turns a subsampling into the stride of the convolution before or after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lwgraph import ir
from lwgraph.passes.clean.sizes import slice_parts
from lwgraph.rewrite import Contract, RewritePass, Rule, Skip

SUBSAMPLES = ("MaxPool", "AveragePool", "Slice")
UNARY = ("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Elu", "Softplus", "Gelu")
END = 2**31 - 1  # a Slice's end at least this large is the end of the axis


@dataclass(frozen=True)
class EarlyStride(RewritePass):
    """Turn a subsampling of a convolution's result into its stride, so that only positions that are used are computed.

    The subsampling is a pool over one position, a Slice with a step, or the stride of a 1 x 1 convolution behind; an
    activation may stand between. One before a 1 x 1 convolution becomes that one's stride.
    """

    name = "early-stride"
    contract = Contract.ROUNDING

    def rules(self) -> Sequence[Rule]:
        """The rules for a subsampling after a convolution, between two, and before one."""
        return (
            Rule(self.pattern, self.replace),
            Rule(self.between, self.replace_between),
            Rule(self.before, self.replace_before),
        )

    def pattern(self, op: Any, x: Any, w: Any, b: Any = None, low: Any = None, high: Any = None, *rest: Any) -> Any:
        """A convolution, perhaps an activation, every s-th position."""
        return op.any_of(*SUBSAMPLES)(_first(op, x, w, b, low, high), *rest, _name="pool")

    def replace(self, op: Any, x: Any, w: Any, b: Any, first: ir.Node, unary: ir.Node | None, pool: ir.Node) -> Any:
        """The convolution with the strides of both."""
        steps = subsampling(pool, _rank(first))
        return None if steps is None else _strided(op, x, w, b, first, unary, steps)

    def between(
        self, op: Any, x: Any, w: Any, w2: Any, b: Any = None, b2: Any = None, low: Any = None, high: Any = None
    ) -> Any:
        """A convolution, perhaps an activation, a 1 x 1 convolution with a stride."""
        return op.Conv(_first(op, x, w, b, low, high), w2, b2, _name="second")

    def replace_between(
        self, op: Any, x: Any, w: Any, b: Any, w2: Any, b2: Any, first: ir.Node, unary: ir.Node | None, second: ir.Node
    ) -> Any:
        """The stride on the first."""
        steps = _strides(second)
        if not is_pointwise(second) or set(steps) == {1}:
            return None
        return op.copy(second, _strided(op, x, w, b, first, unary, steps), w2, b2, strides=None)

    def before(self, op: Any, x: Any, w: Any, b: Any = None, *rest: Any) -> Any:
        """Every s-th position, then a 1 x 1 convolution."""
        return op.Conv(op.any_of(*SUBSAMPLES)(x, *rest, _name="pool"), w, b, _name="first")

    def replace_before(self, op: Any, x: Any, w: Any, b: Any, first: ir.Node, pool: ir.Node) -> Any:
        """The convolution with the strides of both."""
        steps = subsampling(pool, _rank(first)) if is_pointwise(first) else None
        return None if steps is None else _strided(op, x, w, b, first, None, steps)


def _first(op: Any, x: Any, w: Any, b: Any, low: Any, high: Any) -> Any:
    y = op.Conv(x, w, b, _name="first")
    return op.either(y, op.any_of(*UNARY)(y, low, high, _name="unary"))


def _strided(
    op: Any, x: ir.Value, w: ir.Value, b: ir.Value | None, first: ir.Node, unary: ir.Node | None, steps: Sequence[int]
) -> Any:
    """Every s-th position of a convolution and its activation: floor((m - 1) / s) + 1 of m positions either way."""
    if ir.attribute(first, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Skip("auto_pad decides the layer's padding from its stride")
    y = op.copy(first, x, w, b, strides=[a * s for a, s in zip(_strides(first), steps, strict=True)])
    return y if unary is None else op.copy(unary, y, *unary.inputs[1:])


def subsampling(node: ir.Node, rank: int | None) -> list[int] | None:
    """The steps, per spatial axis, of a node that keeps every s-th position from the first; None: it does not.

    Args:
        node: a MaxPool, AveragePool or Slice.
        rank: how many spatial axes there are; None: not known.
    """
    if rank is None:
        return None
    if node.op_type == "Slice":
        parts = slice_parts(node, ir.constant)
        steps = [1] * (2 + rank)
        for axis, start, end, step in parts or ():
            if start != 0 or end < END or step < 1 or not -rank - 2 <= axis < rank + 2:
                return None
            steps[axis] = step
        return steps[2:] if set(steps[:2]) == {1} and set(steps) != {1} else None
    if set(ir.attribute(node, "kernel_shape")) != {1}:  # a kernel of one position, so there is no padding
        return None
    if ir.attribute(node, "ceil_mode", 0) or len(node.outputs) > 1:
        return None
    strides = list(ir.attribute(node, "strides", (1,) * rank))
    return strides if set(strides) != {1} else None


def is_pointwise(conv: ir.Node) -> bool:
    """Whether a Conv looks at one position of its input at a time, and at no padding."""
    weight = ir.constant_shape(conv.inputs[1])
    kernel = ir.attribute(conv, "kernel_shape", None if weight is None else weight[2:])
    return kernel is not None and set(kernel) == {1} and not any(ir.attribute(conv, "pads", ()))


def _rank(conv: ir.Node) -> int | None:
    weight = ir.constant_shape(conv.inputs[1])
    return None if weight is None else len(weight) - 2


def _strides(conv: ir.Node) -> Sequence[int]:
    return tuple(ir.attribute(conv, "strides", (1,) * (_rank(conv) or 0)))
