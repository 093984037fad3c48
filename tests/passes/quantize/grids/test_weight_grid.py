"""Weights that several variants of a quantized model share."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from lwgraph.passes.quantize.grids import weight_grid as module
from lwgraph.passes.quantize.grids.grid import weight_limits
from lwgraph.passes.quantize.grids.weight_grid import RoundedWeights, weight_grid

WEIGHT = np.random.default_rng(0).standard_normal((40, 1100)).astype(np.float32)


@pytest.mark.parametrize("axis", [0, None])
@pytest.mark.parametrize("type", ["int8", "int4"])
def test_rounded_once_while_the_bias_leaves_the_scale_free(axis: int | None, type: str) -> None:
    rounded = RoundedWeights(type, reduced=False, search=True)
    first, integers = rounded.of("a", WEIGHT, axis, 0.0)
    assert rounded.of("a", WEIGHT, axis, 1e-6)[1] is integers
    for least in (0.0, 1e-6):
        grid = weight_grid(WEIGHT, axis, type, least=least)
        assert np.array_equal(first.scale, grid.scale)
        assert np.array_equal(integers, grid.encode(WEIGHT, weight_limits(type)))
    coarse, _ = rounded.of("a", WEIGHT, axis, 1.0)
    assert np.all(coarse.scale == 1) and np.all(first.scale < 1)


def test_a_scale_has_the_least_error_of_those_tried() -> None:
    grid = weight_grid(WEIGHT, 0)
    full = np.abs(WEIGHT).max(1).astype(np.float64) / 127
    for row in (0, 17, 39):
        tried = [full[row], *(full[row] * np.linspace(0.98, 0.8, 10))]
        lost = [np.square(np.clip(np.rint(WEIGHT[row] / s), -127, 127) * s - WEIGHT[row]).sum() for s in tried]
        assert grid.scale[row] == pytest.approx(tried[int(np.argmin(lost))])


@pytest.mark.parametrize("axis", [0, None])
@pytest.mark.parametrize("on_grid", [False, True])
def test_nothing_as_large_as_the_weight_is_made(axis: int | None, on_grid: bool) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((20, 200_000)).astype(np.float32)
    if on_grid:
        weight = np.exp2(np.rint(random.uniform(-4, 0, weight.shape))).astype(np.float32)
    tracemalloc.start()
    grid = weight_grid(weight, axis)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.25 * weight.nbytes
    assert np.all(grid.scale == 0.0625) is np.bool_(on_grid)


def test_a_search_is_made_once_for_equal_weights_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[int]()
    made = module._grid
    monkeypatch.setattr(module, "_searched", {})
    monkeypatch.setattr(module, "_MOST_KNOWN", 8)
    monkeypatch.setattr(module, "_grid", lambda *given: calls.append(1) or made(*given))  # type: ignore[func-returns-value]
    first = weight_grid(WEIGHT, 0)
    assert weight_grid(WEIGHT.copy(), 0) is first and len(calls) == 1
    other = WEIGHT.copy()
    other[-1, -1] += 9
    for weight, axis, least in ((other, 0, 0.0), (WEIGHT, None, 0.0), (WEIGHT, 1, 0.0), (WEIGHT, 0, 1.0)):
        again, number = weight_grid(weight, axis, least=least), len(calls)
        assert not again.equals(first) and weight_grid(weight, axis, least=least) is again and len(calls) == number
    for _ in range(module._MOST_KNOWN + 1):
        other[0, 0] += 1
        weight_grid(other[:1, :4], None)
    assert len(module._searched) <= module._MOST_KNOWN
