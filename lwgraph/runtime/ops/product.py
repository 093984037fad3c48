"""MatMul, Gemm, and the integer products."""

from __future__ import annotations

import numpy as np

from lwgraph.arrays import Array
from lwgraph.runtime import kernels
from lwgraph.runtime.ops.base import Function, Spec, Unsupported, floating, operator
from lwgraph.runtime.ops.convolution import combined_scale, is_byte, zero_of


def _as_matrices(a: Array, b: Array) -> tuple[Array, Array, tuple[int, ...]]:
    """Vectors as matrices, and the axes of the result to drop again."""
    drop = []
    if a.ndim == 1:
        a, drop = a[None], [-2]
    if b.ndim == 1:
        b, drop = b[:, None], [*drop, -1]
    return a, b, tuple(drop)


@operator("MatMul")
def matmul(spec: Spec) -> Function:
    """MatMul-1, 9, 13 of floating-point numbers."""
    precise, threads = spec.options.precise, spec.options.threads

    def run(a: Array, b: Array) -> Array:
        floating(a)
        a, b, drop = _as_matrices(a, b)
        y = kernels.matmul(a, b, precise=precise, threads=threads)
        return y.squeeze(drop) if drop else y

    return run


@operator("Gemm")
def gemm(spec: Spec) -> Function:
    """Gemm-7, 9, 11, 13: alpha a b + beta c; with beta 0, c is not looked at, as in BLAS, whatever it holds."""
    if spec.version < 7:
        raise Unsupported
    alpha, beta = spec.get("alpha", 1.0), spec.get("beta", 1.0)
    left, right = spec.get("transA", 0), spec.get("transB", 0)
    precise, threads = spec.options.precise, spec.options.threads

    def run(a: Array, b: Array, c: Array | None = None) -> Array:
        floating(a)
        if a.ndim != 2 or b.ndim != 2:
            raise ValueError(f"matrices {list(a.shape)} and {list(b.shape)} must have two dimensions")
        a = a.T if left else a
        b = b.T if right else b
        c = c if beta else None
        if alpha == 1:
            start = None if c is None else c if beta == 1 else c * c.dtype.type(beta)
            return kernels.matmul(a, b, start, precise=precise, threads=threads)
        y: Array = kernels.matmul(a, b, precise=precise, threads=threads) * a.dtype.type(alpha)
        return y if c is None else np.add(y, c * c.dtype.type(beta))

    return run


def _row_zeros(zero: Array | None, a: Array) -> Array | int:
    """A zero point of the left matrix: one, or one per row of a single matrix."""
    if zero is None or zero.size == 1:
        return zero_of(zero)
    if zero.size != a.shape[-2]:
        raise Unsupported
    return zero.ravel()


def _column_zeros(zero: Array | None, b: Array) -> Array | int:
    if zero is None or zero.size == 1:
        return zero_of(zero)
    if zero.size != b.shape[-1] or zero.shape[-1] != b.shape[-1]:
        raise Unsupported
    return zero.ravel()


@operator("MatMulInteger")
def matmul_integer(spec: Spec) -> Function:
    """MatMulInteger-10."""
    options = spec.options

    def run(a: Array, b: Array, a_zero: Array | None = None, b_zero: Array | None = None) -> Array:
        is_byte(a, b)
        a, b, drop = _as_matrices(a, b)
        y = kernels.matmul_integer(
            a, b, _row_zeros(a_zero, a), _column_zeros(b_zero, b), saturate=options.saturate, threads=options.threads
        )
        return y.squeeze(drop) if drop else y

    return run


@operator("QLinearMatMul")
def qlinear_matmul(spec: Spec) -> Function:
    """QLinearMatMul-10, 21 with float32 scales."""
    options = spec.options

    def run(
        a: Array, a_scale: Array, a_zero: Array, b: Array, b_scale: Array, b_zero: Array, y_scale: Array, y_zero: Array
    ) -> Array:
        is_byte(a, b, y_zero)
        a, b, drop = _as_matrices(a, b)
        if y_zero.size != 1 or (b_scale.size != 1 and b_scale.shape[-1] != b_scale.size):
            raise Unsupported
        if any(scale.dtype != np.float32 for scale in (a_scale, b_scale, y_scale)):
            raise Unsupported
        scale = combined_scale(a_scale, b_scale, y_scale).ravel()
        y = kernels.matmul_integer(
            a,
            b,
            _row_zeros(a_zero, a),
            _column_zeros(b_zero, b),
            scale=scale,
            y_zero=y_zero.reshape(()),
            saturate=options.saturate,
            threads=options.threads,
        )
        return y.squeeze(drop) if drop else y

    return run
