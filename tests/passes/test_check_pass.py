"""The public kit over every registered exact and rounding pass, and over wrong passes, which it must catch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from lwgraph import ir, registry
from lwgraph.check import verify
from lwgraph.errors import CheckError, LwgraphError
from lwgraph.rewrite import Context, Contract, Pass, Pipeline
from lwgraph.rewrite.instruments import Verify
from lwgraph.testing import Sample, check_pass, graphs, random_model, samples
from tests.passes.golden import CASES
from tests.rewrite.rewrite_models import parse

NAMES = [n for n in registry.names("passes") if registry.pass_class(n).contract is not Contract.APPROXIMATE]
# What random models do not hold; golden cases trigger the first, tests beside this one (named after them) the others.
IN_GOLDEN_CASES = {"constant-inputs", "default-inputs", "inline-branches", "remove-dead-channels"}
IN_OWN_TESTS = {"early-pool", "early-stride", "fold-channel-order", "inline-functions"}
NEED_DATA = {"smooth-quant"}  # checked with data in tests/passes/quantize


@pytest.mark.parametrize("name", NAMES)
def test_registered_passes(name: str) -> None:
    rewrites = check_pass(registry.pass_class(name)())
    assert rewrites > 0 or name in IN_GOLDEN_CASES | IN_OWN_TESTS | NEED_DATA


@pytest.mark.parametrize("name", sorted({case.settings["pass"] for case in CASES}))
def test_on_its_goldens(name: str) -> None:
    models = [
        case.model for case in CASES if case.settings["pass"] == name and case.title != "twin: Dropout in training"
    ]  # gives random outputs
    assert check_pass(Pass.parse(name), models) > 0


def test_every_pass_is_triggered_somewhere() -> None:
    assert {case.settings["pass"] for case in CASES} >= IN_GOLDEN_CASES
    texts = [path.read_text("utf8") for path in Path(__file__).parent.rglob("test_*.py") if path != Path(__file__)]
    assert all(any(name in text for text in texts) for name in IN_OWN_TESTS)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(graphs())
def test_the_default_pipeline_on_random_models(model: ir.Model) -> None:
    verify(model)
    Pipeline.parse("default").run(model, Context(), [Verify()])


def test_random_models_are_reproducible_and_differ() -> None:
    assert ir.fingerprint(random_model(3)) == ir.fingerprint(random_model(3))
    assert len({ir.fingerprint(random_model(seed)) for seed in range(8)}) == 8


def test_random_models_hold_what_passes_look_for() -> None:
    seen = {node.op_type for sample in samples() for node in sample.model.graph}
    assert {"Conv", "BatchNormalization", "Pad", "Concat", "Slice", "Transpose", "Reshape", "Add", "Cast"} <= seen
    assert len({sample.model.opset_imports[""] for sample in samples()}) > 1
    assert any(len(v.uses()) > 1 for sample in samples() for v in sample.model.graph.initializers.values())


# Two convolutions that share a bias, a subtraction, and a graph input of its own.
BODY = """g (float[1,2,4,4] x, float[1,2,4,4] z) => (float[1,2,4,4] y, float[1,2,4,4] u)
  <float[2,2,1,1] v = {0}, float[2,2,1,1] w = {0}, float[2] b = {0}> {
  [one] s = Conv(x, v, b) [two] t = Conv(z, w, b) [three] d = Sub(s, t) [four] y = Relu(d) [five] u = Abs(t) }"""


@dataclass(frozen=True)
class Wrong(Pass):
    """A pass that does what it is told to, once."""

    name = "wrong"
    contract = Contract.ROUNDING
    what: str = "nothing"

    def run(self, model: ir.Model, context: Context) -> int:
        if "done" in model.metadata_props or len(model.graph.initializers) != 3:
            return 0
        model.metadata_props["done"] = "yes"
        found = globals()[self.what](model)
        return 1 if found is None else int(found)


def nothing(model: ir.Model) -> None:
    pass


def at(model: ir.Model, name: str) -> ir.Node:
    return next(node for node in model.graph if node.name == name)


def scaled(model: ir.Model) -> None:
    node = at(model, "one")
    weight = ir.constant(node.inputs[1])
    assert weight is not None
    node.replace_input_with(1, ir.add_initializer(model.graph, (weight * 1.001).astype(np.float32), "v"))
    model.graph.initializers.pop("v")


def swapped(model: ir.Model) -> None:
    node = at(model, "three")
    a, b = node.inputs
    node.replace_input_with(0, b)
    node.replace_input_with(1, a)


def sliced_shared_bias(model: ir.Model) -> None:
    """What pruners do: one output channel less, and the bias cut in place, which the other convolution shares."""
    node = at(model, "one")
    for value in node.inputs[1:]:
        array = ir.constant(value)
        assert value is not None and array is not None
        ir.set_constant(value, array[:1].copy())
    node.outputs[0].shape = None


def left_dangling(model: ir.Model) -> None:
    model.graph.remove(at(model, "four"), safe=False)


def removed_but_used(model: ir.Model) -> None:
    model.graph.remove(at(model, "one"), safe=False)


def renamed_output(model: ir.Model) -> None:
    model.graph.outputs[0].name = "other"


def changed_type(model: ir.Model) -> None:
    node = at(model, "four")
    cast = ir.make_node("Cast", [node.outputs[0]], {"to": int(ir.DataType.DOUBLE)})
    cast.name, cast.outputs[0].name = "cast", "y"
    cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(ir.DataType.DOUBLE), node.outputs[0].shape
    node.outputs[0].name = "y_before"
    model.graph.append(cast)
    model.graph.outputs[0] = cast.outputs[0]


def claims_nothing(model: ir.Model) -> int:
    at(model, "four").doc_string = "changed"
    return 0


def claims_a_change(model: ir.Model) -> None:
    del model.metadata_props["done"]


def writes_in_place(model: ir.Model) -> None:
    tensor = model.graph.initializers["w"].const_value
    array = np.asarray(tensor.raw) if hasattr(tensor, "raw") else tensor.numpy()  # type: ignore[union-attr]
    array.setflags(write=True)
    array *= np.float32(2)


def _short_bias() -> tuple[str, str]:
    """How a bias that is too short is caught: some releases of ONNX Runtime, such as 1.23, read beyond its end."""
    conv = "g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2,2,1,1] w = {0}, float[1] b = {0}> { y = Conv(x, w, b) }"
    try:
        registry.executor("ort").prepare(parse(conv))({"x": np.ones((1, 2, 4, 4), np.float32)})
    except LwgraphError:
        return "left a model that ort cannot run", "initializer 'b', which nodes 'one' and 'two' share"
    return "broke its contract", "differs by up to"


SHORT_BIAS = _short_bias()
_calls = itertools.count()


def differs_each_time(model: ir.Model) -> None:
    at(model, "four").doc_string = f"call {next(_calls)}"


def raises(model: ir.Model) -> None:
    raise IndexError("list index out of range")


@pytest.mark.parametrize(
    ("what", "check", "place"),
    [
        ("scaled", "broke its contract (equal over the reals; rounding may differ)", "'s'"),
        ("swapped", "broke its contract", "'d'"),
        ("sliced_shared_bias", *SHORT_BIAS),
        ("left_dangling", "left an invalid model", "'y'"),
        ("removed_but_used", "left an invalid model", "'s'"),
        ("renamed_output", "changed the interface of the model", "'other'"),
        ("changed_type", "changed the interface of the model", "'y'"),
        ("claims_nothing", "returned 0 but changed the model", "model 0"),
        ("claims_a_change", "returned 1 but changed nothing", "model 0"),
        ("differs_each_time", "is not deterministic", "model 0"),
        ("raises", "failed: IndexError: list index out of range", "model 0"),
    ],
)
def test_wrong_passes_are_caught(what: str, check: str, place: str) -> None:
    with pytest.raises(CheckError) as caught:
        check_pass(Wrong(what), [parse(BODY)])
    message = str(caught.value)
    assert message.startswith("pass 'wrong' ")
    assert check in message
    assert place in message
    assert "\n" not in message


def test_writing_into_shared_data_is_caught() -> None:
    model = parse(BODY)
    w = model.graph.initializers["w"]
    assert w.const_value is not None
    w.const_value = ir.Tensor(w.const_value.numpy().copy(), name="w")
    with pytest.raises(CheckError, match="pass 'wrong' wrote into data that other models share"):
        check_pass(Wrong("writes_in_place"), [model])


def test_a_harmless_pass_is_not_caught() -> None:
    assert check_pass(Wrong("nothing"), [parse(BODY)]) == 1


@dataclass(frozen=True)
class NeverDone(Pass):
    """Finds something to do each time."""

    name = "never-done"
    contract = Contract.EXACT

    def run(self, model: ir.Model, context: Context) -> int:
        node = at(model, "four")
        node.doc_string = (node.doc_string or "") + "again "
        return 1


@dataclass(frozen=True)
class Forgetful(Pass):
    """An option that text cannot hold."""

    name = "forgetful"
    contract = Contract.EXACT
    ratio: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", self.ratio / 2)

    def run(self, model: ir.Model, context: Context) -> int:
        return 0


def test_no_fixed_point_is_caught() -> None:
    with pytest.raises(CheckError, match="does not reach a fixed point"):
        check_pass(NeverDone(), [parse(BODY)])


def test_text_that_does_not_read_back_is_caught() -> None:
    with pytest.raises(CheckError, match="the text of pass 'forgetful' reads back as"):
        check_pass(Forgetful(ratio=0.25), [])


def test_a_sample_remembers_its_outputs() -> None:
    sample, runs = Sample(parse(BODY)), []

    class Counting:
        name = "counting"

        def prepare(self, model: ir.Model, outputs: Any = None) -> Callable[..., Any]:
            runs.append(model)
            return registry.executor("ort").prepare(model, outputs)

    assert sample.outputs(Counting()) is sample.outputs(Counting())
    assert len(runs) == 1
