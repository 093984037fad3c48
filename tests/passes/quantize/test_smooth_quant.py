"""SmoothQuant: the same outputs, evener inputs, less lost in integers; and refusals where the scales would be seen."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.calibrate.ranges import collect
from lwgraph.check import verify
from lwgraph.errors import UsageError
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.passes.quantize.smooth_quant import SmoothQuant, smoothing
from lwgraph.rewrite import Context
from lwgraph.testing import Sample, check_pass
from tests.passes.quantize.quantize_models import Net

ORT = registry.executor("ort")
WIDTH = 32
DATA = [{"x": np.random.default_rng(i).normal(size=(2, 12, WIDTH)).astype(np.float32)} for i in range(6)]
OUTLIERS = np.where(np.arange(WIDTH) % 11 == 3, 60.0, 1.0).astype(np.float32)


def matrix(n: Net, rows: int = WIDTH, columns: int = 24) -> str:
    return n.constant((n.rng.normal(size=(rows, columns)) / np.sqrt(rows)).astype(np.float32))


def normalized(n: Net, x: str) -> str:
    """A LayerNormalization with outlier channels."""
    return n.op("LayerNormalization", x, n.constant(OUTLIERS), n.constant(OUTLIERS / 4), axis=-1, name="norm")


def by_hand(n: Net, x: str) -> str:
    """The same from Mul and Add, with a factor between."""
    scaled = n.op("Mul", n.op("Tanh", x), n.constant(OUTLIERS))
    return n.op("Relu", n.op("Add", n.op("Mul", scaled, n.constant(np.float32(0.5))), n.constant(np.float32(0.25))))


def linear(n: Net, x: str) -> str:
    """A product with outlier columns and its bias."""
    weight = (n.rng.normal(size=(WIDTH, WIDTH)) / 6 * OUTLIERS).astype(np.float32)
    return n.op("Add", n.op("MatMul", x, n.constant(weight), name="before"), n.constant(OUTLIERS / 8))


def model(make: Callable[[Net, str], str], tail: str = "") -> ir.Model:
    n = Net()
    x = n.input("x", [2, 12, WIDTH])
    h = make(n, x)
    q, k = n.op("MatMul", h, matrix(n), name="query"), n.op("MatMul", h, matrix(n), name="key")
    y = n.op("Add", q, k)
    if tail == "residual":
        y = n.op("Concat", y, h, axis=-1)
    return n.model(y)


def smoothed(source: ir.Model, **options: float) -> tuple[ir.Model, int, Context]:
    made, context = ir.clone(source), Context(executor=ORT, data=DATA)  # type: ignore[arg-type]
    count = SmoothQuant(**options).run(made, context)  # type: ignore[arg-type]
    verify(made)
    return made, count, context


def outputs(source: ir.Model) -> Array:
    run = ORT.prepare(source)
    return np.concatenate([v.reshape(-1) for f in DATA for v in run(f).values()]).astype(np.float64)


@pytest.mark.parametrize("make", [normalized, by_hand, linear])
@pytest.mark.parametrize("options", [{}, {"alpha": 0.5}])
def test_same_outputs_from_evener_channels(make: Callable[[Net, str], str], options: dict[str, float]) -> None:
    source = model(make)
    made, count, _ = smoothed(source, **options)
    assert count >= 1
    np.testing.assert_allclose(outputs(made), outputs(source), rtol=1e-4, atol=1e-4)
    spread = []
    for candidate in (source, made):
        name = next(n for n in candidate.graph if n.name == "query").inputs[0].name or ""  # type: ignore[union-attr]
        found = collect(candidate, DATA, ORT, [name], channels={name: 2})[name]
        assert found.channel_high is not None and found.channel_low is not None
        reach = np.maximum(found.channel_high, -found.channel_low)
        spread.append(reach.max() / np.median(reach))
    assert spread[1] < 0.5 * spread[0]


@pytest.mark.parametrize("make", [normalized, by_hand, linear])
def test_the_public_kit(make: Callable[[Net, str], str]) -> None:
    sample = Sample(model(make), DATA[:2])
    assert check_pass(SmoothQuant(), [sample], new_context=lambda: Context(executor=ORT, data=DATA)) > 0  # type: ignore[arg-type]


def test_quantization_loses_less() -> None:
    source = model(normalized)
    truth, lost = outputs(source), []
    for candidate in (source, smoothed(source)[0]):
        options = {"keep": "none", "equalize": False, "calibration_method": "minmax"}
        assert Quantize(**options).run(candidate, Context(executor=ORT, data=DATA))  # type: ignore[arg-type]
        lost.append(np.square(outputs(candidate) - truth).mean())
    assert lost[1] < 0.5 * lost[0]


def test_even_channels_are_left_alone() -> None:
    def even(n: Net, x: str) -> str:
        return n.op("LayerNormalization", x, n.constant(np.ones(WIDTH, np.float32)), axis=-1)

    made, count, context = smoothed(model(even))
    assert count == 0 and ir.fingerprint(made) == ir.fingerprint(model(even))
    assert "no alpha loses less" in context.skipped[0].reason


def test_equation_4() -> None:
    reach, weight = np.array([8.0, 2.0, 0.0]), np.array([[1.0, -4.0], [0.5, 0.5], [3.0, 3.0]])
    raw = np.array([8**0.75 / 4**0.25, 2**0.75 / 0.5**0.25])
    np.testing.assert_allclose(smoothing(reach, [weight], 0.75), [*(raw / np.sqrt(raw.prod())), 1.0])


def gathered(n: Net, x: str) -> str:
    return n.op("Sigmoid", x, name="gate")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (model(normalized, tail="residual"), "would see the scales"),
        (model(gathered), "cannot absorb"),
        (model(lambda n, x: x), "input of the model"),
    ],
)
def test_what_is_refused_says_why(source: ir.Model, reason: str) -> None:
    made, count, context = smoothed(source)
    assert count == 0 and ir.fingerprint(made) == ir.fingerprint(source)
    assert any(s.place == "query" and reason in s.reason for s in context.skipped)


def test_needs_data_and_sound_options() -> None:
    context = Context()
    assert SmoothQuant().run(model(normalized), context) == 0
    assert "needs data" in context.skipped[0].reason
    with pytest.raises(UsageError, match="0 to 1"):
        SmoothQuant(alpha=1.5)
    with pytest.raises(UsageError, match="2 to 8"):
        SmoothQuant(weight_bits=1)


def test_a_large_weight_is_looked_at_a_piece_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Besides the weight as it will be, nothing as large is made; alpha is that which all at once gives."""
    n = Net()
    wide = n.constant((n.rng.normal(size=(WIDTH, 40_000)) / 6).astype(np.float32))
    source = n.model(n.op("MatMul", normalized(n, n.input("x", [2, 12, WIDTH])), wide))
    source.graph.outputs[0].shape = None
    tracemalloc.start()
    made, done, _ = smoothed(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    found = [
        array for v in made.graph.initializers.values() if (array := ir.constant(v)) is not None and array.ndim == 2
    ]
    assert done == 1 and peak < 30e6 + found[0].nbytes
    monkeypatch.setattr("lwgraph.passes.quantize.smooth_quant.BLOCK", 1 << 30)
    whole = [v for v in smoothed(source)[0].graph.initializers.values() if ir.constant(v).ndim == 2]  # type: ignore[union-attr]
    np.testing.assert_array_equal(found[0], ir.constant(whole[0]))
