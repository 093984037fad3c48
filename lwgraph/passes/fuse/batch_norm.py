"""fold-batch-norm: folds BatchNormalization into the layer before or after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.passes.fuse.linear import FLOATS, Linear, rank_of
from lwgraph.rewrite import Const, Contract, RewritePass, Rule, Skip


@dataclass(frozen=True)
class FoldBatchNorm(RewritePass):
    """Fold BatchNormalization into the Conv, ConvTranspose, Gemm or MatMul before it, else into the unpadded one after.

    At inference it is y = factor * x + shift with factor = scale / sqrt(var + epsilon) and
    shift = bias - mean * factor, per channel (Ioffe and Szegedy 2015, algorithm 2).
    """

    name = "fold-batch-norm"
    contract = Contract.ROUNDING

    def rules(self) -> Sequence[Rule]:
        """First backwards, which costs nothing; then forwards."""
        return (Rule(self.pattern, self.replace), Rule(self.before, self.replace_before))

    def pattern(self, op: Any, x: Any, w: Any, scale: Any, bias: Any, mean: Any, var: Any, b: Any = None) -> Any:
        """A layer, then the normalization."""
        y = op.any_of("Conv", "ConvTranspose", "Gemm", "MatMul")(x, w, b, _name="layer")
        return op.BatchNormalization(y, scale, bias, mean, var, _name="norm")

    def replace(
        self,
        op: Any,
        x: Any,
        w: Const,
        scale: Const,
        bias: Const,
        mean: Const,
        var: Const,
        b: Const | None,
        layer: Any,
        norm: Any,
    ) -> Any:
        """The layer with scaled outputs."""
        linear = Linear(layer, w, b)
        if layer.op_type == "MatMul" and rank_of(layer.outputs[0]) != 2:
            raise Skip("the product is not known to have two axes, so its channels are not known to be the last")
        return linear.output_affine(op, x, *_affine(norm, scale, bias, mean, var))

    def before(self, op: Any, x: Any, w: Any, scale: Any, bias: Any, mean: Any, var: Any, b: Any = None) -> Any:
        """The normalization, then a layer."""
        y = op.BatchNormalization(x, scale, bias, mean, var, _name="norm")
        return op.any_of("Conv", "ConvTranspose", "Gemm")(y, w, b, _name="layer")

    def replace_before(
        self,
        op: Any,
        x: Any,
        w: Const,
        scale: Const,
        bias: Const,
        mean: Const,
        var: Const,
        b: Const | None,
        layer: Any,
        norm: Any,
    ) -> Any:
        """The layer with scaled inputs."""
        return Linear(layer, w, b).input_affine(op, x, *_affine(norm, scale, bias, mean, var))


def _affine(norm: ir.Node, scale: Const, bias: Const, mean: Const, var: Const) -> tuple[Array, Array]:
    """(factor, shift), each (channels,) in float64."""
    if scale.dtype not in FLOATS:
        raise Skip(f"the parameters are {scale.dtype}; only floating-point ones are folded")
    if ir.attribute(norm, "training_mode", 0):
        raise Skip("training_mode=1: the statistics are those of the batch")
    if not ir.attribute(norm, "spatial", 1):
        raise Skip("spatial=0: the statistics are per position")
    s, b, m, v = (constant.numpy().astype(np.float64).reshape(-1) for constant in (scale, bias, mean, var))
    factor = s / np.sqrt(v + ir.attribute(norm, "epsilon", 1e-5))
    return factor, b - m * factor
