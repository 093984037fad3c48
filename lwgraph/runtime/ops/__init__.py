"""The operators of the reference executor; all others are onnx's own reference operators."""

from lwgraph.runtime.ops import (
    convolution,
    elementwise,
    linear_models,
    microsoft,
    microsoft_integers,
    movement,
    normalization,
    pooling,
    product,
    quantization,
    recurrent,
    resize,
    selection,
    tables,
    trees,
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
    "linear_models",
    "microsoft",
    "microsoft_integers",
    "movement",
    "normalization",
    "pooling",
    "product",
    "quantization",
    "recurrent",
    "resize",
    "selection",
    "tables",
    "trees",
]
