"""Layers whose weights are powers of two need no multiplier: shifts and additions give the same bits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from lwgraph import registry
from lwgraph.layers.coded_weights import find_coded
from lwgraph.passes.quantize.power_of_two import PowerOfTwo
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.rewrite import Context
from lwgraph.runtime import backend as backends
from lwgraph.runtime.backend import backend
from lwgraph.runtime.kernels import matmul_integer
from lwgraph.runtime.kernels_shifts import matmul_shifts, terms_of
from tests.passes.quantize.quantize_models import Net, images

BACKENDS = ["numpy"] + ["compiled"] * (backends.compiled is not None)


@pytest.fixture(params=BACKENDS)
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    before = backend()
    yield backend(request.param)
    backend(before)


@pytest.mark.parametrize("seed", range(20))
def test_the_product_of_any_integers(kernels: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, k, n = rng.integers(0, 9, 3)
    x, w = rng.integers(-255, 256, (m, k)).astype(np.int32), rng.integers(-128, 128, (k, n)).astype(np.int8)
    np.testing.assert_array_equal(matmul_shifts(x, terms_of(w), threads=2), x.astype(np.int64) @ w.astype(np.int64))


def test_large_values_do_not_wrap(kernels: str) -> None:
    x, w = np.array([[-(2**31)], [2**31 - 1]], np.int32), np.array([[2**31 - 1, -(2**31)]], np.int64)
    np.testing.assert_array_equal(matmul_shifts(x, terms_of(w)), x.astype(np.int64) @ w)


@pytest.mark.parametrize("bits", [4, 5])
def test_a_layer_in_integers_is_shifts_and_additions(kernels: str, bits: int) -> None:
    """The integers of a quantized layer, and what it sums up from them, bit for bit."""
    n = Net(17)
    h = n.op("Relu", n.conv(n.input("x", [1, 8, 6, 6]), 8, 32, name="conv"))
    model = n.model(n.gemm(n.op("Flatten", n.op("GlobalAveragePool", h)), 32, 96, name="head"))
    context = Context(executor=registry.executor("ort"), data=[*images(16, (1, 8, 6, 6))])
    assert PowerOfTwo(bits=bits).run(model, context) and Quantize(keep="none").run(model, context)
    weights = [each.decode() for _, each in find_coded(model.graph)]
    assert len(weights) == 2 and all(w.dtype == np.int8 for w in weights)
    rng = np.random.default_rng(0)
    for w in weights:
        rows = w.reshape(len(w), -1).T
        terms = terms_of(rows)
        assert len(terms) == (1 if bits == 4 else 2)
        x = rng.integers(0, 256, (5, len(rows))).astype(np.uint8)
        zero = np.uint8(100)
        expected = matmul_integer(x, np.ascontiguousarray(rows), zero)
        np.testing.assert_array_equal(matmul_shifts(x.astype(np.int32) - 100, terms), expected)


def test_what_is_refused(kernels: str) -> None:
    one = np.ones((1, 1, 1), np.int8)
    with pytest.raises(ValueError, match="no integers"):
        terms_of(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="not below"):
        terms_of(np.array([2**32]))
    with pytest.raises(ValueError, match="are possible"):
        matmul_shifts(np.ones((2, 3), np.int32), one)
    with pytest.raises(ValueError, match="are possible"):
        matmul_shifts(np.ones((2, 1), np.int64), one)
    with pytest.raises(ValueError, match="a shift is over 31"):
        matmul_shifts(np.ones((2, 1), np.int32), 33 * one)
