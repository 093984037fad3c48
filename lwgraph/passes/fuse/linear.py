"""A layer with a constant weight whose input or output channels can be scaled and shifted.

Arithmetic is in float64; results have the weight's dtype. New constants are made, so shared weights stay as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.rewrite import Const, Skip

FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)


@dataclass(frozen=True)
class Linear:
    """One Conv, ConvTranspose, Gemm or MatMul: y = weight * x + bias.

    Attributes:
        node: the layer.
        weight: its constant weight.
        bias: its constant bias, broadcast over everything but the output channels; None: none.

    Raises:
        Skip: on construction, when the layer is not of a kind that can be folded into.
    """

    node: ir.Node
    weight: Const
    bias: Const | None

    def __post_init__(self) -> None:
        if self.weight.dtype not in FLOATS:
            raise Skip(f"the weight is {self.weight.dtype}; only floating-point weights are folded into")
        if not all(map(ir.is_finite, self.node.inputs)):
            raise Skip("its weight or bias holds infinity or NaN")
        if self.node.op_type == "Gemm" and ir.attribute(self.node, "transA", 0):
            raise Skip("transA=1 puts the channels elsewhere")
        if self.node.op_type == "MatMul" and self.weight.rank != 2:
            raise Skip(f"the constant factor has {self.weight.rank} axes; only a matrix is folded into")
        if self.bias is not None and (self.bias.size not in (1, self.outputs) or self.bias.size != self._bias_row()):
            raise Skip(f"the bias of shape {list(self.bias.shape)} differs from row to row")

    def _bias_row(self) -> int:
        assert self.bias is not None
        return self.bias.shape[-1] if self.bias.rank else 1

    @property
    def spatial(self) -> int:
        """Spatial axes: 0 for Gemm and MatMul."""
        return self.weight.rank - 2 if "Conv" in self.node.op_type else 0

    @property
    def group(self) -> int:
        """Convolution groups; 1 for Gemm and MatMul."""
        return int(ir.attribute(self.node, "group", 1)) if self.spatial else 1

    @property
    def _rows_are_outputs(self) -> bool:
        """Whether axis 0 of the stored weight is the output."""
        if self.node.op_type == "Gemm":
            return bool(ir.attribute(self.node, "transB", 0))
        return self.node.op_type == "Conv"

    @property
    def outputs(self) -> int:
        """Output channels of all groups."""
        if self._rows_are_outputs:
            return self.weight.shape[0]
        return self.weight.shape[1] * self.group

    @property
    def inputs(self) -> int:
        """Input channels of all groups."""
        if self._rows_are_outputs:
            return self.weight.shape[1] * self.group
        return self.weight.shape[0]

    @property
    def padded(self) -> bool:
        """Whether the convolution may read zeros beyond the image, which a shift of the input would not reach."""
        if not self.spatial:
            return False
        automatic = ir.attribute(self.node, "auto_pad", "NOTSET")
        pads = ir.attribute(self.node, "pads", (0,) * (2 * self.spatial))
        if automatic == "VALID":
            return False
        return automatic != "NOTSET" or any(pads) or self.node.op_type == "ConvTranspose"

    def bias_vector(self) -> Array:
        """(outputs,) float64: what is added to each output channel."""
        if self.bias is None:
            return np.zeros(self.outputs)
        beta = ir.attribute(self.node, "beta", 1.0) if self.node.op_type == "Gemm" else 1.0
        row = self.bias.numpy().astype(np.float64).reshape(-1) * beta
        vector: Array = np.array(np.broadcast_to(row, (self.outputs,)))
        return vector

    def canonical(self) -> Array:
        """(groups, outputs per group, inputs per group, *taps) float64 view of the weight."""
        weight: Array = self.weight.numpy().astype(np.float64)
        g = self.group
        rows = (self.outputs, self.inputs) if self._rows_are_outputs else (self.inputs, self.outputs)
        grouped: Array = weight.reshape(g, rows[0] // g, rows[1] // g, *weight.shape[2:])
        view: Array = grouped if self._rows_are_outputs else grouped.swapaxes(1, 2)
        return view

    def stored(self, canonical: Array) -> Array:
        """The inverse of `canonical`, in the weight's dtype and shape."""
        array = canonical if self._rows_are_outputs else canonical.swapaxes(1, 2)
        stored: Array = np.ascontiguousarray(array.reshape(self.weight.shape).astype(self.weight.numpy().dtype))
        return stored

    def output_affine(self, op: Any, x: ir.Value, factor: Array, shift: Array) -> ir.Value:
        """Nodes for factor * layer(x) + shift; factor and shift are (outputs,)."""
        g = self.group
        factors = factor.reshape(g, self.outputs // g, 1, *(1,) * self.spatial)
        scaled = None if (factor == 1).all() else self.canonical() * factors
        return self._build(op, x, scaled, self.bias_vector() * factor + shift)

    def input_affine(self, op: Any, x: ir.Value, factor: Array, shift: Array) -> ir.Value:
        """Nodes for layer(factor * x + shift); factor and shift are (inputs,). A shift needs an unpadded layer."""
        if self.padded and np.any(shift):
            raise Skip("the layer is padded: a shift of its input does not hold for the padding")
        g, weight = self.group, self.canonical()
        taps = (1,) * self.spatial
        added: Array | float = 0.0
        if np.any(shift):
            shifted = weight * shift.reshape(g, 1, self.inputs // g, *taps)
            added = shifted.sum(axis=tuple(range(2, weight.ndim))).reshape(self.outputs)
        alpha = ir.attribute(self.node, "alpha", 1.0) if self.node.op_type == "Gemm" else 1.0
        scaled = None if (factor == 1).all() else weight * factor.reshape(g, 1, self.inputs // g, *taps)
        return self._build(op, x, scaled, self.bias_vector() + alpha * added)

    def _build(self, op: Any, x: ir.Value, weight: Array | None, bias: Array) -> ir.Value:
        """The layer with another weight (None: the one it has) and bias."""
        stem = self.node.name or self.node.op_type
        dtype = self.weight.numpy().dtype
        with np.errstate(over="ignore"):
            new_weight = None if weight is None else self.stored(weight)
            new_bias = bias.astype(dtype)
        if not (np.isfinite(new_bias).all() and (new_weight is None or np.isfinite(new_weight).all())):
            raise Skip(f"the folded weight does not fit into {dtype.name}")
        w = self.weight if new_weight is None else op.const(new_weight, f"{stem}_weight")
        b = op.const(new_bias, f"{stem}_bias") if self.bias is not None or np.any(bias) else None
        if self.node.op_type == "MatMul":
            y: ir.Value = op.MatMul(x, w)
            return y if b is None else op.Add(y, b)
        extra = {"beta": None} if self.node.op_type == "Gemm" else {}
        made: ir.Value = op.copy(self.node, x, w, b, **extra)
        return made


def channel_vector(constant: Const, channels: int, rank: int | None, axis: int) -> Array:
    """(channels,) float64 from a constant that is broadcast against a tensor and varies at most along its channels.

    Args:
        constant: the other operand.
        channels: the size of the channel axis.
        rank: the axes of the tensor; None: unknown, and then only a scalar or, with axis -1, a row will do.
        axis: 1 or -1.

    Raises:
        Skip: the constant varies along another axis, or would change the tensor's shape.
    """
    shape = constant.shape
    values: Array = constant.numpy().astype(np.float64)
    if math.prod(shape) == 1 and (len(shape) <= (rank or 1)):
        return np.full(channels, float(values.reshape(-1)[0]))
    if rank is None and not (axis == -1 and len(shape) == 1):
        raise Skip("the number of axes is not known")
    if rank is not None and len(shape) > rank:
        raise Skip(f"a constant with {len(shape)} axes changes the shape")
    full = (1,) * ((rank or 1) - len(shape)) + shape
    place = axis % (rank or 1)
    if full[place] != channels or math.prod(full) != channels:
        raise Skip(f"a constant of shape {list(shape)} does not vary along the channels only")
    return values.reshape(channels)


def rank_of(value: ir.Value) -> int | None:
    """The number of axes where it is known."""
    return None if value.shape is None else len(value.shape)
