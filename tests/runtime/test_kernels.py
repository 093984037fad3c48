"""The compiled kernels against NumPy's, on every instruction set of this processor, and what both promise."""

import sys
import warnings
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from benchmarks import runtime_fuzz as kernel_cases
from lwgraph.runtime import backend, kernels

needs_compiled = pytest.mark.skipif(kernels.compiled is None, reason="the kernels were not built")
LEVELS = () if kernels.compiled is None else kernels.compiled.levels()
SAME = {"strides": [1, 1], "dilations": [1, 1], "pads": [1, 1, 1, 1]}


@pytest.fixture
def level(request: pytest.FixtureRequest) -> Iterator[None]:
    before = kernels.compiled.level()
    kernels.compiled.level(request.param)
    yield
    kernels.compiled.level(before)


@needs_compiled
@pytest.mark.parametrize("level", LEVELS, indirect=True)
@pytest.mark.parametrize("case", range(len(kernel_cases.CASES)), ids=[c.__name__ for c in kernel_cases.CASES])
def test_compiled_equals_numpy(level: None, case: int) -> None:
    for seed in range(40):
        kernel_cases.check(case + seed * len(kernel_cases.CASES))


@needs_compiled
@pytest.mark.parametrize("level", LEVELS, indirect=True)
def test_infinities_beside_large_numbers_give_what_numpy_gives(level: None) -> None:
    """Seed 675 was NaN in one and infinite in the other, when sums of its large numbers left float32."""
    kernel_cases.check(675)
    large = np.abs(kernel_cases.SPECIAL[np.isfinite(kernel_cases.SPECIAL)]).max()
    assert 1e5 * large**2 < np.finfo(np.float32).max


@needs_compiled
def test_both_see_a_difference() -> None:
    """The comparison can fail: another input is another result."""
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
    call = (kernels.conv, (x, x), SAME)
    got = kernel_cases.outcome(call, "compiled")
    kernel_cases.compare(call, got, kernel_cases.outcome(call, "numpy"))
    wrong = kernel_cases.outcome((kernels.conv, (x + np.float32(1e-3), x), SAME), "numpy")
    with pytest.raises(AssertionError):
        kernel_cases.compare(call, got, wrong)


@needs_compiled
@pytest.mark.parametrize("level", LEVELS, indirect=True)
def test_results_do_not_depend_on_threads(level: None) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((2, 16, 30, 31), (24, 16, 3, 3)))
    for options in ({}, {"precise": True}):
        one = kernels.conv(x, w, **SAME, **options)
        np.testing.assert_array_equal(kernels.conv(x, w, **SAME, **options, threads=3), one)
    a, b = rng.standard_normal((50, 300)).astype(np.float32), rng.standard_normal((300, 400)).astype(np.float32)
    np.testing.assert_array_equal(kernels.matmul(a, b, threads=3), kernels.matmul(a, b))


@pytest.mark.parametrize("name", ["compiled", "numpy"])
def test_precise_sums_are_right_to_the_last_place(name: str) -> None:
    """float64 accumulation differs from the exact sum by at most 1 ulp of float32; float32 by at most n u sum|xy|."""
    if name == "compiled" and kernels.compiled is None:
        pytest.skip("the kernels were not built")
    kernels.backend(name)
    rng = np.random.default_rng(0)
    for _ in range(60):
        n = int(rng.integers(1, 600))
        x = (rng.standard_normal(n) * np.exp(rng.uniform(-8, 8, n))).astype(np.float32)
        y = (rng.standard_normal(n) * np.exp(rng.uniform(-8, 8, n))).astype(np.float32)
        exact = sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(x, y, strict=True))
        size = sum(abs(Fraction(float(a)) * Fraction(float(b))) for a, b in zip(x, y, strict=True))
        for rows in (1, 4):
            left = np.repeat(x[None], rows, 0)
            precise = kernels.matmul(left, y[:, None], precise=True)[-1, 0]
            assert abs(Fraction(float(precise)) - exact) <= Fraction(
                float(np.spacing(np.abs(np.float32(float(exact)))))
            )
            plain = kernels.matmul(left, y[:, None])[-1, 0]
            assert abs(Fraction(float(plain)) - exact) <= size * n * Fraction(1, 2**24) + Fraction(1, 2**126)
    kernels.backend("numpy" if kernels.compiled is None else "compiled")


