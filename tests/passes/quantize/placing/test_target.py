"""Targets are data: what the built-in files say, how one's own are read, and the grids that follow."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lwgraph.calibrate.thresholds import Range
from lwgraph.errors import UsageError
from lwgraph.passes.quantize.grids.grid import LIMITS, activation_grid, weight_limits
from lwgraph.passes.quantize.grids.weight_grid import weight_grid
from lwgraph.passes.quantize.placing.target import check_type, load_target, target_names


def test_all_built_in_targets_load() -> None:
    assert target_names() == ["openvino", "ort-cpu", "ort-cpu-avx2", "qnn", "tensorrt"]
    for name in target_names():
        target = load_target(name)
        assert target.name == name and target.description and target.has("Conv", "compute", 17)


def test_inheritance_changes_only_what_is_said() -> None:
    base, old = load_target("ort-cpu"), load_target("ort-cpu-avx2")
    assert old.reduced_range and not base.reduced_range and base.vnni and not old.vnni
    assert old.roles == base.roles and old.minimum_opsets == base.minimum_opsets


def test_an_operator_counts_from_its_opset_on() -> None:
    target = load_target("ort-cpu")
    assert target.has("MaxPool", "keep", 12) and not target.has("MaxPool", "keep", 11)


def test_ones_own_target(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('inherits = "ort-cpu"\nactivation_type = "int8"\n[operators]\nconvert = ["Add"]\n')
    target = load_target(str(path))
    assert target.name == "mine" and target.activation_type == "int8"
    assert target.has("Add", "convert", 17) and not target.has("Sigmoid", "convert", 17)
    assert target.has("Conv", "compute", 17)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("activaton_type = 'int8'", "did you mean 'activation_type'"),
        ("per_channel = 1", "type bool"),
        ("activation_type = 'int7'", "allowed: uint8"),
        ("[operators]\ncompute = 'Conv'", "list of operator names"),
        ("[operators]\ncomputes = ['Conv']", "did you mean 'compute'"),
        ("minimum_opset = true", "type int"),
        ("not toml", "not TOML"),
    ],
)
def test_a_wrong_target_file_is_one_clear_line(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=match):
        load_target(str(path))


def test_names_of_other_tools() -> None:
    assert check_type("activation_type", "QUInt8", ("uint8",)) == "uint8"
    assert check_type("weight_type", "qint8", ("int8",)) == "int8"


@given(st.floats(-1e4, 0), st.floats(0, 1e4), st.sampled_from(["uint8", "int8", "uint16", "int16"]), st.booleans())
@example(0.0, 5e-324, "uint8", False)
@example(-5e-324, 0.0, "int16", True)
def test_an_activation_grid_covers_its_range_and_has_an_exact_zero(
    low: float, high: float, kind: str, symmetric: bool
) -> None:
    grid = activation_grid(Range(low, high), kind, symmetric)
    step = float(grid.scale)
    assert grid.decode(grid.encode(np.zeros(1)))[0] == 0
    ends = np.array([low, high])
    assert np.abs(grid.decode(grid.encode(ends)) - ends).max() <= 1.01 * step
    assert not symmetric or kind.startswith("u") or int(grid.zero) == 0
    inside = np.linspace(*grid.range(), 50)
    assert np.abs(grid.decode(grid.encode(inside)) - inside).max() <= 0.501 * step + 1e-12


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("kind", ["int8", "uint8", "int4"])
def test_weight_grids(axis: int | None, kind: str) -> None:
    rng = np.random.default_rng(0)
    weight = (rng.normal(size=(6, 5, 3, 3)) * np.geomspace(0.01, 1, 6)[:, None, None, None]).astype(np.float32)
    searched, plain = (weight_grid(weight, axis, kind, search=s) for s in (True, False))
    limits = weight_limits(kind)
    errors = [((g.decode(g.encode(weight, limits)) - weight) ** 2).sum() for g in (searched, plain)]
    assert errors[0] <= errors[1] and searched.scale.shape == (() if axis is None else (weight.shape[axis],))
    integers = searched.encode(weight, limits)
    assert limits[0] <= integers.min() and integers.max() <= limits[1]
    assert LIMITS[kind][0] <= limits[0] and limits[1] <= LIMITS[kind][1]
    least = weight_grid(weight, axis, kind, least=1.0)
    assert np.all(least.scale >= 1.0)


def test_a_dead_channel_has_a_grid() -> None:
    grid = weight_grid(np.zeros((2, 4), np.float32), 0)
    assert np.all(np.isfinite(1 / grid.scale)) and not grid.encode(np.zeros((2, 4))).any()


def test_a_weight_that_matters_more_is_rounded_better() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(1, 64)).astype(np.float32)
    weight[0, 0] = 12
    importance = np.ones((1, 64))
    importance[0, 0] = 0
    grid = weight_grid(weight, 0, "int4", importance=importance)
    assert float(grid.scale[0]) < 0.7 * 12 / 7
