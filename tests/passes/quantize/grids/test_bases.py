"""What variants of one network are quantized from is found out once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lwgraph import ir
from lwgraph.calibrate.capture import main_values
from lwgraph.calibrate.known_ranges import KnownRanges
from lwgraph.calibrate.ranges import collect
from lwgraph.passes.quantize import quantize as module
from lwgraph.passes.quantize.grids import observer
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.passes.quantize.role import PlanQuantizer
from lwgraph.rewrite import Context
from lwgraph.runtime.ort import OrtExecutor
from tests.passes.quantize.quantize_models import Net, images

ALL = Quantize(keep="none", rounding="nearest")


def network() -> ir.Model:
    """Convolutions with a Relu, before which channels are unevenly loud, and with activations that are taken apart."""
    n = Net()
    x = n.conv(n.input("x", ["n", 3, 16, 16]), 3, 8, name="first")
    n.constants["c0"][:4] *= 30
    x = n.op("HardSwish", n.conv(n.op("Relu", x, name="relu"), 8, 8, name="second"), name="act0")
    x = n.op("HardSwish", n.conv(x, 8, 8, name="third"), name="act1")
    return n.model(n.conv(x, 8, 4, name="last"))


def add_to_last(model: ir.Model) -> None:
    """Another weight for the last layer."""
    node = next(node for node in model.graph if node.name == "last")
    weight = ir.constant(node.inputs[1])
    assert weight is not None
    node.replace_input_with(1, ir.add_initializer(model.graph, weight + 1, "another"))


def context(count: int = 20) -> Context:
    return Context(executor=OrtExecutor(), data=list(images(count)))


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples each observation looks at."""
    found: list[int] = []

    def watching(model: ir.Model, data: Any, *words: Any, **options: Any) -> Any:
        found.append(len(data))
        return collect(model, data, *words, **options)

    monkeypatch.setattr(observer, "collect", watching)
    return found


def quantized(p: Quantize, there: Context) -> str:
    model = network()
    assert p.run(model, there) > 0
    return ir.fingerprint(model)


def test_other_mixes_and_ranges_of_a_network_are_observed_no_more(observed: list[int]) -> None:
    there = context()
    quantized(ALL, there)
    assert observed == [15, 15, 5]  # the network, with even channels, and the one that is taken on the rest
    mix = Quantize(keep="none", rounding="nearest", nodes_to_exclude=("second", "act1"))
    plain = Quantize(keep="none", rounding="nearest", calibration_method="minmax", equalize=False)
    found = [quantized(p, there) for p in (mix, plain)]
    assert set(observed[3:]) <= {5}  # the rest, where another of the two is taken
    PlanQuantizer().survey(network(), there)
    assert set(observed[3:]) <= {5}
    assert found == [quantized(p, context()) for p in (mix, plain)]  # as nobody had looked at anything before


def test_other_data_and_networks_are_observed(observed: list[int]) -> None:
    there = context()
    quantized(ALL, there)
    observed.clear()
    quantized(ALL, there.beside(data=[{"x": 2 * feed["x"]} for feed in images(20)]))
    assert observed == [15, 15, 5]
    other = network()
    add_to_last(other)
    ALL.run(other, there)
    assert observed[3:5] == [15, 15]


def test_what_is_too_large_for_the_memory_is_not_remembered(observed: list[int]) -> None:
    there = context().beside(memory_bytes=8 * ir.size(network()) - 8)
    for _ in range(2):
        quantized(ALL, there)
    assert observed == [15, 15, 5] * 2


def test_the_choice_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    there, compared = context(), list[int]()

    real = module.Distance

    def counting(*words: Any) -> Any:
        compared.append(1)
        return real(*words)

    monkeypatch.setattr(module, "Distance", counting)
    assert quantized(ALL, there) == quantized(ALL, there) and len(compared) == 1


def test_trials_learn_what_was_observed_before_they_began(observed: list[int]) -> None:
    """Of each way to take ranges; what stands in their own models is the same as if they had observed it."""
    there, model = context(), network()
    quantized(ALL, there)
    observed.clear()
    for ranges in ("minmax", "mse"):
        p = replace(ALL, calibration_method=ranges, equalize=False)
        learning = [KnownRanges(frozenset(main_values(model))) for _ in range(2)]
        with_both, alone = (c.beside(ranges=k) for c, k in zip((there, context()), learning, strict=True))
        before = len(observed)
        assert quantized(p, with_both) == quantized(p, there) and len(observed) == before
        assert quantized(p, alone) == quantized(p, with_both) and observed[before:] == [20]
