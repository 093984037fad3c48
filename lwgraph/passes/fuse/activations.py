"""merge-activations: merges successive Relu and Clip nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.rewrite import Const, Contract, RewritePass, Rule, Skip


@dataclass(frozen=True)
class MergeActivations(RewritePass):
    """Merge successive Relu and Clip nodes into one; turn a Clip to [0, inf) into a Relu."""

    name = "merge-activations"
    contract = Contract.ROUNDING

    def rules(self) -> Sequence[Rule]:
        """Pairs first, then the Clip that is a Relu."""
        return (Rule(self.pattern, self.replace), Rule(self.clip, self.replace_clip))

    def pattern(self, op: Any, x: Any, low: Any = None, high: Any = None, low2: Any = None, high2: Any = None) -> Any:
        """Two in a row."""
        first = op.any_of("Relu", "Clip")(x, low, high, _name="first")
        return op.any_of("Relu", "Clip")(first, low2, high2, _name="second")

    def replace(
        self,
        op: Any,
        x: Any,
        low: Const | None,
        high: Const | None,
        low2: Const | None,
        high2: Const | None,
        first: Any,
        second: Any,
    ) -> Any:
        """The intersection of both ranges, as a Relu where it is [0, inf)."""
        a, b = _range(first, low, high)
        c, d = _range(second, low2, high2)
        bottom, top = min(max(a, c), d), max(min(b, d), c)
        if bottom > top:
            raise Skip("the ranges do not overlap")
        return _activation(op, x, min(max(a, c), d), min(max(b, c), d), _dtype(first, second))

    def clip(self, op: Any, x: Any, low: Any = None, high: Any = None) -> Any:
        """A Clip."""
        return op.Clip(x, low, high, _name="first")

    def replace_clip(self, op: Any, x: Any, low: Const | None, high: Const | None, first: Any) -> Any:
        """A Relu, where the range is [0, inf)."""
        if _range(first, low, high) != (0.0, np.inf) or _dtype(first) is None or _dtype(first).kind != "f":
            return None
        return op.Relu(x)


def _range(node: ir.Node, low: Const | None, high: Const | None) -> tuple[float, float]:
    if node.op_type == "Relu":
        return 0.0, np.inf
    bottom = ir.attribute(node, "min", -np.inf) if low is None else float(low.item())
    top = ir.attribute(node, "max", np.inf) if high is None else float(high.item())
    largest = float(np.finfo(np.float32).max)  # written by exporters for "no bound", and the default at opset 6
    return (-np.inf if bottom <= -largest else bottom), (np.inf if top >= largest else top)


def _dtype(*nodes: ir.Node) -> Any:
    for node in nodes:
        for value in (*node.outputs, *node.inputs):
            if value is not None and value.dtype is not None:
                return np.dtype(value.dtype.numpy())
    return None


def _activation(op: Any, x: ir.Value, low: float, high: float, dtype: Any) -> Any:
    if (low, high) == (0.0, np.inf):
        return op.Relu(x)
    if op.opset < 11:
        bounds = {"min": low, "max": high}
        return op.Clip(x, **{name: float(v) for name, v in bounds.items() if np.isfinite(v)})
    if dtype is None:
        raise Skip("the element type is not known")
    return op.Clip(x, *(op.const(np.array(v, dtype)) if np.isfinite(v) else None for v in (low, high)))
