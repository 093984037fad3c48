"""The operators that are ours; every other one is onnx's own reference operator."""

from lwgraph.runtime.ops import (
    convolution,
    elementwise,
    movement,
    normalization,
    pooling,
    product,
    quantization,
    recurrent,
    resize,
)
from lwgraph.runtime.ops.base import BUILDERS, Function, Options, Spec, Unsupported

OURS = tuple(sorted(BUILDERS))

__all__ = [
    "BUILDERS",
    "OURS",
    "Function",
    "Options",
    "Spec",
    "Unsupported",
    "convolution",
    "elementwise",
    "movement",
    "normalization",
    "pooling",
    "product",
    "quantization",
    "recurrent",
    "resize",
]
