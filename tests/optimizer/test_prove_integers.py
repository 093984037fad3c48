"""The proof of quantized models: one step apart passes, two do not, and rounding further back adds to nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.optimizer.prove import same_in_both
from lwgraph.optimizer.prove_integers import WHAT, quantizes, same_integers
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.rewrite import Context
from tests.passes.quantize.quantize_models import Net, detector, images, residual

ORT, REFERENCE = registry.executor("ort"), registry.executor("reference")
DATA: list[Any] = images(4)


def quantized(model: ir.Model, **options: Any) -> ir.Model:
    assert Quantize(keep="none", equalize=False, **options).run(model, Context(executor=ORT, data=DATA)) > 0
    return model


class Shifted:
    """An executor that adds to the largest element of one value."""

    name = "shifted"

    def __init__(self, value: str, by: float) -> None:
        self.value, self.by = value, by

    def prepare(
        self, model: ir.Model, outputs: Sequence[str] | None = None
    ) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        run = ORT.prepare(model, outputs)

        def wrong(feeds: Mapping[str, Any]) -> dict[str, Any]:
            found = dict(run(feeds))
            array = np.array(found[self.value])
            at = np.unravel_index(int(array.argmax()), array.shape)
            array[at] = type(array[at])(float(array[at]) + self.by)
            return {**found, self.value: array}

        return wrong


@pytest.mark.parametrize("model", [residual(), detector()])
def test_executors_agree_on_what_quantize_makes(model: ir.Model) -> None:
    check = same_in_both(quantized(ir.clone(model), nodes_to_exclude=("stem",)), ORT, REFERENCE, DATA[:2], "")
    assert check.ok and check.what == WHAT, check.detail


def test_a_float_model_is_compared_by_its_outputs() -> None:
    assert not quantizes(residual())
    assert same_in_both(residual(), ORT, REFERENCE, DATA[:1], "as a float model").what == "as a float model"


@pytest.mark.parametrize(("steps", "ok"), [(-1, True), (-2, False)])
def test_one_step_passes_and_two_do_not(steps: int, ok: bool) -> None:
    model = quantized(residual())
    name = [n.outputs[0].name for n in model.graph if n.op_type == "QuantizeLinear"][2]
    check = same_integers(model, Shifted(name or "", steps), REFERENCE, DATA[:1])
    assert check.ok == ok
    assert ok or (name or "") in check.detail


def test_a_wrong_output_is_found() -> None:
    model = quantized(residual())
    assert not same_integers(model, Shifted(model.graph.outputs[0].name or "", 0.5), REFERENCE, DATA[:1]).ok


def dynamic() -> tuple[ir.Model, list[ir.Node]]:
    """Two products with grids taken as the model runs, and what takes them."""
    net = Net()
    x = net.input("x", ["n", 32])
    for index in range(2):
        x = net.op("MatMul", x, net.constant(net.rng.normal(size=(32, 32)).astype(np.float32)), name=f"p{index}")
    model = net.model(x)
    assert Quantize(activations="dynamic", keep="none").run(model, Context(executor=ORT)) == 2
    return model, [node for node in model.graph if node.op_type == "DynamicQuantizeLinear"]


ROWS: list[Any] = [{"x": np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)}]


@pytest.mark.parametrize(("output", "by"), [(0, -2), (1, 1e-2), (2, -2)])
def test_grids_taken_as_the_model_runs_are_compared_one_by_one(output: int, by: float) -> None:
    model, makers = dynamic()
    assert quantizes(model) and same_in_both(model, ORT, REFERENCE, ROWS, "").what == WHAT
    name = makers[1].outputs[output].name or ""
    check = same_integers(model, Shifted(name, by), REFERENCE, ROWS)
    assert not check.ok and name in check.detail
