"""A pass of one's own: after `pip install .`, `lwgraph optimize model.onnx -p merge-muls` knows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from lwgraph.rewrite import Const, Contract, RewritePass, Skip


@dataclass(frozen=True)
class MergeMuls(RewritePass):
    """Mul(Mul(x, a), b) -> Mul(x, a*b) for constants a and b."""

    name = "merge-muls"
    contract = Contract.ROUNDING
    max_size: Annotated[int, "largest constant to fold, in elements"] = 1 << 20

    def pattern(self, op: Any, x: Any, a: Any, b: Any) -> Any:
        """Two factors in a row."""
        return op.Mul(op.Mul(x, a), b)

    def replace(self, op: Any, x: Any, a: Const, b: Const) -> Any:
        """Their product."""
        if max(a.size, b.size) > self.max_size:
            raise Skip(f"a constant has more than max_size={self.max_size} elements")
        return op.Mul(x, op.const(a.numpy() * b.numpy()))
