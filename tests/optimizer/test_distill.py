"""optimize --distill: what it refuses before any work, which plans it tries, and a whole run."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.errors import LwgraphError, UsageError
from lwgraph.failures import Failures
from lwgraph.optimizer import Request, distill, optimize
from lwgraph.optimizer.distill import TrainedPlan, best_of, probe, worth_trying
from lwgraph.optimizer.inputs import FIT_SAMPLES, gather
from lwgraph.plan.plan import Choice, Plan
from lwgraph.plan.search.front import Candidate
from lwgraph.rewrite import Context, Pass
from tests.passes.recover.nets import convnet, inputs


def test_without_torch_it_says_how_to_install_it_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match=r"pip install 'lwgraph\[torch\]'"):
        optimize("absent.onnx", data="absent", distill=True)  # would not be found


def candidate(number: int, ms: float, loss: float) -> Candidate:
    return Candidate((number,), ms, loss, loss=loss)


LADDER = [candidate(i, ms, loss) for i, (ms, loss) in enumerate([(1, 9), (2, 5), (3, 2.5), (4, 2), (5, 1), (6, 0.5)])]


def test_smaller_plans_that_lose_what_training_may_bring_back_are_tried() -> None:
    tried = worth_trying(LADDER, LADDER[4], Request(), 10.0, 0.9)
    assert tried == [LADDER[2], LADDER[3], LADDER[4]]  # 9 and 5 are over three times 1
    assert worth_trying(LADDER, None, Request(), 10.0, 0.9) == LADDER[-3:]  # nothing keeps the promise untrained


def test_where_speed_was_promised_only_plans_that_keep_it_are_tried() -> None:
    assert worth_trying(LADDER, None, Request(speedup=5.0), 10.0, None) == LADDER[:2]  # at most 2 ms


def test_the_fastest_that_keeps_the_promise_is_trained_in_earnest() -> None:
    slow, fast, bad = (TrainedPlan(Plan(), score, ms) for score, ms in ((0.95, 3.0), (0.92, 2.0), (0.80, 1.0)))
    assert best_of([slow, fast, bad], 0.9) is fast
    assert best_of([slow, fast, bad], 0.99) is slow  # the nearest
    assert best_of([fast, slow], None) is slow
    assert best_of([], 0.9) is None


def test_a_plan_that_cannot_be_trained_is_left_out() -> None:
    def short(plan: Plan) -> ir.Model:
        if plan.target == "bad":
            raise LwgraphError("no")
        return convnet()

    context = Context(failures=Failures())
    found = probe([Plan(target="bad"), Plan(target="good")], short, lambda m: 1.0, lambda m: 2.0, context)
    assert [p.plan.target for p in found] == ["good"] and [(row.step, row.reason) for row in context.failures.rows] == [
        ("training: a plan", "no")
    ]


def test_all_data_are_for_training_and_none_of_the_judged() -> None:
    x = np.random.default_rng(0).standard_normal((2 * FIT_SAMPLES, 3, 8, 8)).astype(np.float32)
    executor = registry.executor("ort")
    found = gather(convnet(), Request(data={"x": x}, distill=True, augment="flip"), executor)
    assert found.training is not None and found.judge is not None and found.training.augment == ("flip",)
    assert found.training.count > FIT_SAMPLES >= len(found.fit)

    def rows(feeds: Any) -> set[bytes]:
        return {row.tobytes() for feed in feeds for row in feed["x"]}

    assert rows(found.fit) <= rows(found.training)
    assert not rows(found.training) & (rows(found.judge) | rows(found.search))
    assert gather(convnet(), Request(data={"x": x}), executor).training is None


torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": None}, "give data="),
        ({"pipeline": "clean"}, "add distill"),
        ({"preset": "lossless"}, "lossless"),
        ({"budget": "0s"}, "over 0"),
        ({"budget": "soon"}, "budget is .soon.; allowed"),
        ({"augment": "flop"}, "did you mean 'flip'"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    given = {"data": inputs(16), **options}
    with pytest.raises(UsageError, match=message):
        optimize(ir.to_proto(convnet()), distill=True, **given)


def test_a_stated_plan_is_carried_out_and_trained(tmp_path: Path) -> None:
    teacher, feeds = convnet(), inputs(128)
    plan = Plan({"conv1": Choice("low-rank{rank=2}"), "conv2": Choice("low-rank{rank=2}")})
    found = [
        optimize(ir.to_proto(teacher), data=feeds, plan=plan, max_drop=1e9, **more)
        for more in ({}, {"distill": True, "budget": "3s"})
    ]
    runs = [registry.executor("ort").prepare(m) for m in (teacher, *(r.model for r in found))]
    wanted, plain, trained = (np.concatenate([next(iter(run(f).values())) for f in inputs(64, seed=9)]) for run in runs)
    assert ((trained - wanted) ** 2).mean() < 0.7 * ((plain - wanted) ** 2).mean()
    assert any("trained on" in note for note in found[1].report.notes)
    assert any(note.startswith("distill: ") for note in found[1].report.notes)
    assert set(found[1].plan.sites) == set(plan.sites)


def test_the_pipeline_knows_the_original() -> None:
    teacher, feeds = convnet(), inputs(64)
    result = optimize(ir.to_proto(teacher), data=feeds, pipeline="depthwise{terms=1},align-blocks", max_drop=1e9)
    assert [p.rewrites > 0 for p in result.report.passes] == [True, True]


def test_recover_needs_data() -> None:
    with pytest.raises(UsageError, match="give --data"):
        distill.recover(convnet(), Plan(), Context(), 1.0)


def test_integers_are_trained_as_integers() -> None:
    from lwgraph.plan.plan import Precision

    teacher, feeds = convnet(), inputs(64)
    context = Context(executor=registry.executor("ort"), reference=registry.executor("reference"), data=feeds)
    found = distill.recover(teacher, Plan(precision=Precision(("quantize{keep=none}",))), context, 2.0)
    assert any(node.op_type == "QuantizeLinear" for node in found.model.graph)
    assert [gain.pass_name for gain in found.gains].count("distill") >= 1
    assert context.teacher is None and Pass.parse("distill").name == "distill"


def test_the_result_is_never_slower_than_the_plan_that_needs_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(plans: Any, short: Any, value: Any, milliseconds: Any, context: Context) -> list[TrainedPlan]:
        return [TrainedPlan(plan, 1e9, 1e9) for plan in plans]

    def recover(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a slower plan is trained")

    monkeypatch.setattr(distill, "probe", slow)
    monkeypatch.setattr(distill, "recover", recover)
    monkeypatch.setattr(Request, "training", 1.0)
    teacher = convnet()
    found = optimize(ir.to_proto(teacher), data=inputs(128), max_drop=0.5, target="macs", distill=True)
    assert not found.plan.empty and found.report.score is not None
    assert any("untrained, which scored" in note for note in found.report.notes)
    assert any(note.startswith("distill: ") for note in found.report.notes)
