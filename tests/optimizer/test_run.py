"""What optimize promises beyond the command line: never larger, lean where it must be, goals, disjoint data."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import lwgraph
from lwgraph import ir, registry
from lwgraph.errors import UsageError
from lwgraph.optimizer import Request, deliver, run
from lwgraph.optimizer.annotations import drop_annotations, same_graph
from lwgraph.optimizer.inputs import gather
from lwgraph.optimizer.prove import same_outputs, sound
from lwgraph.optimizer.report_rows import idle
from lwgraph.optimizer.setting import open_run
from lwgraph.optimizer.steps import Steps
from lwgraph.plan.plan import Plan
from lwgraph.report.record import PassRun
from lwgraph.rewrite import Contract
from lwgraph.rewrite.base import Context, Skipped
from tests.optimizer.planting import network, stand_ins
from tests.optimizer.tiny import tiny


def test_max_drop_needs_something_to_measure() -> None:
    with pytest.raises(UsageError, match="max_drop= needs"):
        lwgraph.optimize(tiny(), max_drop=0.01)


def test_annotations_go_before_the_gain_does() -> None:
    before = ir.load(tiny())
    after = ir.clone(before)
    for node in after.graph:
        node.metadata_props["lwgraph.pass"] = "x" * 50
    drop_annotations(after, before)
    assert all(not node.metadata_props for node in after.graph)
    assert ir.size(after) <= ir.size(before)


def test_result_is_never_larger_and_nothing_is_lost_to_what_it_says_about_itself() -> None:
    result = lwgraph.optimize(tiny())
    assert ir.size(result.model) <= ir.size(ir.load(tiny()))
    assert [node.op_type for node in result.model.graph] == ["Mul"]


def test_where_nothing_helps_the_input_is_copied_byte_for_byte(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph([node], "relu", value[:1], value[1:], doc_string="kept")
    path = tmp_path / "relu.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    result = lwgraph.optimize(path)
    result.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == path.read_bytes()
    assert any("nothing helped" in note for note in result.report.notes)


def test_without_time_no_default_pass_is_begun() -> None:
    late: Any = SimpleNamespace(
        clock=SimpleNamespace(left=0.0), original=ir.load(tiny()), context=Context(), inputs=None, failures=None
    )
    cleaned = run._clean(late, None)
    assert cleaned.exact and not cleaned.steps and same_graph(late.original, cleaned.model)


def test_without_time_an_input_that_stays_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of a large model took longer than the budget may be overrun."""
    monkeypatch.setattr(deliver, "time_models", lambda *args, **more: pytest.fail("it was timed"))
    model = ir.load(tiny())
    late: Any = SimpleNamespace(
        clock=SimpleNamespace(left=0.0), request=None, inputs=SimpleNamespace(probe=[]), bytes=ir.size(model)
    )
    found = deliver._measured(late, {"input": model}, Plan(), False)
    assert [(stage.name, stage.ratio) for stage in found.stages] == [("input", None)]


def test_a_network_without_layers_has_no_plan_even_with_data() -> None:
    samples = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    result = lwgraph.optimize(tiny(), data={"x": samples}, budget="200s")
    assert result.plan.empty and result.verdict == "kept" and len(result.report.details["front"]) == 1


def test_what_was_asked_for_and_changed_nothing_leaves_outputs_exact() -> None:
    samples = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    result = lwgraph.optimize(tiny(), pipeline="default,quantize", data={"x": samples})
    assert result.verdict == "kept" and [node.op_type for node in result.model.graph] == ["Mul"]


def test_fitting_and_judging_never_share_a_sample() -> None:
    samples = np.arange(40 * 4, dtype=np.float32).reshape(40, 4)
    model = ir.load(tiny())
    inputs = gather(model, Request(data={"x": samples}), registry.executor("ort"))
    assert inputs.judge is not None
    fit = {float(v) for feed in inputs.fit for v in np.asarray(feed["x"])[:, 0]}
    judged = {float(v) for feed in inputs.judge for v in np.asarray(feed["x"])[:, 0]}
    searched = {float(v) for feed in inputs.search for v in np.asarray(feed["x"])[:, 0]}
    assert fit and judged and searched and not fit & judged and not fit & searched and not searched & judged
    assert len(fit) + len(searched) + len(judged) == 40


