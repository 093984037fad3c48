"""Stores weights in few bits by blocks of rows: scales, integers, and the DequantizeLinear that reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lwgraph import ir
from lwgraph.arrays import Array, Floats
from lwgraph.passes.quantize.grids.second_order import block_scales, descend, row_scales, second_order, to_nearest

_LIMIT = {8: 127, 4: 7}
_TYPE = {8: ir.DataType.INT8, 4: ir.DataType.INT4}
_SWEEPS = 2  # sweeps of coordinate descent, which gains little over GPTQ and takes longer
_DESCENT = 2e9  # largest o D^2 for which coordinate descent is run
_NODE_BYTES = 160  # size in the file of a DequantizeLinear and the header of its scale


@dataclass(frozen=True)
class Stored:
    """A matrix (D, o) as a product reads it: integers and scales.

    Attributes:
        integers: (D, o) int8, in -7..7 for 4 bits.
        scale: float32, (o,) for one per column, (n, o) for blocks of `block` rows.
        bits: 8 or 4.
        block: rows to a scale; 0: one scale per column.
    """

    integers: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    bits: int
    block: int

    @property
    def real(self) -> Floats:
        """(D, o) what it stands for."""
        scale = self.scale.astype(np.float64)
        steps = np.repeat(scale, self.block, axis=0)[: len(self.integers)] if self.block else scale
        return np.asarray(self.integers * steps)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return stored_bytes(self.integers.shape, self.bits, self.block)


def stored_bytes(shape: tuple[int, ...], bits: int, block: int) -> int:
    """Bytes in the file of a (D, o) matrix in blocks."""
    depth, width = shape
    rows = -(-depth // block) if block else 1
    return -(-depth * width * bits // 8) + 4 * rows * width + _NODE_BYTES


def encode(weight: Floats, bits: int, block: int, moments: Floats | None = None) -> Stored:
    """Round a matrix to blocks of few bits.

    Scales are of least squared error, weighted by the inputs' power; integers by second-order rounding and coordinate
    descent on the inputs' moments, or to nearest without them.

    Args:
        weight: (o, D), as a layer's canonical weight.
        bits: 8 or 4.
        block: inputs that share a scale; 0: all of a row.
        moments: (D, D), of the inputs; None: to nearest.

    Complexity: O(31 o D) for scales, O(D^3 + 3 o D^2) with moments.
    """
    limit, width = _LIMIT[bits], weight.shape[1]
    importance = None if moments is None else np.diagonal(moments)
    scale = block_scales(weight, limit, block, importance) if block else row_scales(weight, limit, importance)
    scale = np.maximum(scale, 1e-30).astype(np.float32).astype(np.float64)
    steps = np.repeat(scale, block, axis=1)[:, :width] if block else scale
    if moments is None:
        q = to_nearest(weight, steps, limit)
    else:
        q = second_order(weight, steps, limit, moments, pin=False)
        if weight.size * width <= _DESCENT:
            q = descend(weight, q, steps, limit, moments, _SWEEPS, pin=False)
    return Stored(
        np.ascontiguousarray(q.T.astype(np.int8)), np.ascontiguousarray(scale.T.astype(np.float32)), bits, block
    )


class Writer:
    """Puts stored matrices into a graph; a matrix that several nodes read is stored once."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        # The matrix is kept beside its values: another one may get the number of one that is gone.
        self._written: dict[int, tuple[Stored, tuple[ir.Value, ir.Value]]] = {}

    def dequantized(self, stored: Stored, stem: str, before: ir.Node) -> ir.Value:
        """A new DequantizeLinear's output, (D, o) float32, placed before a node."""
        if id(stored) not in self._written:
            integers = ir.add_initializer(self.graph, packed(stored), f"{stem}_quantized", dtype=_TYPE[stored.bits])
            integers.shape = ir.Shape(stored.integers.shape)
            scale = ir.add_initializer(self.graph, stored.scale, f"{stem}_scale")
            self._written[id(stored)] = stored, (integers, scale)
        attributes: dict[str, Any] = {"axis": 0, "block_size": stored.block} if stored.block else {"axis": 1}
        node = ir.make_node("DequantizeLinear", list(self._written[id(stored)][1]), attributes)
        node.name = ir.fresh_name(self.graph, f"{stem}_dequantized_node")
        self.graph.insert_before(before, node)
        value = node.outputs[0]
        value.name = ir.fresh_name(self.graph, f"{stem}_dequantized")
        value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape(stored.integers.shape)
        return value


def packed(stored: Stored) -> Array:
    """The integers in their own type."""
    return stored.integers.astype(_TYPE[stored.bits].numpy())


__all__ = ["Stored", "Writer", "encode", "packed", "stored_bytes"]
