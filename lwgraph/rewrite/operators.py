"""Facts about operators for the pattern language and the clean passes."""

from __future__ import annotations

import functools
from typing import Any

import onnx

# Two-input forms whose inputs may be swapped without changing a bit of the result.
COMMUTATIVE = frozenset(
    {
        "Add",
        "Mul",
        "And",
        "Or",
        "Xor",
        "Equal",
        "Max",
        "Min",
        "Sum",
        "Mean",
        "BitwiseAnd",
        "BitwiseOr",
        "BitwiseXor",
    }
)

# Each run may give something else, so two of them are never one, and none is folded.
RANDOM = frozenset(
    {
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Multinomial",
        "Bernoulli",
    }
)


@functools.lru_cache(maxsize=4096)
def schema(op_type: str, domain: str, version: int) -> onnx.defs.OpSchema | None:
    """The operator's schema at an opset version, or None for an operator that onnx does not define."""
    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


@functools.lru_cache(maxsize=4096)
def default_attributes(op_type: str, domain: str, version: int) -> dict[str, Any]:
    """{attribute: default value} of an operator; attributes without a default are absent."""
    found = schema(op_type, domain, version)
    if found is None:
        return {}
    defaults = {}
    for name, attribute in found.attributes.items():
        if attribute.default_value.name:
            value = onnx.helper.get_attribute_value(attribute.default_value)
            if isinstance(value, bytes):
                value = value.decode()
            elif isinstance(value, list):
                value = tuple(v.decode() if isinstance(v, bytes) else v for v in value)
            defaults[name] = value
    return defaults


def is_deterministic(op_type: str, domain: str) -> bool:
    """Whether equal inputs always give equal outputs. Operators of other domains are not known to."""
    return domain in ("", "ai.onnx.ml") and op_type not in RANDOM
