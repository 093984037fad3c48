"""matmul-add-to-gemm: merges a MatMul and the Add of its bias into one Gemm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lwgraph.passes.fuse.linear import FLOATS, rank_of
from lwgraph.rewrite import Const, Contract, RewritePass, Skip


@dataclass(frozen=True)
class MatMulAddToGemm(RewritePass):
    """Merge MatMul and Add: Add(MatMul(x, w), b) -> Gemm(x, w, b) for a matrix x and constant w and b."""

    name = "matmul-add-to-gemm"
    contract = Contract.ROUNDING

    def pattern(self, op: Any, x: Any, w: Any, b: Any) -> Any:
        """A product, then its bias."""
        return op.Add(op.MatMul(x, w), b)

    def replace(self, op: Any, x: Any, w: Const, b: Const) -> Any:
        """The Gemm; its bias may have one axis or a leading one."""
        if w.rank != 2 or rank_of(x) != 2:
            return None
        if w.dtype not in FLOATS:
            raise Skip(f"the weight is {w.dtype}; Gemm wants floating point")
        if b.rank > 2 or b.size not in (1, w.shape[1]) or (b.rank == 2 and b.shape[0] != 1):
            raise Skip(f"the Add of shape {list(b.shape)} is not a bias per column")
        return op.Gemm(x, w, b)
