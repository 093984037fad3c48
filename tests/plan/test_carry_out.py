"""A whole plan carried out: widths, forms and integers, on what the step before left."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir
from lwgraph.calibrate import Statistics
from lwgraph.calibrate.subsample import spread
from lwgraph.errors import UsageError
from lwgraph.plan.carry_out import Samples, affordable, carry_out, nodes_of
from lwgraph.plan.plan import Choice, Plan, Precision, Removed, Width
from lwgraph.rewrite.base import Context
from lwgraph.views.residual import find_residuals
from tests.layers.chain import FEEDS, ORT, chain

FORM = Choice("low-rank{rank=16,split=output}")


def context(model: ir.Model) -> Context:
    data = [{"x": FEEDS["x"][i : i + 1]} for i in range(len(FEEDS["x"]))]
    return Context(executor=ORT, reference=ORT, statistics=Statistics(ir.clone(model), data, ORT), data=data)


def done(plan: Plan) -> tuple[ir.Model, dict[str, Any]]:
    model = chain()
    made = carry_out(model, plan, context(model))
    return made.model, {record.site: record for record in made.records}


def integers(model: ir.Model) -> set[str]:
    """Names of the convolutions whose weight comes out of integers."""
    found = set()
    for node in model.graph:
        if node.op_type == "Conv":
            assert node.inputs[1] is not None
            producer = node.inputs[1].producer()
            if producer is not None and producer.op_type == "DequantizeLinear":
                found.add(str(node.name))
    return found


def test_forms_then_integers() -> None:
    model, records = done(Plan({"y": FORM}, precision=Precision(("quantize{calibration_method=minmax,keep=none}",))))
    assert records["y"].done and records["quantize{calibration_method=minmax,keep=none}"].done
    assert len(integers(model)) == 3  # layer a, and the two of the form
    y, truth = ORT.prepare(model)(FEEDS)["y"], ORT.prepare(chain())(FEEDS)["y"]
    assert np.square(y - truth).mean() / truth.var() < 0.5


def test_a_site_kept_in_float_is_kept_with_all_nodes_of_its_form() -> None:
    quantize = "quantize{calibration_method=minmax,keep=none}"
    model, _ = done(Plan({"y": FORM}, precision=Precision((quantize,), ("y",))))
    assert integers(model) == {"a"}


def test_channels_go_before_forms_are_fitted() -> None:
    plan = Plan({"y": FORM}, groups={"a": Width(16, 32)})
    model, records = done(plan)
    assert records["a"].done and records["a"].form == "16 channels" and records["y"].done
    assert ir.constant_shape(next(n for n in model.graph if n.name == "a").inputs[1])[0] == 16  # type: ignore[index]
    fewer = carry_out(chain(), Plan(groups=plan.groups), context(chain())).model
    truth = ORT.prepare(fewer)(FEEDS)["y"]
    y = ORT.prepare(model)(FEEDS)["y"]
    error = np.square(y - truth).mean() / truth.var(axis=(0, 2, 3)).mean()
    assert error == pytest.approx(records["y"].error, rel=0.1)


def test_the_same_plan_gives_the_same_bytes() -> None:
    plan = Plan({"y": FORM}, groups={"a": Width(16, 32)}, precision=Precision(("quantize{keep=none}",), ("a",)))
    assert len({ir.fingerprint(done(plan)[0]) for _ in range(2)}) == 1


def test_the_model_stays_as_it_is() -> None:
    model = chain()
    plan = Plan({"y": FORM}, groups={"a": Width(16, 32)}, precision=Precision(("quantize{keep=none}",)))
    given = context(model)
    statistics, before = given.statistics, ir.fingerprint(model)
    made = carry_out(model, plan, given, samples=Samples.in_earnest())
    assert ir.fingerprint(model) == before != ir.fingerprint(made.model) and given.statistics is statistics


def test_ranges_are_taken_from_as_many_samples_as_were_asked_for() -> None:
    plan = Plan(precision=Precision(("quantize{calibration_method=minmax,keep=none}",)))
    model = chain()
    given = context(model)
    few = carry_out(model, plan, given, samples=Samples(ranges=2)).model
    same = carry_out(model, plan, given.beside(data=spread(given.data or [], 2))).model
    assert ir.fingerprint(few) == ir.fingerprint(same) != ir.fingerprint(carry_out(model, plan, given).model)


def test_what_a_plan_keeps_in_float_is_no_refusal_and_what_a_form_refuses_is() -> None:
    model = chain()
    given = context(model)
    plan = Plan({"y": Choice("low-rank{rank=999}")}, precision=Precision(("quantize{keep=none}",), ("a",)))
    carry_out(model, plan, given)
    assert {skipped.pass_name for skipped in given.skipped} == {"low-rank"}


@pytest.mark.parametrize(("run_ms", "refit", "ranges"), [(None, 256, 128), (50.0, 200, 128), (1e4, 48, 48)])
def test_a_slow_network_is_run_on_fewer_samples(run_ms: float | None, refit: int, ranges: int) -> None:
    assert Samples.in_earnest(run_ms) == Samples(refit, ranges)


@pytest.mark.parametrize(
    ("seconds", "taken"),
    [(1e4, Samples(100, 120)), (250.0, Samples(50, 50, hasty=True)), (1.0, Samples(24, 24, hasty=True))],
)
def test_a_search_that_ends_soon_looks_at_fewer_samples(seconds: float, taken: Samples) -> None:
    assert Samples.in_earnest(100.0, seconds) == taken


@pytest.mark.parametrize(("run_ms", "samples"), [(None, 128), (1.0, 128), (100.0, 120), (1000.0, 48)])
def test_what_can_be_afforded_follows_from_the_time_of_one_run(run_ms: float | None, samples: int) -> None:
    assert affordable(128, 12.0, 48, run_ms) == samples


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(groups={"b": Width(1, 2)}), "names group 'b', which the model does not have"),
        (Plan(groups={"a": Width(1, 2)}), "group 'a' has 32 channels and 2 in the plan"),
        (Plan(blocks={"zz": Removed()}), "no residual block 'zz'"),
        (Plan(precision=Precision(("quantize",), ("yy",))), "keeps 'yy' in float, which the model does not have"),
        (Plan(precision=Precision(("infer-shapes",), ("y",))), "keeps 'y' in float, but infer-shapes cannot"),
    ],
)
def test_a_plan_of_another_model(plan: Plan, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        done(plan)
    assert "\n" not in str(caught.value)


def test_nodes_without_a_name_get_one() -> None:
    model = chain()
    for node in model.graph:
        node.name = None
    names = nodes_of(model, ["y"])
    assert len(names) == 1 and [n.name for n in model.graph].count(names[0]) == 1


def test_a_block_goes_first() -> None:
    random = np.random.default_rng(0)
    weights = {f"w{i}": (random.standard_normal((16, 16, 3, 3)) / 12).astype(np.float32) for i in range(4)}

    def conv(x: str, i: int, y: str) -> onnx.NodeProto:
        return helper.make_node("Conv", [x, f"w{i}"], [y], f"conv{i}", pads=[1, 1, 1, 1])

    nodes = [
        conv("x", 0, "a"), helper.make_node("Relu", ["a"], ["b"], "r0"), conv("b", 1, "c"),
        helper.make_node("Relu", ["c"], ["d"], "r1"), conv("d", 2, "e"),
        helper.make_node("Add", ["e", "b"], ["f"], "sum"),
        helper.make_node("Relu", ["f"], ["g"], "r2"), conv("g", 3, "y"),
    ]  # fmt: skip
    shape = [1, 16, 6, 6]
    face = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", face[:1], face[1:], stored)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = ir.load(proto)
    (block,) = find_residuals(model)[0]
    data = [{"x": random.standard_normal(shape).astype(np.float32)} for _ in range(8)]
    given = Context(executor=ORT, reference=ORT, statistics=Statistics(ir.clone(model), data, ORT), data=data)
    plan = Plan({"conv3": Choice("low-rank{rank=8,split=output}")}, blocks={block.name: Removed()})
    made = carry_out(model, plan, given)
    records = {record.site: record for record in made.records}
    assert records[block.name].done and records["conv3"].done and records["conv3"].measured
    names = {node.name for node in made.model.graph}
    assert not {"conv1", "conv2", "sum"} & names
    assert np.isfinite(ORT.prepare(made.model)(data[0])["y"]).all()