def test_saturation_differs_only_where_pairs_overflow() -> None:
    x = np.full((1, 2, 1, 1), 255, np.uint8)
    w = np.full((1, 2, 1, 1), 127, np.int8)
    options = {"strides": [1, 1], "dilations": [1, 1], "pads": [0] * 4}
    assert kernels.conv_integer(x, w, **options).item() == 2 * 255 * 127
    assert kernels.conv_integer(x, w, saturate=True, **options).item() == 32767
    assert kernels.conv_integer(x // 4, w, saturate=True, **options).item() == 2 * 63 * 127
    a, b = np.full((1, 4), 255, np.uint8), np.full((4, 1), -128, np.int8)
    assert kernels.matmul_integer(a, b, saturate=True).item() == -65536
    assert kernels.matmul_integer(b.T, a.T, saturate=True).item() == -4 * 255 * 128  # unsigned weights do not saturate


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: kernels.conv(x, x[:, :1], **SAME), "do not fit"),
        (lambda x: kernels.conv(x, x, strides=[1], dilations=[1, 1], pads=[0] * 4), "strides has 1 entries"),
        (lambda x: kernels.conv(x, x, strides=[0, 1], dilations=[1, 1], pads=[0] * 4), "at least 1"),
        (lambda x: kernels.conv(x, x, strides=[1 << 40, 1], dilations=[1, 1], pads=[0] * 4), "above 2"),
        (lambda x: kernels.conv(x.astype(np.int32), x, **SAME), "int32"),
        (lambda x: kernels.matmul(x, x[..., :2, :]), "cannot be multiplied"),
        (lambda x: kernels.conv_integer(x, x, **SAME), "uint8 and int8"),
        (lambda x: kernels.quantize(x, np.ones(7, np.float32), None, np.uint8), "neither one value"),
        (lambda x: kernels.quantize(x, np.ones((), np.float32), None, np.int32), "int32"),
    ],
)
def test_bad_arguments(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(np.ones((2, 3, 4, 4), np.float32))  # type: ignore[operator]


@needs_compiled
def test_c_checks_sizes_itself() -> None:
    """The extension is safe even when its Python caller is wrong."""
    raw = kernels.compiled
    x = np.ones(16, np.float32)
    sizes = np.array([1, 1, 1, 1, 1, 4, 4, 1, 4, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], np.int64)
    y = np.empty(16, np.float32)
    raw.convolve(False, False, x, x[:1], None, y, sizes, 0, 1)
    for wrong in (
        (x[:15], x[:1], None, y, sizes, 0, 1),
        (x, x[:2], None, y, sizes, 0, 1),
        (x, x[:1], x[:2], y, sizes, 0, 1),
        (x, x[:1], None, y[:15], sizes, 0, 1),
        (x, x[:1], None, y, sizes[:-1], 0, 1),
        (x, x[:1], None, y, sizes, 1, 1),
        (x, x[:1], None, y, np.where(np.arange(22) == 13, 0, sizes), 0, 1),
        (x, x[:1], None, y, np.where(np.arange(22) == 5, 1 << 40, sizes), 0, 1),
        (x, x[:1], None, y, np.where(np.arange(22) == 0, -1, sizes), 0, 1),
    ):
        with pytest.raises(ValueError):
            raw.convolve(False, False, *wrong)
    with pytest.raises(ValueError, match="outside its buffer"):
        raw.multiply(False, False, False, x, x, y, np.array([1, 4, 4, 4, 4, 4, 1]), np.array([1, 0]), 0, 1)
    with pytest.raises(ValueError, match="too few"):
        one = np.ones(2, np.float32)
        raw.dequantize(4, np.ones(16, np.int32), y, one, np.zeros(2, np.int32), np.array([1, 16, 1, 1, 0, 1, 0]), 0, 1)
    with pytest.raises((BufferError, TypeError, ValueError), match="contiguous"):
        raw.convolve(False, False, np.ones((4, 8), np.float32)[:, ::2], x[:1], None, y, sizes, 0, 1)
    with pytest.raises(ValueError, match="instruction set"):
        raw.level("quantum")


def test_without_compiled_kernels_there_is_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "compiled", None)
    monkeypatch.setattr(backend, "_state", {})
    x = np.ones((1, 1, 4, 4), np.float32)
    with pytest.warns(RuntimeWarning, match="were not built"):
        kernels.conv(x, x, **SAME)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernels.conv(x, x, **SAME)
    assert kernels.backend() == "numpy"
    with pytest.raises(ValueError, match="no kernels"):
        kernels.backend("compiled")


@needs_compiled
def test_the_build_is_of_this_version() -> None:
    assert kernels.compiled.VERSION == backend.VERSION


def test_numpy_stand_ins_have_the_same_names() -> None:
    from lwgraph.runtime import kernels_numpy

    if kernels.compiled is not None:
        public = {name for name in dir(kernels.compiled) if not name.startswith("_")} - {"VERSION"}
        assert public <= set(dir(kernels_numpy)), sys.version
