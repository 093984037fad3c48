"""Large arrays are worked on a part at a time."""

from __future__ import annotations

import numpy as np
import pytest

from lwgraph import arrays
from lwgraph.arrays import slabs
from lwgraph.passes.quantize.grids.grid import Grid


@pytest.mark.parametrize("shape", [(7, 5), (1, 3), (0, 4), (100,), (3, 0)])
def test_slabs_cover_an_axis_in_order(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    monkeypatch.setattr(arrays, "SLAB", 12)
    array = np.arange(np.prod(shape)).reshape(shape)
    parts = [array[part] for part in slabs(shape)]
    assert np.array_equal(np.concatenate(parts), array)
    assert all(part.size <= max(12, array[:1].size) for part in parts)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_grid_says_the_same_of_a_whole_array_and_of_its_parts(
    monkeypatch: pytest.MonkeyPatch, axis: int | None
) -> None:
    real = np.random.default_rng(0).standard_normal((9, 4, 3)).astype(np.float32)
    count = 1 if axis is None else real.shape[axis]
    scale = np.linspace(0.01, 0.03, count).astype(np.float32).reshape(() if axis is None else (count,))
    grid = Grid("uint8", scale, np.full(scale.shape, 128, np.int64), axis)
    whole = grid.encode(real)
    back = grid.decode(whole)
    monkeypatch.setattr(arrays, "SLAB", 24)
    assert np.array_equal(grid.encode(real), whole) and np.array_equal(grid.decode(whole), back)
    assert np.array_equal(grid.decode(whole.astype(np.uint8)), back)  # of a type that the differences do not fit
    assert np.abs(back - real)[(whole > 0) & (whole < 255)].max() <= scale.max() / 2 * 1.001


def test_a_single_number_has_a_grid_too() -> None:
    grid = Grid("int8", np.array(0.5, np.float32), np.array(0, np.int64))
    assert grid.encode(np.array(1.6)) == 3 and grid.decode(np.array(3)) == 1.5
