"""fold-scale: folds Mul, Div, Add and Sub by a constant per channel into the layer before or after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.passes.fuse.linear import Linear, channel_vector, rank_of
from lwgraph.rewrite import Const, Contract, RewritePass, Rule, Skip


@dataclass(frozen=True)
class FoldScale(RewritePass):
    """Fold Mul, Div, Add or Sub by a constant per channel into the Conv, ConvTranspose or Gemm before or after it.

    An Add before a padded convolution stays: the padding is zero after the Add, not before it. A MatMul takes factors
    only; its Add is the bias that matmul-add-to-gemm or the runtime fuses.
    """

    name = "fold-scale"
    contract = Contract.ROUNDING

    def rules(self) -> Sequence[Rule]:
        """The rules for a scale after the layer, then before it; the operands of a Sub come in either order."""
        return (
            Rule(self.pattern, self.replace),
            Rule(self.subtracted, self.replace),
            Rule(self.after_matmul, self.replace_after_matmul),
            Rule(self.before, self.replace_before),
            Rule(self.subtracted_before, self.replace_before),
        )

    def pattern(self, op: Any, x: Any, w: Any, c: Any, b: Any = None) -> Any:
        """A layer, then a constant per channel."""
        y = op.any_of("Conv", "ConvTranspose", "Gemm")(x, w, b, _name="layer")
        return op.any_of("Mul", "Div", "Add", "Sub")(y, c, _name="scale")

    def subtracted(self, op: Any, x: Any, w: Any, c: Any, b: Any = None) -> Any:
        """A layer, then a constant per channel minus its output."""
        y = op.any_of("Conv", "ConvTranspose", "Gemm")(x, w, b, _name="layer")
        return op.Sub(c, y, _name="scale")

    def replace(self, op: Any, x: Any, w: Const, c: Const, b: Const | None, layer: Any, scale: Any) -> Any:
        """The layer with scaled outputs."""
        linear = Linear(layer, w, b)
        vector = channel_vector(c, linear.outputs, 2 + linear.spatial, 1)
        return linear.output_affine(op, x, *_affine(scale, layer.outputs[0], vector))

    def after_matmul(self, op: Any, x: Any, w: Any, c: Any) -> Any:
        """A product, then a constant factor per column."""
        return op.any_of("Mul", "Div")(op.MatMul(x, w, _name="layer"), c, _name="scale")

    def replace_after_matmul(self, op: Any, x: Any, w: Const, c: Const, layer: Any, scale: Any) -> Any:
        """The product with scaled columns."""
        linear = Linear(layer, w, None)
        vector = channel_vector(c, linear.outputs, rank_of(layer.outputs[0]), -1)
        return linear.output_affine(op, x, *_affine(scale, layer.outputs[0], vector))

    def before(self, op: Any, x: Any, w: Any, c: Any, b: Any = None) -> Any:
        """A constant per channel, then a layer."""
        y = op.any_of("Mul", "Div", "Add", "Sub")(x, c, _name="scale")
        return op.any_of("Conv", "ConvTranspose")(y, w, b, _name="layer")

    def subtracted_before(self, op: Any, x: Any, w: Any, c: Any, b: Any = None) -> Any:
        """A constant per channel minus the input, then a layer."""
        return op.any_of("Conv", "ConvTranspose")(op.Sub(c, x, _name="scale"), w, b, _name="layer")

    def replace_before(self, op: Any, x: Any, w: Const, c: Const, b: Const | None, layer: Any, scale: Any) -> Any:
        """The layer with scaled inputs."""
        linear = Linear(layer, w, b)
        if _before_half(x):
            raise Skip("the factor is the last step of a Gelu, which runtimes know as a whole")
        if x.shape is None or len(x.shape) != 2 + linear.spatial or x.shape[1] != linear.inputs:
            raise Skip("the scaled tensor may be broadcast to the layer's input")
        vector = channel_vector(c, linear.inputs, 2 + linear.spatial, 1)
        return linear.input_affine(op, x, *_affine(scale, x, vector))


def _before_half(x: ir.Value) -> bool:
    """Whether this is x (1 + erf(..)) or x (1 + tanh(..)): half of it is a Gelu, for which runtimes have a kernel."""
    product = x.producer()
    if product is None or ir.operator(product) != "Mul":
        return False
    sums = [value.producer() for value in product.inputs if value is not None]
    terms = [value for node in sums if node is not None and ir.operator(node) == "Add" for value in node.inputs]
    makers = [value.producer() for value in terms if value is not None]
    return any(node is not None and ir.operator(node) in ("Erf", "Tanh") for node in makers)


def _affine(scale: ir.Node, tensor: ir.Value, c: Array) -> tuple[Array, Array]:
    """(factor, shift) of an elementwise node whose other operand is the vector c."""
    one, zero = np.ones_like(c), np.zeros_like(c)
    first = scale.inputs[0] is tensor
    match scale.op_type:
        case "Mul":
            return c, zero
        case "Add":
            return one, c
        case "Sub":
            return (one, -c) if first else (-one, c)
    if not first:
        raise Skip("the constant is divided by the layer's output")
    if not np.all(c):
        raise Skip("a divisor is zero")
    return 1 / c, zero
