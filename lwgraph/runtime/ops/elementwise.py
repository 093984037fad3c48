"""Arithmetic and activations on floating-point numbers; integers are left to onnx's operators."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lwgraph.arrays import Array
from lwgraph.runtime.ops.base import Function, Spec, Unsupported, floating, operator, wider

_CHUNK = 1 << 15  # elements: what several passes over them find in the second-level cache


def in_chunks(function: Callable[[Array, Array], None], x: Array, precise: bool) -> Array:
    """Apply function(input, output), which may use several passes, piece by piece; halves go through float32."""
    floating(x)
    source = np.ascontiguousarray(wider(x, precise)).reshape(-1)
    y = np.empty_like(source)
    for i in range(0, source.size, _CHUNK):
        function(source[i : i + _CHUNK], y[i : i + _CHUNK])
    return y.reshape(x.shape).astype(x.dtype, copy=False)


_BINARY = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}


@operator(*_BINARY)
def binary(spec: Spec) -> Function:
    """Add, Sub, Mul, Div from version 7 on (earlier ones broadcast differently); Div of integers truncates."""
    if spec.version < 7:
        raise Unsupported
    function: Callable[[Array, Array], Array] = _BINARY[spec.op_type]
    divides = spec.op_type == "Div"

    def run(a: Array, b: Array) -> Array:
        if a.dtype != b.dtype or (divides and a.dtype.kind != "f"):
            raise Unsupported
        return function(a, b)

    return run


@operator("Equal")
def equal(spec: Spec) -> Function:
    """Equal from version 7 on; texts are compared as texts, however NumPy stores them."""
    if spec.version < 7:
        raise Unsupported
    return lambda a, b: np.equal(_texts(a), _texts(b)).astype(bool)


def _texts(array: Array) -> Array:
    return array.astype(object) if array.dtype.kind == "U" else array


@operator("Relu")
def relu(spec: Spec) -> Function:
    """Relu-6, 13, 14."""
    return lambda x: np.maximum(x, x.dtype.type(0))


@operator("LeakyRelu")
def leaky_relu(spec: Spec) -> Function:
    """LeakyRelu-6, 16."""
    alpha = spec.get("alpha", 0.01)

    def run(x: Array) -> Array:
        floating(x)
        return np.where(x < 0, x * x.dtype.type(alpha), x)

    return run


@operator("Clip")
def clip(spec: Spec) -> Function:
    """Clip-6 (attributes), 11, 12, 13 (inputs)."""
    low, high = spec.get("min"), spec.get("max")

    def run(x: Array, lower: Array | None = None, upper: Array | None = None) -> Array:
        bottom = low if lower is None else lower
        top = high if upper is None else upper
        if bottom is None and top is None:
            return x
        # NumPy's clip takes the upper bound where the bounds cross, as ONNX does.
        limits = [None if bound is None else np.asarray(bound, x.dtype).reshape(()) for bound in (bottom, top)]
        result: Array = np.clip(x, limits[0], limits[1])
        return result

    return run


def _sigmoid(x: Array, y: Array) -> None:
    np.negative(x, out=y)
    np.exp(y, out=y)
    y += 1
    np.reciprocal(y, out=y)


_CHAINS: dict[str, Callable[[Array, Array], None]] = {
    "Sigmoid": _sigmoid,
    "Tanh": lambda x, y: np.tanh(x, out=y),  # type: ignore[dict-item]
    "Exp": lambda x, y: np.exp(x, out=y),  # type: ignore[dict-item]
    "Sqrt": lambda x, y: np.sqrt(x, out=y),  # type: ignore[dict-item]
    "Log": lambda x, y: np.log(x, out=y),  # type: ignore[dict-item]
}


@operator(*_CHAINS)
def chain(spec: Spec) -> Function:
    """Elementary functions; in float64 if precise."""
    function, precise = _CHAINS[spec.op_type], spec.options.precise
    return lambda x: in_chunks(function, x, precise)


@operator("Swish")
def swish(spec: Spec) -> Function:
    """Swish-24: x sigmoid(alpha x)."""
    alpha, precise = spec.get("alpha", 1.0), spec.options.precise

    def function(x: Array, y: Array) -> None:
        _sigmoid(x * x.dtype.type(alpha), y)
        y *= x

    return lambda x: in_chunks(function, x, precise)


@operator("HardSigmoid")
def hard_sigmoid(spec: Spec) -> Function:
    """HardSigmoid-6, 22."""
    alpha, beta, precise = spec.get("alpha", 0.2), spec.get("beta", 0.5), spec.options.precise

    def function(x: Array, y: Array) -> None:
        np.multiply(x, x.dtype.type(alpha), out=y)
        y += x.dtype.type(beta)
        np.clip(y, 0, 1, out=y)

    return lambda x: in_chunks(function, x, precise)


@operator("HardSwish")
def hard_swish(spec: Spec) -> Function:
    """HardSwish-14, 22."""
    precise = spec.options.precise

    def function(x: Array, y: Array) -> None:
        np.multiply(x, x.dtype.type(1 / 6), out=y)
        y += x.dtype.type(0.5)
        np.clip(y, 0, 1, out=y)
        y *= x

    return lambda x: in_chunks(function, x, precise)


@operator("Pow")
def power(spec: Spec) -> Function:
    """Pow-7 to 15 of floating-point numbers by a floating-point exponent."""
    if spec.version < 7:
        raise Unsupported
    precise = spec.options.precise

    def run(x: Array, y: Array) -> Array:
        floating(x, y)
        if y.size == 1 and not precise and y.reshape(()) == 2:
            result = x * x
        else:
            result = np.power(wider(x, precise), wider(y, precise)).astype(x.dtype, copy=False)
        return result.reshape(np.broadcast_shapes(x.shape, y.shape))

    return run
