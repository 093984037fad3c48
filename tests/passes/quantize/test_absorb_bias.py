"""High-bias absorption: the same outputs on the data, narrower ranges, and refusals where a shift would be seen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.calibrate.ranges import collect
from lwgraph.check import verify
from lwgraph.errors import UsageError
from lwgraph.passes.quantize.absorb_bias import AbsorbBias
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.rewrite import Context
from tests.passes.quantize.quantize_models import Net, images

ORT = registry.executor("ort")
DATA = images(6)


def chain(
    *,
    high: float = 30.0,
    activation: str = "Relu",
    pad: int = 0,
    tail: bool = False,
    between: Callable[[Net, str], str] | None = None,
) -> ir.Model:
    """A layer with high biases, an activation, and a layer that reads it."""
    n = Net()
    x = n.input("x", [1, 3, 16, 16])
    a = n.conv(x, 3, 8, name="first")
    n.constants["c1"] = (np.linspace(0.2, 1, 8) * high).astype(np.float32)
    if activation == "Relu":
        a = n.op("Relu", a, name="act")
    elif activation == "Clip":
        a = n.op("Clip", a, n.constant(np.float32(0)), n.constant(np.float32(1.2 * high)), name="act")
    if between is not None:
        a = between(n, a)
    weight = n.constant((n.rng.normal(size=(6, 8, 3, 3)) / 8).astype(np.float32))
    y = n.op("Conv", a, weight, name="second", pads=[pad] * 4)
    return n.model(n.op("Concat", n.op("GlobalAveragePool", y), n.op("GlobalAveragePool", a), axis=1) if tail else y)


def absorbed(model: ir.Model, **options: float) -> tuple[ir.Model, int, Context]:
    made, context = ir.clone(model), Context(executor=ORT, data=DATA)  # type: ignore[arg-type]
    count = AbsorbBias(**options).run(made, context)
    verify(made)
    return made, count, context


def outputs(model: ir.Model, data: list[dict[str, Array]] = DATA) -> Array:
    run = ORT.prepare(model)
    return np.concatenate([v.reshape(-1) for f in data for v in run(f).values()]).astype(np.float64)


@pytest.mark.parametrize("activation", ["Relu", "Clip", "none"])
@pytest.mark.parametrize(
    "between",
    [
        None,
        lambda n, a: n.op("MaxPool", a, kernel_shape=[2, 2], strides=[1, 1], pads=[1, 1, 0, 0]),
        lambda n, a: n.op("AveragePool", a, kernel_shape=[2, 2]),
    ],
)
def test_same_outputs_from_narrower_tensors(activation: str, between: Callable[[Net, str], str] | None) -> None:
    model = chain(activation=activation, between=between)
    made, count, _ = absorbed(model)
    assert count == 1
    np.testing.assert_allclose(outputs(made), outputs(model), rtol=1e-4, atol=1e-4)
    name = "first_out" if activation == "none" else "act_out"
    before, after = (collect(m, DATA, ORT, [name])[name].histogram.high for m in (model, made))
    assert after < 0.6 * before


def test_quantization_loses_less() -> None:
    model = chain(high=60)
    made, _, _ = absorbed(model)
    truth, lost = outputs(model), []
    for candidate in (model, made):
        quantized = ir.clone(candidate)
        options = {"keep": "none", "equalize": False, "calibration_method": "minmax"}
        assert Quantize(**options).run(quantized, Context(executor=ORT, data=DATA))  # type: ignore[arg-type]
        lost.append(np.square(outputs(quantized) - truth).mean())
    assert lost[1] < 0.8 * lost[0]


def test_a_gemm_behind_flatten_takes_it_up() -> None:
    n = Net()
    x = n.input("x", [1, 3, 16, 16])
    a = n.op("Relu", n.conv(x, 3, 8, name="first", strides=[4, 4]), name="act")
    n.constants["c1"] = np.full(8, 25, np.float32)
    model = n.model(n.gemm(n.op("Flatten", a), 8 * 16, 5, name="head", alpha=0.5, beta=2.0))
    made, count, _ = absorbed(model)
    assert count == 1
    np.testing.assert_allclose(outputs(made), outputs(model), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (chain(pad=1), "pads with zeros"),
        (chain(tail=True), "would see the shift"),
        (chain(high=0.1), "high enough"),
        (chain(between=lambda n, a: n.op("Sigmoid", a)), "would see the shift"),
    ],
)
def test_what_is_refused_says_why(model: ir.Model, reason: str) -> None:
    before = ir.fingerprint(model)
    made, count, context = absorbed(model)
    assert count == 0 and ir.fingerprint(made) == before
    assert any(reason in s.reason for s in context.skipped if s.place == "first")


def test_a_channel_that_reaches_its_clip_stays() -> None:
    """min(x - c, 6) is not min(x, 6) - c for x over 6."""
    model = chain(activation="Clip")
    model = ir.clone(model)
    next(n for n in model.graph if n.op_type == "Clip").replace_input_with(
        2, ir.add_initializer(model.graph, np.array(10, np.float32), "lower_clip")
    )
    made, _, _ = absorbed(model)
    np.testing.assert_allclose(outputs(made), outputs(model), rtol=1e-4, atol=1e-4)


def test_the_tail_of_unseen_data_is_left_room() -> None:
    """More deviations absorb less, and outputs on wilder data differ less."""
    model, wild = chain(), [{"x": 2.5 * f["x"]} for f in images(6, seed=9)]
    truth = outputs(model, wild)
    lost = [np.abs(outputs(absorbed(model, deviations=d)[0], wild) - truth).max() for d in (0.0, 3.0, 9.0)]
    assert lost[0] >= lost[1] > 10 * lost[2]


def test_needs_data_and_sound_options() -> None:
    context = Context()
    assert AbsorbBias().run(chain(), context) == 0
    assert "needs data" in context.skipped[0].reason
    with pytest.raises(UsageError, match="0 or more"):
        AbsorbBias(deviations=-1)
