"""HardSwish and HardSigmoid in integers: taken apart, and put together where they stay in float."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.check import verify
from lwgraph.passes.quantize.graph.activations import close_activations, open_activations
from lwgraph.passes.quantize.graph.quantizer import Quantizer
from lwgraph.passes.quantize.graph.shapes import infer
from lwgraph.passes.quantize.judging.mixed_precision import Mixer
from lwgraph.passes.quantize.placing.target import load_target
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.rewrite import Context
from lwgraph.runtime.ort import Kernel, OrtExecutor
from tests.passes.quantize.quantize_models import Net, images

ORT = OrtExecutor()
TARGET = load_target("ort-cpu")


def network() -> ir.Model:
    """A gate by HardSigmoid, and two HardSwish of which one feeds it."""
    n = Net()
    x = n.input("x", ["n", 3, 16, 16])
    a = n.op("HardSwish", n.conv(x, 3, 16, name="first"), name="swish")
    gate = n.conv(n.op("GlobalAveragePool", a), 16, 16, k=1, name="gate")
    b = n.op("Mul", a, n.op("HardSigmoid", gate, alpha=0.3, beta=0.4, name="sigmoid"))
    c = n.op("HardSwish", n.conv(b, 16, 16, name="second"), name="swish2")
    model = n.model(n.conv(c, 16, 4, name="last"))
    infer(model)
    return model


def outputs(model: ir.Model, data: list[dict[str, Array]]) -> Array:
    run = registry.executor("ort").prepare(model)
    return np.concatenate([next(iter(run(f).values())).reshape(-1) for f in data]).astype(np.float64)


def ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def test_the_parts_compute_the_same_and_come_together_again() -> None:
    model = network()
    opened = open_activations(model, TARGET, {"swish2"})
    verify(model)
    assert [one.name for one in opened] == ["swish", "sigmoid"]
    assert ops(model)["HardSwish"] == 1 and ops(model)["HardSigmoid"] == 0
    np.testing.assert_allclose(outputs(model, images()), outputs(network(), images()), rtol=1e-5, atol=1e-5)
    assert set(close_activations(model, opened)) == {"swish", "sigmoid"}
    assert ir.fingerprint(model) == ir.fingerprint(network())


def test_what_others_read_is_not_put_together() -> None:
    model = network()
    opened = open_activations(model, TARGET)
    shifted = next(n for n in model.graph if n.name == "swish_shifted")
    last = next(n for n in model.graph if n.name == "last")
    last.replace_input_with(0, shifted.outputs[0])
    assert set(close_activations(model, opened)) == {"sigmoid", "swish2"}
    verify(model)


def test_they_compute_in_integers() -> None:
    model, data = network(), images()
    context = Context(executor=ORT, data=list(data))
    Quantize(calibration_method="minmax", equalize=False, keep="none").run(model, context)
    verify(model)
    ran = Counter(node.op_type for node in ORT.optimized(model).graph.node)
    assert ran["QLinearConv"] == 4 and ran["QLinearMul"] == 3
    assert not {"HardSwish", "HardSigmoid", "Add", "Mul", "Clip"} & set(ran)
    y, z = outputs(network(), images(seed=9)), outputs(model, images(seed=9))
    assert ((y - z) ** 2).mean() < 2e-3 * y.var()


def test_the_grid_before_a_hard_activation_covers_only_what_matters() -> None:
    model, data = network(), images()
    for feed in data:
        feed["x"] *= 10
    context = Context(executor=ORT, data=list(data))
    Quantize(calibration_method="minmax", equalize=False, keep="none").run(model, context)
    lows = []
    for name in ("first", "gate"):
        node = next(n for n in model.graph if n.name == name)
        q = node.outputs[0].consumers()[0]
        scale, zero = (float(np.asarray(ir.constant(v))) for v in q.inputs[1:])
        lows.append(-zero * scale)
    assert -3.5 < lows[0] <= -3 and -0.4 / 0.3 - 0.5 < lows[1] <= -0.4 / 0.3


@pytest.mark.parametrize(
    "options",
    [{"nodes_to_exclude": ("first", "second", "gate")}, {"op_types_to_quantize": ("Conv",)}, {"target": "tensorrt"}],
)
def test_they_stay_whole_in_float(options: dict[str, Sequence[str]]) -> None:
    model = network()
    context = Context(executor=ORT, data=list(images()))
    Quantize(**{"calibration_method": "minmax", "equalize": False, "keep": "none", **options}).run(model, context)
    verify(model)
    assert ops(model)["HardSwish"] == 2 and ops(model)["HardSigmoid"] == 1 and not ops(model)["Clip"]


def test_the_time_in_float_is_that_of_the_whole() -> None:
    """In float nobody computes the parts, so they share the time of the node that they replace."""

    class Timed(OrtExecutor):
        def profile(self, model: ir.Model, feeds: Sequence[dict[str, Array]]) -> list[Kernel]:
            return [Kernel(n.name or "", n.op_type, 8e-3) for n in model.graph]

    from lwgraph.calibrate.ranges import collect

    model, data, executor = network(), images(), Timed()
    inner = ir.clone(model)
    parts = {one.name: one.parts for one in open_activations(inner, TARGET)}
    quantizer = Quantizer(inner, TARGET, lambda names, axes: collect(inner, data, executor, names, channels=axes))
    mixer = Mixer(model, quantizer, executor, data, parts=parts, race=lambda runs, feed: dict.fromkeys(runs, 1.0))
    mixer.find()
    assert {name: mixer.floats[name] for name in ("swish", *parts["swish"])} == dict.fromkeys(
        ("swish", "swish_bounded", "swish_shifted", "swish_clipped", "swish_share"), 1.6e-3
    )
