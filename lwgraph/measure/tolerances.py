"""The one table of tolerances: how far two results may lie apart, by contract and by dtype.

Nothing else in the project carries a numeric tolerance for outputs. Distances of floating-point tensors are relative
to the tensor's own scale, never element by element: a sum that nearly cancels has no relative accuracy to keep.

Where the numbers come from, with u the unit roundoff of the dtype (float32: 6e-8):
    a dot product of K terms errs by about sqrt(K) u of the size of its terms; K reaches 1e4 in convolutions, and a
    hundred layers add in quadrature: sqrt(1e4) sqrt(1e2) u = 1e3 u, 6e-5 for float32. ROUNDING therefore allows a
    relative root mean square (rms) error of about 1.6e3 u and single elements five times that. A wrong factor of
    1 + 1e-3 stands an order of magnitude above it.
    half precisions are computed with float32 accumulation, so their error is a few roundings per layer, not K.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lwgraph.contract import Contract


@dataclass(frozen=True)
class Tolerance:
    """The allowed difference between a reference tensor and its candidate.

    Floating point: max|d| <= max(peak * max|reference|, floor) and rms(d) <= max(rms * rms(reference), floor).
    Integer and bool: at most a share `flips` of the elements may differ by more than `step`.
    NaN and infinities must stand at the same places, unless only new ones count (`finite`).
    """

    finite: bool = False  # any value will do that is finite where the reference is
    bitwise: bool = False  # every bit equal (NaN equals NaN, whatever its payload)
    peak: float = 0.0
    rms: float = 0.0
    floor: float = 0.0  # absolute, in the tensor's unit: what cancellation leaves where the reference is zero
    step: int = 0
    flips: float = 0.0


BITWISE = Tolerance(bitwise=True)
# Anything of the right shape and dtype that is finite where the reference is: how far is for a task's metric to say.
FINITE = Tolerance(finite=True)

# A rounding may turn a tie of ArgMax, Round or a threshold over: one element in a thousand. 8-bit integers are
# quantized values, of which any may move by one step.
_ROUNDING_INDEX = Tolerance(flips=1e-3)
_ROUNDING_CODE = Tolerance(step=1)

_ROUNDING = {
    "float64": Tolerance(peak=1e-9, rms=2e-10, floor=1e-12),
    "float32": Tolerance(peak=5e-4, rms=1e-4, floor=1e-6),
    "float16": Tolerance(peak=2e-2, rms=5e-3, floor=1e-3),
    "bfloat16": Tolerance(peak=1e-1, rms=4e-2, floor=1e-2),
    "complex64": Tolerance(peak=5e-4, rms=1e-4, floor=1e-6),
    "complex128": Tolerance(peak=1e-9, rms=2e-10, floor=1e-12),
}
_ROUNDING_FLOAT8 = Tolerance(peak=2.5e-1, rms=1e-1, floor=1e-2)  # one step of a three-bit significand

# An approximate rewrite is judged by the task's metric. Without data there is only this: 40 dB of signal to noise
# over each output, single elements within 5 % of the output's scale.
_APPROXIMATE_FLOAT = Tolerance(peak=5e-2, rms=1e-2, floor=1e-6)
_APPROXIMATE_INDEX = Tolerance(flips=2e-2)
_APPROXIMATE_CODE = Tolerance(step=2, flips=2e-2)

_CODES = ("int8", "uint8", "int4", "uint4", "int2", "uint2")


def tolerance(contract: Contract, dtype: np.dtype[Any] | str) -> Tolerance:
    """The tolerance of one contract for tensors of `dtype` (a NumPy dtype, an ml_dtypes one, or its name)."""
    name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    if contract.name == "EXACT" or name.startswith(("str", "object", "bytes")):
        return BITWISE
    floating = name.startswith(("float", "bfloat", "complex"))
    if contract.name == "ROUNDING":
        if floating:
            return _ROUNDING.get(name, _ROUNDING_FLOAT8)
        return _ROUNDING_CODE if name in _CODES else _ROUNDING_INDEX
    if floating:  # never tighter than what rounding alone may do
        rounding = _ROUNDING.get(name, _ROUNDING_FLOAT8)
        return max(_APPROXIMATE_FLOAT, rounding, key=lambda t: t.rms)
    return _APPROXIMATE_CODE if name in _CODES else _APPROXIMATE_INDEX
