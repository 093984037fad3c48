"""Comparison of outputs and the tolerance table."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lwgraph.measure.compare import compare, compare_runs
from lwgraph.measure.tolerances import Tolerance, tolerance
from lwgraph.rewrite.base import Contract

EXACT, ROUNDING, APPROXIMATE = Contract.EXACT, Contract.ROUNDING, Contract.APPROXIMATE
RNG = np.random.default_rng(0)


def one(a, b, contract=ROUNDING, **options):
    return compare({"y": np.asarray(a)}, {"y": np.asarray(b)}, contract, **options)


def test_equal_tensors_are_equal_under_every_contract():
    x = RNG.standard_normal((3, 5)).astype(np.float32)
    for contract in Contract:
        assert one(x, x.copy(), contract).ok


def test_exact_sees_the_last_bit_and_the_sign_of_zero():
    x = np.array([1.0, 0.0], np.float32)
    up = x.copy()
    up[0] = np.nextafter(x[0], np.float32(2))
    assert not one(x, up, EXACT).ok
    assert one(x, up, ROUNDING).ok
    assert not one(x, np.array([1.0, -0.0], np.float32), EXACT).ok


def test_rounding_accepts_a_reordered_sum_and_refuses_a_factor_of_a_thousandth():
    w, x = RNG.standard_normal((64, 4096)), RNG.standard_normal((4096, 64))
    exact = w @ x
    rough = w.astype(np.float32) @ x.astype(np.float32)
    assert one(exact.astype(np.float32), rough).ok
    result = one(rough, rough * np.float32(1 + 1e-3))
    assert not result.ok
    assert result.worst.relative == pytest.approx(1e-3, rel=0.05)
    assert result.worst.sqnr == pytest.approx(60, abs=0.5)


def test_the_worst_element_is_found_beyond_the_first_chunk():
    x = np.ones((3, 1 << 20), np.float32)
    y = x.copy()
    y[2, 77] = 1.5
    d = one(x, y).worst
    assert d.position == (2, 77)
    assert d.max_abs == 0.5
    assert "[2, 77]" in d.reason


def test_rounding_noise_where_the_reference_is_zero_is_accepted_and_more_is_not():
    zero = np.zeros(4, np.float32)
    assert one(zero, zero + np.float32(5e-7)).ok
    result = one(zero, zero + np.float32(1e-3))
    assert not result.ok
    assert result.worst.sqnr == -math.inf


def test_spread_out_small_errors_are_judged_by_their_rms():
    x = np.ones(1000, np.float32)
    x[0] = 1000
    y = x * np.float32(1 + 4e-4)  # every element is within the peak bound, all together are not
    assert not one(x, y).ok
    assert "root mean square" in one(x, y).worst.reason


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_must_stand_at_the_same_places(bad):
    x = np.array([1.0, 2.0, 3.0], np.float32)
    y = x.copy()
    y[1] = bad
    for contract in Contract:
        assert not one(x, y, contract).ok
        assert one(x, y, contract).worst.position == (1,)
        assert not one(y, x, contract).ok
        assert one(y, y.copy(), contract).ok
    assert not one(np.array([np.inf]), np.array([-np.inf]), APPROXIMATE).ok


def test_other_values_are_still_compared_beside_equal_infinities():
    assert not one(np.array([np.inf, 1.0]), np.array([np.inf, 2.0])).ok


def test_shape_dtype_and_names_are_compared():
    x = np.zeros((1, 2), np.float32)
    assert "shape [2, 1]" in one(x, x.T).worst.reason
    assert "float64" in one(x, x.astype(np.float64)).worst.reason
    assert not compare({"a": x}, {}, EXACT).ok
    assert not compare({}, {"a": x}, EXACT).ok
    assert compare({"a": x}, {"b": x}, EXACT).first_failure.name == "a"


def test_integers_bools_and_strings():
    n = np.arange(2000)
    m = n.copy()
    m[5] = 0
    assert one(n, m, ROUNDING).ok  # one tie in two thousand
    assert not one(n, m, EXACT).ok
    m[:5] += 1
    result = one(n, m, ROUNDING)
    assert not result.ok
    assert result.worst.flips == pytest.approx(6 / 2000)
    codes = np.arange(200, dtype=np.uint8)
    assert one(codes, codes + np.uint8(1), ROUNDING).ok
    assert not one(codes, codes + np.uint8(2), ROUNDING).ok
    assert not one(np.array([True, False]), np.array([True, True]), ROUNDING).ok
    assert one(np.array(["a", "b"], object), np.array(["a", "b"], object), EXACT).ok
    assert not one(np.array(["a", "b"], object), np.array(["a", "c"], object), APPROXIMATE).ok


def test_large_unsigned_integers_do_not_wrap():
    a, b = np.array([0], np.uint64), np.array([2**64 - 1], np.uint64)
    assert not one(a, b, ROUNDING).ok
    assert one(a, b, ROUNDING).worst.max_abs == pytest.approx(2.0**64)


def test_half_bfloat_and_complex():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = RNG.standard_normal(100).astype(np.float32)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        assert one(x.astype(dtype), (x * 1.0005).astype(dtype)).ok
        assert not one(x.astype(dtype), (x * 1.5).astype(dtype)).ok
    z = x + 1j * x
    assert one(z, z * (1 + 1e-12), ROUNDING).ok
    assert not one(z, z * 1j, APPROXIMATE).ok


def test_empty_and_scalar_tensors():
    assert one(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)).ok
    assert not one(np.float32(1), np.float32(2)).ok
    assert one(np.float32(1), np.float32(2)).worst.position == ()


def test_sequences_and_maps_are_compared_by_member():
    a = {"s": [np.zeros(2), np.ones(2)], "m": {"k": np.float32(1)}}
    b = {"s": [np.zeros(2), np.zeros(2)], "m": {"k": np.float32(1)}}
    result = compare(a, b, ROUNDING)
    assert [d.name for d in result.differences] == ["s[0]", "s[1]", "m['k']"]
    assert result.first_failure.name == "s[1]"


def test_a_comparison_has_no_truth_value():
    with pytest.raises(TypeError, match="ok"):
        bool(one(1.0, 1.0))


def test_a_stated_budget_replaces_the_table():
    x = np.ones(10, np.float32)
    assert not one(x, x * np.float32(1.02), APPROXIMATE).ok
    assert one(x, x * np.float32(1.02), APPROXIMATE, tolerances=lambda dtype: Tolerance(peak=0.1, rms=0.1)).ok


def test_runs_are_compared_over_all_samples_and_the_worst_is_kept():
    samples = [{"x": np.full(3, v, np.float32)} for v in (1.0, 2.0, 3.0)]

    def candidate(feeds):
        return {"y": feeds["x"] + np.float32(0.5) * (feeds["x"] == 2)}

    result = compare_runs(lambda feeds: {"y": feeds["x"]}, candidate, samples, ROUNDING)
    assert not result.ok
    assert result.worst.sample == 1
    assert "sample 1" in str(result)
    assert compare_runs(candidate, candidate, [], ROUNDING).worst is None


def test_the_table_widens_from_contract_to_contract_and_never_for_strings():
    for name in ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn"):
        assert tolerance(ROUNDING, name).rms <= tolerance(APPROXIMATE, name).rms
        assert tolerance(EXACT, name).bitwise
    assert tolerance(APPROXIMATE, np.dtype("O")).bitwise
    assert tolerance(ROUNDING, "int64").flips > 0
