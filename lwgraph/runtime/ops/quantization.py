"""QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import numpy as np

from lwgraph.arrays import Array
from lwgraph.runtime import kernels
from lwgraph.runtime.ops.base import Function, Spec, Unsupported, operator

_TYPES = {2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16}  # by onnx.TensorProto.DataType
_FLOAT = 1


@operator("QuantizeLinear", "com.microsoft::QuantizeLinear")
def quantize(spec: Spec) -> Function:
    """QuantizeLinear-10 to 25 from float32 to 8 and 16 bits."""
    axis, block, threads = spec.get("axis", 1), spec.get("block_size", 0), spec.options.threads
    declared, precision = spec.get("output_dtype", 0), spec.get("precision", 0)
    if (declared and declared not in _TYPES) or precision not in (0, _FLOAT):
        raise Unsupported

    def run(x: Array, scale: Array, zero: Array | None = None) -> Array:
        dtype = np.dtype(_TYPES[declared or 2] if zero is None else zero.dtype)
        if x.dtype != np.float32 or scale.dtype != np.float32 or dtype not in map(np.dtype, _TYPES.values()):
            raise Unsupported
        return kernels.quantize(x, scale, zero, dtype, axis=axis, block=block, threads=threads)

    return run


@operator("DequantizeLinear", "com.microsoft::DequantizeLinear")
def dequantize(spec: Spec) -> Function:
    """DequantizeLinear-10 to 25 from 8, 16 and 32 bits to float32."""
    axis, block, threads = spec.get("axis", 1), spec.get("block_size", 0), spec.options.threads
    if spec.get("output_dtype", _FLOAT) not in (0, _FLOAT):
        raise Unsupported
    known = (np.int32, *_TYPES.values())

    def run(x: Array, scale: Array, zero: Array | None = None) -> Array:
        if x.dtype not in known or scale.dtype != np.float32:
            raise Unsupported
        return kernels.dequantize(x, scale, zero, axis=axis, block=block, threads=threads)

    return run
