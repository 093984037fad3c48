"""Recognizes models that are quantized already."""

from __future__ import annotations

from lwgraph import ir
from lwgraph.measure.kernels import is_integer_kernel

_DOMAINS = ("", "com.microsoft", "com.ms.internal.nhwc")  # whose operators these are; elsewhere the names mean nothing


def quantized_already(model: ir.Model) -> str | None:
    """A phrase that says how the model is quantized, with an example; None for a float model. O(nodes)."""
    for scope in ir.scopes(model):
        for node in [node for node in scope if node.domain in _DOMAINS]:
            if node.op_type in ("DequantizeLinear", "QuantizeLinear"):
                return f"it has QuantizeLinear and DequantizeLinear (QDQ) nodes such as '{node.name}'"
            if node.op_type == "DynamicQuantizeLinear" or (
                node.op_type.startswith("DynamicQuantize") and is_integer_kernel(node.op_type)
            ):
                return f"it quantizes activations dynamically, at '{node.name}' ({node.op_type})"
            if is_integer_kernel(node.op_type):
                return f"it has integer operators such as '{node.name}' ({node.op_type})"
    return None


__all__ = ["quantized_already"]
