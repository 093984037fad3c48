"""ONNX operators in PyTorch. Importing this package fills the table; it needs the `torch` extra."""

from lwgraph.runtime.torch_ops import (
    conv,
    detection,
    elementwise,
    gather,
    linear,
    movement,
    norm,
    pool,
    quantize,
    recurrent,
    reduce,
    resize,
)
from lwgraph.runtime.torch_ops.table import OPERATORS, Op, UnsupportedError, known, to_numpy, to_torch

__all__ = [
    "OPERATORS",
    "Op",
    "UnsupportedError",
    "conv",
    "detection",
    "elementwise",
    "gather",
    "known",
    "linear",
    "movement",
    "norm",
    "pool",
    "quantize",
    "recurrent",
    "reduce",
    "resize",
    "to_numpy",
    "to_torch",
]
