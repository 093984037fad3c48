"""Recognizes models that are quantized already."""

from __future__ import annotations

import re

from lwgraph import ir

_OPERATORS = re.compile(
    r"QLinear\w+|QGemm|QAttention|QEmbed\w+|QMoE|ConvInteger|MatMulInteger\w*|MatMulNBits|"
    r"DynamicQuantize\w+|NhwcMaxPool"
)
_DOMAINS = ("", "com.microsoft", "com.ms.internal.nhwc")  # whose operators these are; elsewhere the names mean nothing


def quantized_already(model: ir.Model) -> str | None:
    """A phrase that says how the model is quantized, with an example; None for a float model. O(nodes)."""
    for scope in ir.scopes(model):
        for node in [node for node in scope if node.domain in _DOMAINS]:
            if node.op_type in ("DequantizeLinear", "QuantizeLinear"):
                return f"it has QuantizeLinear and DequantizeLinear (QDQ) nodes such as '{node.name}'"
            if node.op_type == "DynamicQuantizeLinear" or (
                node.op_type.startswith("DynamicQuantize") and _OPERATORS.fullmatch(node.op_type)
            ):
                return f"it quantizes activations dynamically, at '{node.name}' ({node.op_type})"
            if _OPERATORS.fullmatch(node.op_type):
                return f"it has integer operators such as '{node.name}' ({node.op_type})"
    return None


def is_integer_kernel(op_type: str) -> bool:
    """Whether an operator computes with integers."""
    return _OPERATORS.fullmatch(op_type) is not None


__all__ = ["is_integer_kernel", "quantized_already"]
