"""Element by element: arithmetic, activations, comparisons, logic."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 - its usual name

from lwgraph import ir
from lwgraph.runtime.torch_ops.table import Compute, Op, Tensor, operator, simple

_WIDE = {torch.uint16: torch.int64, torch.uint32: torch.int64, torch.uint64: torch.int64}


def widened(function: Compute) -> Compute:
    """Unsigned integers that torch stores but cannot compute with go through int64."""

    @functools.wraps(function)
    def compute(*tensors: Tensor) -> Tensor:
        dtype = tensors[0].dtype
        if dtype not in _WIDE:
            return function(*tensors)
        result = function(*(t.to(_WIDE[t.dtype]) if t.dtype in _WIDE else t for t in tensors))
        return result.to(dtype) if result.dtype == torch.int64 else result

    return compute


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() or a.is_complex() else torch.div(a, b, rounding_mode="trunc")


_BINARY = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": _divide,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "Less": torch.lt,
    "GreaterOrEqual": torch.ge,
    "LessOrEqual": torch.le,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Pow": lambda a, b: torch.pow(a, b).to(a.dtype),
}


@operator(*_BINARY)
def _binary(op: Op) -> Compute:
    function = widened(_BINARY[op.node.op_type])
    axis = op.attr("axis")
    if op.version >= 7 or axis is None:
        return function

    def aligned(a: Tensor, b: Tensor) -> Tensor:
        """Align the second operand at an axis, as before opset 7."""
        first = axis + a.ndim if axis < 0 else axis
        return function(a, b.reshape(b.shape + (1,) * (a.ndim - first - b.ndim)))

    return aligned


simple(
    Abs=torch.abs,
    Neg=torch.neg,
    Ceil=torch.ceil,
    Floor=torch.floor,
    Round=torch.round,
    Sign=torch.sign,
    Sqrt=torch.sqrt,
    Exp=torch.exp,
    Log=torch.log,
    Reciprocal=torch.reciprocal,
    Erf=torch.erf,
    Sin=torch.sin,
    Cos=torch.cos,
    Tan=torch.tan,
    Asin=torch.asin,
    Acos=torch.acos,
    Atan=torch.atan,
    Sinh=torch.sinh,
    Cosh=torch.cosh,
    Tanh=torch.tanh,
    Asinh=torch.asinh,
    Acosh=torch.acosh,
    Atanh=torch.atanh,
    Sigmoid=torch.sigmoid,
    Relu=torch.relu,
    Softplus=F.softplus,
    Softsign=F.softsign,
    HardSwish=F.hardswish,
    Mish=F.mish,
    IsNaN=torch.isnan,
    Not=torch.logical_not,
    BitwiseNot=widened(torch.bitwise_not),
    Identity=lambda x: x,
    Where=torch.where,
    PRelu=lambda x, slope: torch.where(x > 0, x, x * slope),
)


@operator("Max", "Min", "Sum", "Mean")
def _variadic(op: Op) -> Compute:
    pair = {"Max": torch.maximum, "Min": torch.minimum}.get(op.node.op_type, torch.add)
    mean = op.node.op_type == "Mean"

    def compute(*tensors: Tensor) -> Tensor:
        total = functools.reduce(widened(pair), tensors)
        return total / len(tensors) if mean else total

    return compute


@operator("Mod")
def _mod(op: Op) -> Compute:
    return widened(torch.fmod if op.attr("fmod", 0) else torch.remainder)


@operator("BitShift")
def _bit_shift(op: Op) -> Compute:
    left = op.attr("direction") == "LEFT"

    def compute(a: Tensor, b: Tensor) -> Tensor:
        wide = (torch.bitwise_left_shift if left else torch.bitwise_right_shift)(a.to(torch.int64), b.to(torch.int64))
        return wide.to(a.dtype)

    return compute


@operator("IsInf")
def _is_inf(op: Op) -> Compute:
    positive, negative = op.attr("detect_positive", 1), op.attr("detect_negative", 1)

    def compute(x: Tensor) -> Tensor:
        hit = torch.isposinf(x) if positive else torch.zeros_like(x, dtype=torch.bool)
        return hit | torch.isneginf(x) if negative else hit

    return compute


@operator("Clip")
def _clip(op: Op) -> Compute:
    if op.version < 11:
        low, high = op.attr("min"), op.attr("max")
        return lambda x: x if low is None and high is None else torch.clamp(x, low, high)

    def compute(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
        if low is None and high is None:
            return x
        if x.dtype in _WIDE:
            return compute(*(None if t is None else t.to(torch.int64) for t in (x, low, high))).to(x.dtype)
        # As numbers where no gradient is wanted: clamp by tensors splits the gradient at the bounds.
        bounds = [None if t is None else (t if t.requires_grad else t.item()) for t in (low, high)]
        if any(isinstance(b, torch.Tensor) for b in bounds):
            bounds = [low, high]
        return torch.clamp(x, *bounds)

    return compute


_ACTIVATIONS: dict[str, Any] = {
    "LeakyRelu": lambda op, a=0.01: lambda x: F.leaky_relu(x, op.attr("alpha", a)),
    "Elu": lambda op: lambda x: F.elu(x, op.attr("alpha", 1.0)),
    "Celu": lambda op: lambda x: F.celu(x, op.attr("alpha", 1.0)),
    "ThresholdedRelu": lambda op: lambda x: torch.where(x > op.attr("alpha", 1.0), x, torch.zeros_like(x)),
    "Gelu": lambda op: lambda x: F.gelu(x, approximate=op.attr("approximate", "none")),
}


@operator(*_ACTIVATIONS)
def _activation(op: Op) -> Compute:
    built: Compute = _ACTIVATIONS[op.node.op_type](op)
    return built


@operator("Selu")
def _selu(op: Op) -> Compute:
    alpha = op.attr("alpha", 1.67326319217681884765625)
    gamma = op.attr("gamma", 1.05070102214813232421875)
    return lambda x: gamma * torch.where(x > 0, x, alpha * torch.expm1(torch.clamp(x, max=0)))


@operator("HardSigmoid")
def _hard_sigmoid(op: Op) -> Compute:
    alpha, beta = op.attr("alpha", 0.2), op.attr("beta", 0.5)
    return lambda x: torch.clamp(x * alpha + beta, 0, 1)


@operator("Swish")
def _swish(op: Op) -> Compute:
    alpha = op.attr("alpha", 1.0)
    return lambda x: x * torch.sigmoid(alpha * x)


@operator("Shrink")
def _shrink(op: Op) -> Compute:
    bias, threshold = op.attr("bias", 0.0), op.attr("lambd", 0.5)

    def compute(x: Tensor) -> Tensor:
        zero = torch.zeros_like(x)
        return torch.where(x < -threshold, x + bias, torch.where(x > threshold, x - bias, zero)).to(x.dtype)

    return compute


@operator("Dropout")
def _dropout(op: Op) -> Compute:
    if op.version < 7 and not op.attr("is_test", 0):
        raise op.refuse("Dropout in training mode is random; set is_test=1 or drop the node")

    def compute(x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None) -> Any:
        if training is not None and bool(training) and (ratio is None or float(ratio) != 0):
            raise op.refuse("Dropout in training mode is random; set training_mode to false")
        mask = torch.ones_like(x, dtype=torch.bool if op.version >= 10 else x.dtype)
        return (x, mask) if op.gives(1) else x

    return compute


@operator("Cast", "CastLike")
def _cast(op: Op) -> Compute:
    if op.node.op_type == "CastLike":
        return lambda x, like: x.to(like.dtype)
    if op.attr("to") is None:
        raise op.refuse("it does not say to which type")
    kind = ir.DataType(op.attr("to"))
    to = op.dtype(kind)
    if kind.bitwidth < 8 and kind != ir.DataType.BOOL:
        raise op.refuse(f"casting to {kind.name} is not supported; use QuantizeLinear")
    return lambda x: x.to(to)
