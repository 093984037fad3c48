"""merge-constants: merges the constants of two Mul or Add nodes in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from lwgraph.passes.fuse.linear import FLOATS
from lwgraph.rewrite import Const, Contract, RewritePass, Rule, Skip


@dataclass(frozen=True)
class MergeConstants(RewritePass):
    """Merge the constants of two Mul or two Add in a row: Mul(Mul(x, a), b) -> Mul(x, a*b)."""

    name = "merge-constants"
    contract = Contract.ROUNDING
    max_size: Annotated[int, "largest constant to make, in elements"] = 1 << 16

    def rules(self) -> Sequence[Rule]:
        """One for each operator."""
        return (Rule(self.pattern, self.replace), Rule(self.sums, self.replace_sums))

    def pattern(self, op: Any, x: Any, a: Any, b: Any) -> Any:
        """Two factors."""
        return op.Mul(op.Mul(x, a), b)

    def replace(self, op: Any, x: Any, a: Const, b: Const) -> Any:
        """Their product."""
        return op.Mul(x, op.const(self._merged(np.multiply, a, b)))

    def sums(self, op: Any, x: Any, a: Any, b: Any) -> Any:
        """Two summands."""
        return op.Add(op.Add(x, a), b)

    def replace_sums(self, op: Any, x: Any, a: Const, b: Const) -> Any:
        """Their sum."""
        return op.Add(x, op.const(self._merged(np.add, a, b)))

    def _merged(self, function: Any, a: Const, b: Const) -> Any:
        if a.dtype not in FLOATS:
            raise Skip(f"{a.dtype} constants may overflow when merged")
        size = int(np.prod(np.broadcast_shapes(a.shape, b.shape)))
        if size > max(self.max_size, a.size, b.size) or size > a.size + b.size:
            raise Skip(f"the merged constant would have {size} elements; max_size={self.max_size}")
        merged = function(a.numpy().astype(np.float64), b.numpy().astype(np.float64)).astype(a.numpy().dtype)
        if not np.isfinite(merged).all():
            raise Skip("the merged constant overflows")
        return merged
