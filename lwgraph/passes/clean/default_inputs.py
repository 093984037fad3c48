"""default-inputs: drops optional inputs that hold what their absence means, or that are not looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.layers.emit import OPTIONAL_BIAS
from lwgraph.rewrite import Context, Contract, Pass

# operator -> its optional inputs whose absence means zero everywhere
_ZERO: dict[str, tuple[int, ...]] = {"GRU": (5,), "LSTM": (5, 6), "RNN": (5,), "Pad": (2,)}


@dataclass(frozen=True)
class DropDefaultInputs(Pass):
    """Drop zero states of LSTM, GRU and RNN, zero values of Pad, and a Gemm's bias where its beta is 0."""

    name = "default-inputs"
    contract = Contract.EXACT
    asks = True

    def run(self, model: ir.Model, context: Context) -> int:
        """See Pass.run. O(nodes)."""
        count = 0
        for scope in ir.scopes(model):
            for node in ir.graph_of(scope):
                places = _needless(node)
                dropped = [value for p in places if (value := node.inputs[p]) is not None]
                if not dropped:
                    continue
                if not context.allow(self.name, node.name or node.op_type):
                    return count
                for place in places:
                    node.replace_input_with(place, None)
                if node.op_type == "Gemm":
                    node.attributes.pop("beta")
                ir.drop_trailing_inputs(node)
                ir.sweep_values(dropped)
                count += 1
        return count


def _needless(node: ir.Node) -> list[int]:
    """The optional inputs that change nothing, by position. With beta 0, a Gemm's bias may even be infinity or NaN."""
    kind = ir.operator(node)
    if kind == "Gemm":
        beta = node.attributes.get("beta")
        unused = beta is not None and not beta.is_ref() and beta.as_float() == 0 and ir.opset(node) >= OPTIONAL_BIAS
        return [2] if unused and len(node.inputs) > 2 else []
    return [p for p in _ZERO.get(kind, ()) if p < len(node.inputs) and _is_zero(node.inputs[p])]


def _is_zero(value: ir.Value | None) -> bool:
    """Whether every element is +0: a constant, or what ConstantOfShape or Expand make of one."""
    while value is not None and (node := value.producer()) is not None and ir.operator(node) == "Expand":
        value = node.inputs[0]
    if value is None:
        return False
    node = value.producer()
    if node is not None and node.op_type == "ConstantOfShape" and node.domain == "":
        if "value" in node.attributes and node.attributes["value"].is_ref():
            return False
        filled = ir.attribute(node, "value")
        return filled is None or _all_zero(filled)
    array = ir.constant(value)
    return array is not None and array.dtype.kind in "fiu" and _all_zero(array)


def _all_zero(array: Any) -> bool:
    return not array.any() and not bool(np.signbit(array.astype(np.float64)).any())