@pytest.mark.parametrize("judged", [False, True], ids=["no data", "evaluation data only"])
def test_nothing_is_fitted_to_inputs_that_are_not_for_fitting(judged: bool) -> None:
    data = [{"x": np.full((2, 4), i, np.float32)} for i in range(4)] if judged else None
    with pytest.raises(UsageError, match=r"'quantize' needs calibration samples.*data="):
        lwgraph.optimize(tiny(), pipeline="quantize", eval_data=data)


def test_a_pass_that_was_asked_for_and_does_nothing_says_why() -> None:
    data = [{"x": np.full((2, 4), i, np.float32)} for i in range(4)]
    notes = lwgraph.optimize(tiny(), pipeline="clean,quantize", data=data).report.notes
    assert [note for note in notes if "changed nothing" in note] == [
        "quantize changed nothing: it has no layer that ort-cpu computes in integers"
    ]
    refused = [Skipped("low-rank", place, reason) for place, reason in (("a", "few"), ("b", "many"), ("c", "many"))]
    ran = [PassRun("low-rank{rank=2}", "approximate", 0, 0.1), PassRun("cp", "approximate", 1, 0.1)]
    assert idle(ran, refused) == ["low-rank changed nothing: many (2 of 3 places; --explain names each)"]


def test_a_wrong_result_is_caught_by_the_proof() -> None:
    model = ir.load(tiny())
    wrong = ir.clone(model)
    ir.set_constant(wrong.graph.initializers["b"], np.array([3.01], np.float32))
    feeds = [{"x": np.ones((2, 4), np.float32)}]
    check = same_outputs(model, wrong, registry.executor("ort"), feeds, Contract.ROUNDING, "outputs")
    assert not check.ok and "'y'" in check.detail


def test_a_changed_face_is_caught_by_the_proof() -> None:
    model = ir.load(tiny())
    other = ir.clone(model)
    other.graph.outputs[0].name = "z"
    check = sound(other, model)
    assert not check.ok and "output" in check.detail


def test_an_operator_that_only_the_target_knows_is_left_and_told() -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["i"]),
        helper.make_node("Inverse", ["i"], ["y"], domain="com.microsoft"),
    ]
    face = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4]) for name in "xy"]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph(nodes, "g", face[:1], face[1:]), opset_imports=opsets, ir_version=8)
    result = lwgraph.optimize(model)
    assert [node.op_type for node in result.model.graph] == ["Inverse"]
    assert any("no second executor" in note and "Inverse" in note for note in result.report.notes)
    assert {check.executor for check in result.report.checks} == {"structural verifier", "ort"}


def few(count: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal((count, 3, 6, 6)).astype(np.float32)}


@pytest.mark.parametrize("why", ["all of them are of one class", "at least 8 are needed"])
def test_on_samples_that_judge_nothing_nothing_approximate_is_tried(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins(monkeypatch, tmp_path)
    alike = {"x": few(1)["x"] + np.float32(0.01) * few(48)["x"]}
    given = few(12) if "least" in why else alike
    result = lwgraph.optimize(network(), data=given, metric="agreement", max_drop=0.01)
    assert any("no approximation was tried: the " in note and why in note for note in result.report.notes)
    assert result.plan.empty and result.status == 0 and result.report.score is not None
    assert result.report.score.verdict == "kept" and not result.report.runs  # no stage


def test_a_speed_that_is_asked_for_alone_is_sought_whatever_the_samples() -> None:
    def why(**asked: float) -> str:
        request = Request(data=few(12), metric="agreement", **asked)  # type: ignore[arg-type]
        return open_run(network(), request, Steps(), None).judges_nothing

    assert why(speedup=2.0) == "" and "at least 8 are needed" in why(speedup=2.0, max_drop=0.01) and why()
