"""Smaller images: which plans are looked at on them, and when that ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lwgraph
from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.failures import Failures
from lwgraph.optimizer import improve
from lwgraph.optimizer.candidates import Made
from lwgraph.optimizer.stages import resolution
from lwgraph.optimizer.stages.resolution import Resolution
from lwgraph.passes.prune.shrink_input import ShrinkInput
from lwgraph.plan.plan import Plan, Precision
from lwgraph.plan.search.front import Candidate
from lwgraph.rewrite import Context, Pass
from lwgraph.testing import check_role
from tests.passes.prune.pictures import classifier, fixed, image
from tests.passes.quantize.quantize_models import Net

INTEGERS = Plan(precision=Precision(("quantize",)))
EXACT = Candidate((), 4.0, 0.0, "quantized", plan=INTEGERS, judged=0.99, measured_ms=4.0, accepted=True, macs=100)
FAST = Candidate((1,), 3.0, 0.1, plan=Plan(), judged=0.91, measured_ms=3.0, accepted=True, macs=80)
CODED = Candidate((2,), 1.0, 0.1, plan=Plan(), judged=1.0, measured_ms=1.0, accepted=True, coded=True)


def pictures(size: int, count: int) -> list[dict[str, Array]]:
    """Ramps that differ in brightness, channel by channel."""
    rng = np.random.default_rng(0)
    light = 3 * rng.standard_normal((count, 1, 3, 1, 1)) + image(size, size, batch=1)["x"]
    return [{"x": each.astype(np.float32)} for each in light]


def looked_at(
    model: ir.Model, good: Callable[[float], bool], known: list[Candidate], **told: Any
) -> tuple[list[Candidate], Context]:
    """The candidates that the stage looks at, of a network where the plans `known` are good."""
    looked: list[Candidate] = []

    def look(candidate: Candidate) -> bool:
        looked.append(candidate)
        assert candidate.plan is not None
        shrink = Pass.parse(candidate.plan.precision.passes[0])
        assert isinstance(shrink, ShrinkInput)
        return good(shrink.scale)

    base = Candidate((), 10.0, 0.0, "cleaned", plan=Plan(), judged=1.0, macs=100, stated=True)
    candidates = SimpleNamespace(
        look=look, base=base, floor=0.9, known=lambda each: each, meets=lambda each: True,
        amount=lambda candidate: candidate.predicted_ms,
        good=lambda: [Made(each, None) for each in known], all=lambda: [Made(each, None) for each in known],
        incumbent=SimpleNamespace(candidate=min(known, key=lambda c: c.predicted_ms, default=None)),
    )  # fmt: skip
    ort = registry.executor("ort")
    given = model.graph.inputs[0].shape
    assert given is not None and isinstance(given[2], int)
    context = Context(executor=ort, data=pictures(given[2], 4), failures=Failures())
    work = SimpleNamespace(
        candidates=SimpleNamespace(**(vars(candidates) | told)), context=context, clean=model, executor=ort,
        float_ms=1.0, samples=lambda milliseconds: context.data,
    )  # fmt: skip
    Resolution().run(work)  # type: ignore[arg-type]
    return looked, context


def scales(looked: list[Candidate]) -> list[str]:
    assert all(each.plan is not None and each.stated for each in looked)
    return [each.plan.precision.passes[0] for each in looked if each.plan is not None]


def test_from_the_gentlest_on_until_the_promise_breaks() -> None:
    looked, _ = looked_at(classifier(), lambda scale: scale > 0.7, [FAST, EXACT])
    assert scales(looked) == ["shrink-input{scale=0.875}", "shrink-input", "shrink-input{scale=0.625}"]
    assert [each.predicted_ms for each in looked] == pytest.approx([2.297, 2.25, 1.5625], abs=1e-3)


def test_of_plans_that_would_be_better_the_one_that_loses_least_gets_it() -> None:
    looked, _ = looked_at(
        classifier(), lambda scale: scale > 0.7, [FAST, EXACT, CODED], incumbent=SimpleNamespace(candidate=FAST)
    )
    first, second, _ = looked
    assert first.plan is not None and first.plan.precision.passes == ("shrink-input{scale=0.875}",)
    assert second.plan is not None and second.plan.precision.passes == ("shrink-input", "quantize")
    assert second.macs == round(0.75**2 * 100) and second.measured_ms is None and second.judged is None


def test_a_network_that_cannot_is_not_looked_at_and_the_reason_is_told() -> None:
    looked, context = looked_at(fixed(), lambda scale: True, [])
    assert not looked and "does not fit" in context.skipped[0].reason


def test_what_loses_far_too_much_in_floats_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolution, "HOPELESS", 0.0)
    assert not looked_at(classifier(), lambda scale: True, [])[0]


def test_where_accuracy_is_not_promised_it_ends_with_the_first_that_keeps_the_limits() -> None:
    met = {"meets": lambda each: each.predicted_ms < 6, "floor": None}
    looked, _ = looked_at(classifier(), lambda scale: True, [], **met)
    assert len(looked) == 2


@pytest.mark.parametrize(
    ("objective", "floor", "reason"),
    [("bytes", 0.9, "no fewer bytes"), ("latency", None, "the limits are kept"), ("latency", 0.9, "")],
)
def test_idle(objective: str, floor: float | None, reason: str) -> None:
    made: list[Made] = []
    candidates = SimpleNamespace(
        floor=floor, meets=lambda each: True, base=EXACT, incumbent=SimpleNamespace(candidate=None), all=lambda: made
    )
    work: Any = SimpleNamespace(request=SimpleNamespace(objective=objective), candidates=candidates)
    assert reason in Resolution().idle(work) and bool(reason) == bool(Resolution().idle(work))
    made.append(Made(replace(EXACT, origin="resolution", accepted=False), None))
    assert Resolution("again").idle(work) if reason else "lose too much" in Resolution("again").idle(work)
    made.append(Made(replace(EXACT, origin="resolution", accepted=True), None))
    assert bool(reason) == bool(Resolution("again").idle(work))


def test_what_was_found_on_smaller_images_is_not_shrunk_again() -> None:
    """Only scales at which a plan of whole images would be better than it are looked at."""
    found = replace(EXACT, origin="resolution", predicted_ms=2.0, plan=Plan(precision=Precision(("shrink-input",))))
    looked, _ = looked_at(classifier(), lambda scale: True, [found, EXACT])
    assert scales(looked) == ["shrink-input{scale=0.625}", "shrink-input{scale=0.5}"]
    assert all(each.plan is not None and len(each.plan.precision.passes) == 2 for each in looked)


def test_the_role() -> None:
    check_role("shrinks-inputs")


def test_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that averages over the whole image can do with a smaller one; the result takes the same input."""
    monkeypatch.setattr(improve, "STAGES", (Resolution(),))
    n = Net(17)
    h = n.op("Relu", n.conv(n.input("x", ["batch", 3, 16, 16]), 3, 64, name="conv"))
    h = n.op("GlobalAveragePool", n.op("Relu", n.conv(h, 64, 64, name="wide")))
    model = n.model(n.gemm(n.op("Flatten", h), 64, 5, name="head"))
    result = lwgraph.optimize(model, data=pictures(16, 24), target="macs", metric="variance", max_drop=0.2)
    assert "shrink-input" in str(result.plan)
    given = result.model.graph.inputs[0].shape
    assert given is not None and list(given)[1:] == [3, 16, 16]
