"""What a rewrite promises about the outputs."""

from __future__ import annotations

from enum import Enum


class Contract(Enum):
    """What a pass promises about the outputs; the pipeline holds it to that numerically."""

    EXACT = "bit-identical outputs"
    ROUNDING = "equal over the reals; rounding may differ"
    APPROXIMATE = "different by design, within a stated budget"


__all__ = ["Contract"]
