"""Matrix products."""

from __future__ import annotations

import torch

from lwgraph.runtime.torch_ops.table import Compute, Op, Tensor, operator


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point():
        return torch.matmul(a, b)
    return torch.matmul(a.double(), b.double()).round().to(a.dtype)


@operator("MatMul")
def _mat_mul(op: Op) -> Compute:
    return _matmul


@operator("Gemm")
def _gemm(op: Op) -> Compute:
    alpha, beta, left, right = op.attr("alpha", 1.0), op.attr("beta", 1.0), op.attr("transA", 0), op.attr("transB", 0)

    def compute(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        y = _matmul(a.T if left else a, b.T if right else b)
        y = y if alpha == 1 else (y * alpha).to(y.dtype)
        if c is None or beta == 0:
            return y
        return y + (c if beta == 1 else (c * beta).to(c.dtype))

    return compute


@operator("Einsum")
def _einsum(op: Op) -> Compute:
    equation = op.attr("equation").replace(" ", "")
    return lambda *tensors: torch.einsum(equation, *tensors)


@operator("Det")
def _det(op: Op) -> Compute:
    return lambda x: torch.linalg.det(x)
